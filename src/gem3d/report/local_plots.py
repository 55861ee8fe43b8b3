"""How local resolution is distributed, and the colours it has on every picture."""

from __future__ import annotations

import math

import numpy as np

from gem3d.assess.local_resolution import LocalResolution
from gem3d.assess.shells import FloatVolume
from gem3d.report.parts import Plot
from gem3d.report.style import BLUE, INK, SEQUENCE, SHADE, colour_scale, new_figure
from gem3d.report.surface import INSIDE

RANGE_QUANTILES = (0.02, 0.98)
LEAST_RANGE_A = 0.4
BINS = 45


def colour_range_A(local: LocalResolution, mask: FloatVolume) -> tuple[float, float]:
    """Range of the colours, in report and ChimeraX alike: quantiles inside the mask, to a tenth of an A."""
    low, high = np.quantile(local.values_A[mask > INSIDE], RANGE_QUANTILES)
    low_A, high_A = math.floor(10 * low) / 10, math.ceil(10 * high) / 10
    missing = max(LEAST_RANGE_A - (high_A - low_A), 0)
    return round(low_A - missing / 2, 2), round(high_A + missing / 2, 2)


def local_plot(
    local: LocalResolution, mask: FloatVolume, range_A: tuple[float, float], overall_A: float | None
) -> Plot:
    """Histogram over the voxels inside the mask, in the colours of the surface."""
    inside = local.values_A[mask > INSIDE]
    lowest, highest = float(inside.min()), float(inside.max())
    missing_A = max(LEAST_RANGE_A - (highest - lowest), 0)  # where all voxels are alike
    counts, edges = np.histogram(inside, BINS, (lowest - missing_A / 2, highest + missing_A / 2))
    middles = (edges[1:] + edges[:-1]) / 2
    figure = new_figure(bargap=0.02)
    low, high = local.quartiles_A
    figure.add_vrect(x0=low, x1=high, fillcolor=SHADE, line_width=0, layer="below")
    figure.add_bar(
        x=middles,
        y=100 * counts / max(counts.sum(), 1),
        marker={
            "color": middles,
            "colorscale": colour_scale(SEQUENCE),
            "cmin": range_A[0],
            "cmax": range_A[1],
            "line_width": 0,
        },
        hovertemplate="%{x:.2f} Å: %{y:.1f} % of the voxels<extra></extra>",
    )
    lines = [(local.median_A, "median", INK, "solid", 1.0), (local.mean_A, "mean", INK, "dot", 0.9)]
    if overall_A is not None:
        lines.append((overall_A, "whole map", BLUE, "dash", 0.8))
    for value, name, colour, dash, height in lines:
        figure.add_vline(x=value, line={"color": colour, "width": 1.6, "dash": dash})
        # Towards the middle, where there is room.
        left = value > (edges[0] + edges[-1]) / 2
        figure.add_annotation(
            x=value, y=height, yref="paper", yanchor="top", showarrow=False,
            xanchor="right" if left else "left", xshift=-3 if left else 3,
            text=f"{name} {value:.2f} Å", font={"color": colour, "size": 12}, bgcolor="rgba(255,255,255,0.75)",
        )  # fmt: skip
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="local resolution (Å)")
    figure.update_yaxes(title_text="voxels inside the mask (%)")
    return Plot("local", figure, 380, 440)

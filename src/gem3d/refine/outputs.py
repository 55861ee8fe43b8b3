"""What a refinement leaves behind: the refined STAR file, a table of its rounds, and histograms of its particles."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d import run_directory
from gem3d.atomic import replacing
from gem3d.particles import Particles, angles_between_deg, write_relion_star
from gem3d.refine.result import Refinement

# Of values beyond this share at each end, one bin of the histograms holds all.
TAIL_SHARE = 0.002
BINS = 60
ROUND_COLUMNS = (
    "round",
    "resolution_A",
    "fsc_sum",
    "last_shell",
    "angle_change_deg",
    "shift_change_A",
    "sigma_angle_deg_half1",
    "sigma_angle_deg_half2",
    "sigma_shift_A_half1",
    "sigma_shift_A_half2",
    "sigma_defocus_A_half1",
    "sigma_defocus_A_half2",
    "sigma_contrast_half1",
    "sigma_contrast_half2",
    "gain",
    "comparisons",
    "seconds",
)


def write_refinement(out: Path, refinement: Refinement, given: Particles, halves: NDArray[np.int8]) -> None:
    """Write all three files.

    Parameters
    ----------
    given: the particles before, whose file's columns are kept where it is a STAR file.
    halves: the half set that each particle was refined in; from here on it must stay there.
    """
    width = refinement.width
    own = {
        "gem3dLogLikelihoodGain": refinement.gain,
        "gem3dAngleWidth": width[:, 0],
        "gem3dShiftWidthAngst": width[:, 1],
        "gem3dDefocusWidth": width[:, 2],
        "gem3dContrastWidth": width[:, 3],
    }
    particles = replace(refinement.particles, half_set=halves)
    with replacing(out / run_directory.REFINED_STAR) as temporary:
        rounded = {name: np.round(values, 5) for name, values in own.items()}
        write_relion_star(particles, temporary, template=given.template, own_columns=rounded)
    run_directory.write_csv(out / run_directory.REFINEMENT_ROUNDS, ROUND_COLUMNS, round_rows(refinement))
    run_directory.write_text(out / run_directory.REFINEMENT_PAGE, histogram_page(refinement, given, halves))


def round_rows(refinement: Refinement) -> list[dict[str, Any]]:
    """Rows of the table of rounds, keys in the order of `ROUND_COLUMNS`."""
    rows = []
    for report in refinement.rounds:
        values = asdict(report)
        widths = zip(*values.pop("widths"), strict=True)
        names = ("sigma_angle_deg", "sigma_shift_A", "sigma_defocus_A", "sigma_contrast")
        for name, pair in zip(names, widths, strict=True):
            values |= {f"{name}_half{half}": value for half, value in enumerate(pair, start=1)}
        rows.append({name: values[name] for name in ROUND_COLUMNS})
    return rows


def changes(refinement: Refinement, given: Particles) -> dict[str, NDArray[np.float64]]:
    """What has become of each particle, `(n,)` each, by a title with its unit."""
    now = refinement.particles
    return {
        "orientation changed by (degrees)": angles_between_deg(now.rotations, given.rotations),
        "shift changed by (A)": np.linalg.norm(now.shifts_A - given.shifts_A, axis=1),
        "defocus changed by (A)": (now.defocus_A - given.defocus_A).mean(axis=1),
        "contrast": now.contrast,
        "log likelihood gained": refinement.gain,
        "orientation known to (degrees, all axes)": refinement.width[:, 0],
    }


def histogram_page(refinement: Refinement, given: Particles, halves: NDArray[np.int8]) -> str:
    """One self-contained HTML page of histograms, one colour a half."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = changes(refinement, given)
    figure = make_subplots(rows=2, cols=3, subplot_titles=list(panels), vertical_spacing=0.16)
    for place, values in enumerate(panels.values()):
        low, high = np.quantile(values, (TAIL_SHARE, 1 - TAIL_SHARE))
        edges = np.linspace(low, high if high > low else low + 1e-6, BINS + 1)
        for half, colour in ((1, "#3b6fb6"), (2, "#d97a2b")):
            counts, _ = np.histogram(np.clip(values[halves == half], edges[0], edges[-1]), edges)
            bars = go.Bar(
                x=(edges[1:] + edges[:-1]) / 2,
                y=counts,
                width=edges[1] - edges[0],
                name=f"half {half}",
                marker_color=colour,
                opacity=0.6,
                legendgroup=str(half),
                showlegend=place == 0,
            )
            figure.add_trace(bars, row=place // 3 + 1, col=place % 3 + 1)
    title = f"Refinement of {len(halves)} particles: {refinement.ended}"
    figure.update_layout(
        template="plotly_white", barmode="overlay", bargap=0, title=title, height=720, yaxis_title="particles"
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page

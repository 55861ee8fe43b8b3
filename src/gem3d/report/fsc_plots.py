"""The FSC curves of a reconstruction, and those within cones."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from gem3d.assess import FSC_THRESHOLD
from gem3d.assess.claim import INTERVAL_SIGMAS
from gem3d.assess.reference import REFERENCE_THRESHOLD
from gem3d.assess.shells import Curve
from gem3d.assessment import Assessment
from gem3d.report.parts import Plot
from gem3d.report.style import (
    BAND,
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    float32,
    frequencies,
    new_figure,
    plain,
    resolution_axis,
)

FSC_RANGE = [-0.08, 1.04]


def fsc_plot(a: Assessment) -> Plot:
    """The curve of the claim with its 90 % band, up to its validity, over the ordinary curves."""
    figure = new_figure(hovermode="x unified")
    n = max(len(a.half.masked), len(a.calibrated.smoothed))
    x = frequencies(n, a.pixel_size_A, a.box_size_px)
    curves: list[tuple[str, Curve, str, str, float, bool]] = [
        ("masked", a.half.masked, GREY, "solid", 1.5, True),
        ("corrected", a.half.corrected, ORANGE, "solid", 1.5, True),
        ("unmasked", a.half.unmasked, PALE, "dash", 1.5, True),
        ("random phases", a.half.randomised, PURPLE, "dot", 1.2, False),
    ]
    if a.linear is not None:
        curves.append(("linear half maps, masked", a.linear.masked, GREEN, "solid", 1.5, True))
    if a.reference is not None:
        name = f"against {plain(a.reference.name)}"
        curves.append((name, a.reference.fsc_masked, VERMILION, "dash", 1.7, True))
    for name, curve, colour, dash, width, visible in curves:
        figure.add_scatter(
            x=x[1 : len(curve)],
            y=float32(curve[1:]),
            name=name,
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            hovertemplate="%{y:.3f}",
            visible=True if visible else "legendonly",
        )
    _add_claimed_curve(figure, a, x)
    _threshold(figure, FSC_THRESHOLD, f"{FSC_THRESHOLD:g}")
    if a.reference is not None:
        _threshold(figure, REFERENCE_THRESHOLD, f"{REFERENCE_THRESHOLD:g}")
    figure.update_xaxes(**resolution_axis(float(x[-1])))
    figure.update_yaxes(title_text="correlation", range=FSC_RANGE)
    _say_resolution(figure, x)
    # Drawn last, over the others, the claimed curve is named first.
    figure.update_layout(legend_traceorder="reversed")
    return Plot("fsc", figure, 460)


def _add_claimed_curve(figure: go.Figure, a: Assessment, x: Curve) -> None:
    last = a.calibrated.valid_up_to_shell
    if last is None:
        return
    valid = slice(1, last + 1)
    curve, error = a.calibrated.smoothed[valid], INTERVAL_SIGMAS * a.calibrated.stderr[valid]
    name = "calibrated" if a.has_linear else "masked after the shell filter"
    low, high = (np.clip(edge, -1, 1.2) for edge in (curve - error, curve + error))
    figure.add_scatter(
        x=np.concatenate([x[valid], x[valid][::-1]]),
        y=float32(np.concatenate([high, low[::-1]])),
        fill="toself",
        fillcolor=BAND,
        line_width=0,
        name="90 % band",
        hoverinfo="skip",
        mode="lines",
    )
    figure.add_scatter(
        x=x[valid],
        y=float32(curve),
        customdata=float32(error),
        name=name,
        mode="lines",
        line={"color": BLUE, "width": 3},
        hovertemplate="<b>%{y:.3f}</b> ± %{customdata:.3f}",
    )
    if a.claim.estimate_A is None:
        return
    at = 1 / a.claim.estimate_A
    height = float(np.interp(at, x[valid], curve))
    figure.add_scatter(
        x=[at],
        y=[height],
        mode="markers",
        marker={"color": BLUE, "size": 10, "line": {"color": "white", "width": 2}},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_vline(x=at, line={"color": BLUE, "width": 1, "dash": "dot"}, layer="below")
    # At the top: there the curves have fallen.
    figure.add_annotation(
        x=at, y=1, yref="paper", yanchor="top", xanchor="right", xshift=-6, showarrow=False,
        text=f"<b>{a.claim.estimate_A:.2f} Å</b>", font={"color": BLUE, "size": 16},
    )  # fmt: skip


def cones_plot(a: Assessment) -> Plot:
    """The fan of FSC curves within cones: lowest, highest, mean and spread over directions."""
    directional = a.directional
    assert directional is not None
    curves = directional.curves
    x = frequencies(curves.shape[1], a.pixel_size_A, a.box_size_px)
    low, high, mean = curves.min(0), curves.max(0), curves.mean(0)
    spread = curves.std(0)
    figure = new_figure(hovermode="x unified")
    _say_resolution(figure, x)
    for name, curve, line in (
        ("best and worst in each shell", high, {"color": PALE, "width": 1.2}),
        ("worst", low, {"color": PALE, "width": 1.2}),
    ):
        figure.add_scatter(
            x=x[1:],
            y=float32(curve[1:]),
            name=name,
            line=line,
            mode="lines",
            fill=None if curve is high else "tonexty",
            fillcolor="rgba(123,135,148,0.12)",
            hovertemplate="%{y:.3f}",
            showlegend=curve is high,
        )
    for edge, fill in ((mean + spread, None), (mean - spread, "tonexty")):
        figure.add_scatter(
            x=x[1:],
            y=float32(edge[1:]),
            name="± 1 standard deviation",
            line_width=0,
            mode="lines",
            fill=fill,
            fillcolor="rgba(0,114,178,0.22)",
            showlegend=fill is not None,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=x[1:], y=float32(mean[1:]), name="mean", mode="lines", line={"color": BLUE, "width": 2.5},
        hovertemplate="%{y:.3f}",
    )  # fmt: skip
    worst = int(np.argmin(directional.area))
    figure.add_scatter(
        x=x[1:], y=float32(curves[worst, 1:]), name="direction of least area", mode="lines",
        line={"color": VERMILION, "width": 1.8, "dash": "dash"}, hovertemplate="%{y:.3f}",
    )  # fmt: skip
    _threshold(figure, FSC_THRESHOLD, f"{FSC_THRESHOLD:g}")
    figure.update_xaxes(**resolution_axis(float(x[-1])))
    figure.update_yaxes(title_text="correlation in cones", range=FSC_RANGE)
    return Plot("cones", figure, 420, 440)


def _say_resolution(figure: go.Figure, x: Curve) -> None:
    """The head of the hover label is the resolution in A, which plotly cannot compute from the frequency."""
    figure.add_scatter(
        x=x[1:],
        y=np.zeros(len(x) - 1, dtype=np.float32),
        customdata=float32(1 / x[1:]),
        mode="lines",
        line={"width": 0, "color": INK},
        name="",
        showlegend=False,
        hovertemplate="<b>%{customdata:.2f} Å</b><extra></extra>",
    )
    figure.update_xaxes(unifiedhovertitle_text="%{x:.4f} per Å")


def _threshold(figure: go.Figure, height: float, text: str) -> None:
    figure.add_hline(
        y=height, line={"color": GREY, "width": 1, "dash": "dot"}, annotation_text=text,
        annotation_position="top left", annotation_font={"size": 11, "color": GREY},
    )  # fmt: skip

"""Colours, axes and layout that all plots share."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gem3d.assess.shells import Curve

# Okabe & Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#B0629B"
INK, GREY, PALE, GRID = "#1f2933", "#7b8794", "#b6bec7", "#e7eaee"
BAND, SHADE = "rgba(0,114,178,0.16)", "rgba(31,41,51,0.06)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Viridis, which is perceptually uniform, without its darkest tenth, where shading would not show.
SEQUENCE = (
    "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
)  # fmt: skip
COUNTS = ((0.0, "#f4f7fa"), (0.15, "#c6dbef"), (0.5, "#4292c6"), (1.0, "#08306b"))

TICKS_A = (
    100, 50, 30, 20, 15, 12, 10, 9, 8, 7, 6, 5.5, 5, 4.5, 4, 3.7, 3.5, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.9, 1.8,
    1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1,
)  # fmt: skip

_AXIS = {
    "gridcolor": GRID,
    "zerolinecolor": "#cfd6dd",
    "linecolor": "#cfd6dd",
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#cfd6dd",
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"family": FONT, "size": 13}, "bgcolor": "white"},
        "modebar": {"bgcolor": "rgba(255,255,255,0.85)", "color": PALE, "activecolor": BLUE},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
    }
)


def new_figure(**layout: object) -> go.Figure:
    """An empty figure in the style of the page."""
    figure = go.Figure()
    figure.update_layout(template=_TEMPLATE, **layout)
    return figure


def plain(text: str) -> str:
    """Text from outside for a label: plotly reads a little HTML in these."""
    return html.escape(text)


def frequencies(n_shells: int, pixel_size_A: float, box_size_px: int) -> Curve:
    """`(n_shells,)` spatial frequency of each shell in 1/A."""
    frequency: Curve = np.arange(n_shells) / (pixel_size_A * box_size_px)
    return frequency


def resolution_axis(last_per_A: float, *, title: str = "resolution (Å)", power: int = 1) -> dict[str, object]:
    """An axis that is linear in frequency (`power` 1) or its square (2), with labels in A.

    Labels are chosen from the finest on, so far apart that they do not touch.
    """
    chosen: list[float] = []
    last = last_per_A**power
    for tick in sorted(TICKS_A):
        at = tick**-power
        if at <= last and (not chosen or chosen[-1] ** -power - at >= 0.085 * last):
            chosen.append(tick)
    return {
        "title": {"text": title},
        "range": [0, last],
        "tickvals": [tick**-power for tick in chosen],
        "ticktext": [f"{tick:g}" for tick in chosen],
        "hoverformat": ".4f",
    }


def colour_scale(colours: Sequence[str] = SEQUENCE) -> list[list[float | str]]:
    """Evenly spaced stops for plotly."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def colour_bar(title: str) -> dict[str, object]:
    """A slim colour bar."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 13}},
        "tickfont": {"size": 12},
        "thickness": 12,
        "outlinewidth": 0,
        "len": 0.8,
    }


def float32(values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    """What a picture needs of a number; half the bytes."""
    return np.ascontiguousarray(values, dtype=np.float32)

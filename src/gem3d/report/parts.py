"""What a page is made of, before it is HTML: sections of plots with captions, sentences and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go


@dataclass(frozen=True)
class Plot:
    """One plotly figure.

    name: unique on the page; the id of its element.
    height_px: of that element; the width is what the page gives.
    in_space: a scene in three dimensions, which takes longer to draw.
    least_width_px: narrower than this, plots of one figure are put below one another.
    """

    name: str
    figure: go.Figure
    height_px: int = 420
    least_width_px: int = 320
    in_space: bool = False


@dataclass(frozen=True)
class Figure:
    """Plots side by side above a caption: what they show, how to read them, how they can mislead."""

    title: str
    plots: tuple[Plot, ...]
    caption: str


@dataclass(frozen=True)
class Sentence:
    """A line of text, such as why something is absent."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of a name and a value; with a `title` it is folded, and opens on a click."""

    rows: tuple[tuple[str, Any], ...]
    title: str = ""


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    text: str


Part = Figure | Sentence | Table | Code


@dataclass(frozen=True)
class Section:
    """A section of the page; `name` is its anchor."""

    name: str
    title: str
    parts: tuple[Part, ...]

"""The page: parts into HTML. Every text from outside is escaped here, and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from gem3d.assess.claim import ends_with_the_data
from gem3d.assessment import Assessment
from gem3d.report.facts import RunFacts
from gem3d.report.parts import Code, Figure, Part, Plot, Section, Sentence, Table
from gem3d.report.sections import sections
from gem3d.report.verdict import Finding, verdict


def report_page(assessment: Assessment, facts: RunFacts) -> str:
    """The whole report as one HTML file that loads nothing: equal input gives equal bytes."""
    found = sections(assessment, facts)
    contents = [("verdict", "Verdict"), *((section.name, section.title) for section in found)]
    plots = [plot for section in found for plot in _plots(section)]
    summary_file = str(facts.summary.get("particle_file", ""))
    return Template(_resource("page.html")).substitute(
        title=html.escape(facts.title or Path(summary_file).name or "Half maps"),
        subtitle=_escaped(" · ".join(_subtitle(assessment, facts))),
        version=html.escape(version("gem3d")),
        style=_resource("page.css"),
        contents="\n".join(
            f'<li><a href="#{name}">{html.escape(title)}</a></li>' for name, title in contents
        ),
        claim=_escaped(_claim(assessment)),
        beside=_escaped(_beside(assessment)),
        tiles="\n".join(
            f"<div><dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd></div>"
            for name, value in _tiles(assessment)
        ),
        findings="\n".join(
            _finding(finding) for finding in verdict(assessment, facts.warnings, limited=facts.limited)
        ),
        sections="\n".join(_section(section) for section in found),
        plotly=get_plotlyjs(),
        data="\n".join(_data(plot) for plot in plots),
        script=_resource("page.js"),
    )


def typeset(text: str) -> str:
    """Angstroms as they are printed: "4.2 A" becomes "4.2 Å"; commands and file names are left alone."""
    return re.sub(r"(\d|open) A\b", r"\1 Å", text).replace("^2", "²")


def _escaped(text: str) -> str:
    return html.escape(typeset(text))


def _subtitle(a: Assessment, facts: RunFacts) -> Iterator[str]:
    if facts.summary.get("particles"):
        yield f"{sum(facts.summary['particles'].values()):,} particles"
    yield f"box of {a.box_size_px} px, {a.pixel_size_A:.4g} A each"


def _claim(a: Assessment) -> str:
    claim = a.claim
    if claim.resolution_A is not None:
        return f"{claim.resolution_A:.2f} A"
    if claim.kind != "none" and all(end is not None for end in claim.interval_A):
        low, high = claim.interval_A
        return f"{low:.1f} to {high:.1f} A"
    return "no resolution claimed" if claim.kind == "none" else f"about {claim.estimate_A:.1f} A"


def _beside(a: Assessment) -> str:
    name = "calibrated FSC" if a.has_linear else "ordinary FSC, masked after the shell filter"
    if a.claim.kind == "none":
        return name
    if ends_with_the_data(a.claim):
        return f"or finer: the {name} does not fall to the threshold"
    low, high = (f"{end:.2f}" if end is not None else "open" for end in a.claim.interval_A)
    last = "" if a.claim.kind == "crossing" else ", the last shell that can be judged"
    return f"{name}, 90 % interval {low} to {high} A{last}"


def _tiles(a: Assessment) -> Iterator[tuple[str, str]]:
    if not a.has_linear:
        found = a.half.resolution
        why = (found.reason or "").partition(" (")[0]
        number = why if found.resolution_A is None else f"{found.resolution_A:.2f} A"
        yield "masked, corrected by random phases", number
    if a.local is not None:
        low, high = a.local.quartiles_A
        yield "local, median (quartiles)", f"{a.local.median_A:.1f} A ({low:.1f} to {high:.1f})"
    if a.directional is not None and np.isfinite(a.directional.cfar):
        yield "cFAR", f"{a.directional.cfar:.2f}"
        if a.directional.sphericity is not None:
            yield "sphericity", f"{a.directional.sphericity:.2f}"
    if a.orientations is not None:
        yield "sampling (SCF)", f"{a.orientations.scf:.2f}"
    if a.guinier is not None and a.guinier.bfactor_A2 is not None:
        yield "B factor", f"{a.guinier.bfactor_A2:.0f} A^2"
    if a.reference is not None:
        yield "correlation with reference", f"{a.reference.correlation:.3f}"
    yield "Nyquist", f"{2 * a.pixel_size_A:.2f} A"


def _finding(finding: Finding) -> str:
    head, colon, rest = finding.text.partition(": ")
    known = ("Resolution", "What limits it", "What limits it in parts", "Agreement the prior made")
    text = f"<b>{_escaped(head)}:</b> {_escaped(rest)}" if colon and head in known else _escaped(finding.text)
    return f'<li class="{finding.level}">{text}</li>'


def _plots(section: Section) -> Iterator[Plot]:
    for part in section.parts:
        if isinstance(part, Figure):
            yield from part.plots


def _section(section: Section) -> str:
    several = sum(isinstance(part, Figure) for part in section.parts) > 1
    body = "\n".join(_part(part, headed=several) for part in section.parts)
    return f'<section id="{section.name}">\n<h2>{html.escape(section.title)}</h2>\n{body}\n</section>'


def _part(part: Part, *, headed: bool) -> str:
    """A part; the title of a picture is left out where it is the only one of its section."""
    if isinstance(part, Sentence):
        return f"<p>{_escaped(part.text)}</p>"
    if isinstance(part, Code):
        return f"<pre>{html.escape(part.text)}</pre>"
    if isinstance(part, Table):
        rows = "".join(
            f"<tr><td>{_escaped(name)}</td><td>{_cell(value)}</td></tr>" for name, value in part.rows
        )
        table = f"<table>{rows}</table>"
        if not part.title:
            return table
        return f"<details><summary>{html.escape(part.title)}</summary>{table}</details>"
    label = html.escape(part.title)
    plots = "".join(
        f'<div class="plot{" scene" if plot.in_space else ""}" id="{plot.name}" role="img" aria-label="{label}" '
        f'style="--height:{plot.height_px}px;--least:{plot.least_width_px}px"></div>'
        for plot in part.plots
    )
    head = f"<h3>{label}</h3>\n" if headed else ""
    return (
        f'{head}<figure><div class="plots">{plots}</div>'
        f"<figcaption>{_escaped(part.caption)}</figcaption></figure>"
    )


def _cell(value: Any) -> str:
    """A path stays as it is, whatever it looks like."""
    return html.escape(str(value)) if isinstance(value, Path) else _escaped(str(value))


def _data(plot: Plot) -> str:
    """A figure as JSON that no text inside can end."""
    content = plot.figure.to_json().replace("<", "\\u003c")
    return f'<script type="application/json" id="{plot.name}-data">{content}</script>'


def _resource(name: str) -> str:
    return files("gem3d.report").joinpath(name).read_text(encoding="utf-8")

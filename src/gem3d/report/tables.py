"""What was done and what it took, as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem3d.assessment import Assessment
from gem3d.report.facts import RunFacts
from gem3d.report.parts import Code, Part, Sentence, Table


def _made_from(a: Assessment, facts: RunFacts) -> Table:
    """Data and maps in a few lines."""
    summary = facts.summary
    rows: list[tuple[str, Any]] = []
    if summary.get("particle_file"):
        rows.append(("particle file", Path(summary["particle_file"])))
    if summary.get("particles"):
        halves = summary["particles"]
        total = sum(halves.values())
        rows.append(("particles", f"{total:,} ({' and '.join(f'{n:,}' for n in halves.values())})"))
    rows.append(("box and pixel", f"{a.box_size_px} px of {a.pixel_size_A:.4g} A"))
    if facts.gaussians is not None:
        rows.append(("Gaussians", f"{len(facts.gaussians):,} in the final map"))
    if summary.get("images_per_second"):
        rows.append(("speed", f"{summary['images_per_second']:,.0f} images/s while reading"))
    if summary.get("peak_memory_GB"):
        rows.append(("peak memory", f"{summary['peak_memory_GB']:.2f} GB"))
    if summary.get("seconds"):
        rows.append(("time", _duration(sum(summary["seconds"].values()))))
    return Table(tuple(rows))


def run_parts(a: Assessment, facts: RunFacts) -> tuple[Part, ...]:
    """The last section of the page: data, time and memory, and all that repeats the run."""
    summary = facts.summary
    parts: list[Part] = [_made_from(a, facts)]
    if summary.get("resumed"):
        parts.append(Sentence("The run was resumed: the times are those of its last part."))
    if facts.command:
        parts += [Sentence("To make it again:"), Code(facts.command)]
    seconds: Mapping[str, float] = summary.get("seconds", {})
    if seconds:
        total = sum(seconds.values()) or 1.0
        rows = tuple((stage, f"{t:,.1f} s ({100 * t / total:.0f} %)") for stage, t in seconds.items())
        parts.append(Table((*rows, ("all", _duration(total))), "Time per stage"))
    if facts.rounds:
        parts.append(Table(_rounds(facts), "Rounds of the fits"))
    for key, title in (("settings", "Settings"), ("versions", "Versions")):
        if summary.get(key):
            parts.append(Table(_flat(summary[key]), title))
    refinement = summary.get("refinement")
    if refinement:
        course = (("ended", refinement.get("ended")), ("rounds", len(refinement.get("rounds", ()))))
        parts.append(Table((*course, *_flat(refinement.get("settings", {}))), "Refinement"))
    if not summary:
        parts.append(Sentence("The maps were not made here, so how they were made is not known."))
    return tuple(parts)


def _rounds(facts: RunFacts) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (
            f"{name}, round {number}",
            f"{found.n_gaussians:,} Gaussians, {found.steps} steps" + ("" if found.kept else ", not kept"),
        )
        for name, rounds in (facts.rounds or {}).items()
        for number, found in enumerate(rounds, start=1)
    )


def _flat(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, value if isinstance(value, str) else json.dumps(value, default=str))
        for name, value in values.items()
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

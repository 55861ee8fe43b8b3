"""The tables that commands end with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from gem3d.assess import Crossing
from gem3d.progress import error_console

Row = tuple[str, str]
"""A name and what to say; without a name it goes on with the line above."""

MAPS = ("map.mrc", "map_local.mrc", "local_resolution.mrc", "mask.mrc")
TABLES = ("fsc.csv", "directional.csv", "sharpening.csv", "likelihood.csv")


def print_run(summary: dict[str, Any], out: Path) -> None:
    """What a reconstruction found, and where."""
    counts, gaussians, rounds = summary["particles"], summary["gaussians"], summary["rounds"]
    steps = (
        f"{name} {' + '.join(str(r['steps']) for r in found)}" for name, found in rounds.items() if found
    )
    rate = summary["images_per_second"]
    refined = (
        [("", "particles_refined.star, refinement.csv, refinement.html")] if summary["refinement"] else []
    )
    _print(
        out,
        [
            *_resolution_rows(summary),
            *_refined_rows(summary),
            ("particles", f"{counts['half1'] + counts['half2']} ({counts['half1']} and {counts['half2']})"),
            ("Gaussians", f"{gaussians['half1']} and {gaussians['half2']}, final map {gaussians['final']}"),
            ("steps", ", ".join(steps)),
            *_effort_rows(summary, f"; {rate:.0f} images/s read" if rate else ""),
            ("look at", "report.html"),
            ("open", f"view.cxc in ChimeraX, or {_there(out, *MAPS, 'half1.mrc', 'half2.mrc')}"),
            ("deposit", "linear_half1.mrc, linear_half2.mrc (half maps without a prior)"),
            ("read", f"{_there(out, *TABLES)}, summary.json, run.log"),
            *refined,
        ],
    )


def print_assessment(summary: dict[str, Any], out: Path) -> None:
    """What an assessment found, and where."""
    _print(
        out,
        [
            *_resolution_rows(summary),
            *_effort_rows(summary, ""),
            ("look at", "report.html"),
            ("open", f"view.cxc in ChimeraX, or {_there(out, *MAPS)}"),
            ("read", f"{_there(out, *TABLES, 'fsc.xml')}, summary.json, run.log"),
        ],
    )


def _there(out: Path, *names: str) -> str:
    """Those of the files that were written: some are missing where no resolution can be claimed."""
    return ", ".join(name for name in names if (out / name).exists())


def _print(out: Path, rows: Sequence[Row]) -> None:
    table = Table(show_header=False, title=f"results in {out}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value, style="dim" if not name else None)
    error_console().print(table, soft_wrap=False)


def _resolution_rows(summary: dict[str, Any]) -> list[Row]:
    resolution = summary["resolution"]
    calibrated = "calibrated" in resolution
    rows = [
        ("resolution", resolution["claim"]),
        (
            "",
            "calibrated FSC 0.143: what the half maps are worth against the truth"
            if calibrated
            else "ordinary FSC 0.143, masked after the shell filter: right if the half maps have no prior",
        ),
    ]
    if calibrated:
        rows += [
            ("ordinary FSC", _crossing(resolution["masked"])),
            ("", "masked half maps, FSC 0.143; optimistic, as the maps have a prior"),
        ]
    else:
        found = _crossing(resolution["corrected"])
        rows.append(("corrected", f"{found} (masked first, corrected by random phases, FSC 0.143)"))
    local, directions, reference = (summary[key] for key in ("local_resolution", "directions", "reference"))
    if local is not None:
        first, third = local["quartiles_A"]
        rows.append(("local", f"median {local['median_A']:.2f} A, quartiles {first:.2f} and {third:.2f} A"))
    if directions is not None and directions["cfar"] is not None:
        sphericity = directions["sphericity"]
        shape = "" if sphericity is None else f", sphericity {sphericity:.2f}"
        rows.append(("directions", f"cFAR {directions['cfar']:.2f}{shape}"))
    if reference is not None:
        rows.append(("against", f"{reference['name']}: FSC 0.5 at {_crossing(reference['fsc_0.5'])}"))
    return rows


def _crossing(found: dict[str, Any]) -> str:
    return Crossing(**found).words


def _refined_rows(summary: dict[str, Any]) -> list[Row]:
    refined = summary["refinement"]
    if refined is None:
        return []
    before = [f"{r['resolution_A']:.2f} A" if r["resolution_A"] else "none" for r in refined["rounds"]]
    return [
        ("refined", refined["ended"]),
        ("", f"resolution before each round: {', '.join(before) or 'none'}"),
    ]


def _effort_rows(summary: dict[str, Any], rate: str) -> list[Row]:
    seconds: dict[str, float] = summary["seconds"]
    in_rounds = sum(s for name, s in seconds.items() if name.startswith("round "))
    stages = {name: s for name, s in seconds.items() if not name.startswith("round ")}
    if in_rounds:
        stages["refinement"] = in_rounds
    slowest = sorted(stages, key=stages.__getitem__, reverse=True)
    where = ", ".join(f"{name} {stages[name]:.1f}" for name in slowest if stages[name] >= 0.1)
    return [
        ("time", f"{sum(stages.values()):.1f} s: {where}{rate}"),
        ("peak memory", f"{summary['peak_memory_GB']:.2f} GB"),
        ("warnings", f"{len(summary['warnings'])}, see run.log" if summary["warnings"] else "none"),
    ]

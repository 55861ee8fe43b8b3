"""What an assessment leaves in a folder, and what it says in summary.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gem3d import run_directory
from gem3d.assess import FSC_COLUMNS, FSC_THRESHOLD, fsc_rows, resolution_at
from gem3d.assess.overfit import FIRST_SHELL
from gem3d.assess.shells import Curve, shell_resolution_A
from gem3d.assessment import Assessment
from gem3d.maps import write_map
from gem3d.summary import describe_claim

LIKELIHOOD_COLUMNS = tuple(
    f"half{half}_{what}" for half in (1, 2) for what in ("seen", "unseen", "unseen_stderr")
)
DIRECTION_COLUMNS = ("x", "y", "z", "resolution_A", "fsc_area")


def write_assessment(out: Path, a: Assessment) -> None:
    """Write the maps, curves and values of an assessment, all but the unfiltered map that it started from.

    The report is written by `gem3d.report`.

    Raises
    ------
    RunDirectoryError, MapError: the folder cannot be written.
    """
    for name, values in (
        ("map.mrc", a.map),
        ("map_local.mrc", a.map_local),
        ("local_resolution.mrc", None if a.local is None else a.local.values_A),
        ("mask.mrc", a.mask),
    ):
        if values is not None:
            write_map(out / name, values, a.pixel_size_A)
    rows = fsc_rows(
        a.half,
        None if a.linear is None else a.linear.masked,
        a.calibrated if a.has_linear else None,
        pixel_size_A=a.pixel_size_A,
        box_size=a.box_size_px,
    )
    run_directory.write_csv(out / "fsc.csv", FSC_COLUMNS, rows)
    if a.directional is not None:
        directions = a.directional
        table = zip(directions.directions, directions.resolution_A, directions.area, strict=True)
        run_directory.write_csv(
            out / "directional.csv",
            DIRECTION_COLUMNS,
            [
                dict(zip(DIRECTION_COLUMNS, (*axis, _number(resolution_A), area), strict=True))
                for axis, resolution_A, area in table
            ],
        )
    if a.likelihood is not None:
        gains = [curve for gain in a.likelihood for curve in (gain.seen, gain.unseen, gain.unseen_stderr)]
        _write_shells(out / "likelihood.csv", a, LIKELIHOOD_COLUMNS, gains, first=FIRST_SHELL)
    if a.guinier is not None:
        names = ("amplitude", "weight", "correlation_with_truth")
        curves = [a.amplitude, a.weight, a.calibrated.final_map_correlation]
        _write_shells(out / "sharpening.csv", a, names, curves, first=1)
    if a.reference is not None:
        curves = [a.reference.fsc_masked, a.reference.fsc_unmasked]
        _write_shells(out / "reference.csv", a, ("fsc_masked", "fsc_unmasked"), curves, first=1)


def _write_shells(
    path: Path, a: Assessment, names: Sequence[str], curves: Sequence[Curve | None], *, first: int
) -> None:
    """Curves over shells as columns; one that ends early leaves empty cells."""
    rows = [
        {"shell": shell, "resolution_A": shell_resolution_A(shell, a.pixel_size_A, a.box_size_px)}
        | {
            name: None if curve is None or shell >= len(curve) else curve[shell]
            for name, curve in zip(names, curves, strict=True)
        }
        for shell in range(first, max(len(curve) for curve in curves if curve is not None))
    ]
    run_directory.write_csv(path, ("shell", "resolution_A", *names), rows)


def describe_assessment(a: Assessment, *, limited: bool = False) -> dict[str, Any]:
    """The part of summary.json that tells what was found; None where something could not be measured.

    Parameters
    ----------
    limited: --max-resolution made the data end before Nyquist.
    """

    def crossing(curve: Curve) -> dict[str, Any]:
        return asdict(resolution_at(curve, FSC_THRESHOLD, a.pixel_size_A, a.box_size_px))

    local, directional, slices, views = a.local, a.directional, a.slices, a.orientations
    return {
        "resolution": {
            "claim": describe_claim(a.claim, limited=limited),
            "claimed_from": "calibrated FSC"
            if a.has_linear
            else "ordinary FSC, masked after the shell filter",
            "calibrated" if a.has_linear else "ordinary": asdict(a.claim),
            "masked": crossing(a.half.masked),
            "corrected": crossing(a.half.corrected),
            "unmasked": crossing(a.half.unmasked),
            "linear_masked": None if a.linear is None else crossing(a.linear.masked),
            "linear_corrected": None if a.linear is None else crossing(a.linear.corrected),
        },
        "local_resolution": None
        if local is None
        else {
            "mean_A": local.mean_A,
            "median_A": local.median_A,
            "quartiles_A": local.quartiles_A,
            "window_A": local.window_A,
            "step_A": local.step_A,
            "finest_A": local.finest_A,
            "coarsest_A": local.coarsest_A,
        },
        "directions": None
        if directional is None
        else {"cfar": _number(directional.cfar), "sphericity": directional.sphericity},
        "slice_correlation": None
        if slices is None
        else {"mean": slices.mean, "standard_deviation": slices.standard_deviation},
        "orientations": None
        if views is None
        else {
            "empty_bins": views.empty_bins,
            "expected_empty_bins": views.expected_empty_bins,
            "unseen": views.unseen,
            "scf": views.scf,
            "efficiency": views.efficiency,
        },
        "reference": None
        if a.reference is None
        else {
            "name": a.reference.name,
            "fsc_0.5": asdict(a.reference.crossing),
            "correlation": a.reference.correlation,
            "low_pass_A": a.reference.low_pass_A,
        },
        "guinier": None if a.guinier is None else asdict(a.guinier),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

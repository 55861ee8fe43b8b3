"""What a run says of itself: the head of run.log, summary.json and the claim in words."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gem3d import ranks
from gem3d.assess import ResolutionClaim
from gem3d.assess.claim import ends_with_the_data
from gem3d.device import peak_gpu_memory_GB
from gem3d.fit.result import Fit
from gem3d.particles.image_grids import Resampled
from gem3d.progress import Reporter
from gem3d.refine.result import Refinement
from gem3d.runtime import command_line, peak_memory_GB
from gem3d.settings import ReconstructSettings, RefineSettings


def log_start(
    reporter: Reporter,
    particle_file: str | Path,
    settings: ReconstructSettings,
    refinement: RefineSettings | None,
    threads: int,
) -> None:
    """Versions, input and settings, as the first lines of the log."""
    found = ", ".join(f"{name} {number}" for name, number in _versions().items())
    reporter.log.write(f"gem3d {version('gem3d')}; {found}; threads: {threads}")
    reporter.log.write(f"particle file {Path(particle_file).absolute()}")
    reporter.log.write(f"settings {json.dumps(asdict(settings), default=str)}")
    if refinement is not None:
        reporter.log.write(f"refinement {json.dumps(asdict(refinement))}")


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "scipy", "numba", "gemmi", "mrcfile")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in names},
    }


def describe_claim(claim: ResolutionClaim, *, limited: bool = False) -> str:
    """One line for the reader: the resolution with its interval, or why there is none.

    Parameters
    ----------
    limited: --max-resolution made the data end before Nyquist.
    """
    low_A, high_A = (f"{end:.2f}" if end is not None else "open" for end in claim.interval_A)
    if claim.kind == "none":
        return f"none claimed: {claim.reason}"
    number = f"{claim.resolution_A:.2f} A" if claim.resolution_A is not None else "interval only"
    reason = claim.reason
    if limited and ends_with_the_data(claim):
        reason = f"{reason}: --max-resolution"
    note = "" if reason is None else f" ({reason})"
    return f"{number}, 90 % interval {low_A} to {high_A} A{note}"


def describe_rounds(fit: Fit) -> str:
    """One line for the log: Gaussians, steps and held-out loss of every round of a fit."""
    return "; ".join(
        f"{r.n_gaussians} Gaussians, {r.steps} steps, held-out loss {min(r.held_out_loss, default=0):.5g}"
        + ("" if r.kept else " (not kept)")
        for r in fit.rounds
    )


def summarise(
    settings: ReconstructSettings,
    refined: Refinement | None,
    particle_file: str | Path,
    counts: tuple[int, int],
    excluded: dict[str, int],
    fits: tuple[Fit, Fit],
    final: Fit,
    coverage: np.ndarray,
    found: dict[str, Any],
    *,
    resampled: tuple[Resampled, ...],
    pixel_size_A: float,
    box_size: int,
    threads: int,
    device: str,
    resumed: bool,
) -> dict[str, Any]:
    """Everything needed to quote and to repeat the run.

    Parameters
    ----------
    counts: particles of each half that were used.
    excluded: number of particles left out for each reason.
    resampled: particles whose images were taken to the grid of the others, or binned.
    found: what the assessment says (`gem3d.assessment_files.describe_assessment`).
    """
    return {
        **describe_program(),
        "particle_file": str(particle_file),
        "settings": asdict(settings),
        "refinement": None
        if refined is None
        else {
            "settings": asdict(refined.settings),
            "ended": refined.ended,
            "rounds": [asdict(report) for report in refined.rounds],
        },
        "device": device,
        "threads": threads,
        "particles": {"half1": counts[0], "half2": counts[1]},
        "particles_excluded": {"total": sum(excluded.values()), "reasons": excluded},
        "box_size_px": box_size,
        "pixel_size_A": pixel_size_A,
        "resampled": [
            {
                "box_size_px": each.grid.box_size_px,
                "pixel_size_A": each.grid.pixel_size_A,
                "particles": each.n_particles,
                "optics_groups": list(each.optics_groups),
            }
            for each in resampled
        ],
        "gaussians": {
            "half1": len(fits[0].gaussians),
            "half2": len(fits[1].gaussians),
            "final": len(final.gaussians),
        },
        "rounds": {
            name: [{"gaussians": r.n_gaussians, "steps": r.steps, "kept": r.kept} for r in fit.rounds]
            for name, fit in (("half1", fits[0]), ("half2", fits[1]), ("final", final))
        },
        **found,
        "coverage_per_shell": [round(float(share), 4) for share in coverage],
        "resumed": resumed,
    }


def describe_program() -> dict[str, Any]:
    """Versions, and the command as it was given."""
    return {"gem3d": version("gem3d"), "versions": _versions(), "command": command_line()}


def describe_effort(reporter: Reporter, n_images: int = 0) -> dict[str, Any]:
    """Time, memory and warnings so far; `seconds` of a resumed run are of its last part."""
    reading = sum(s for stage, s in reporter.seconds.items() if stage.startswith("accumulate"))
    gpu_GB = peak_gpu_memory_GB()
    several = {"processes": ranks.n_ranks(), "seconds_adding_up": round(ranks.seconds_of_sums, 3)}
    return {
        "seconds": dict(reporter.seconds),
        **(several if ranks.n_ranks() > 1 else {}),
        "images_per_second": round(n_images / reading, 1) if reading else None,
        "peak_memory_GB": round(peak_memory_GB(), 3),
        **({} if gpu_GB is None else {"peak_gpu_memory_GB": round(gpu_GB, 3)}),
        "warnings": list(reporter.warnings),
    }

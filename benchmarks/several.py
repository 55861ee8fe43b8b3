"""Several processes at one job, on one machine: what it costs to add up what they have accumulated."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from context import Context, SetSpec
from gem3d.maps import read_map
from measure import run_measured
from registry import Measurement, Target, benchmark

TABLE = "Several processes"


@benchmark(
    "ranks", "40,000 x 128 px with 1, 2 and 4 processes over gloo: time, adding up, difference of the maps"
)
def several(context: Context) -> Iterator[Measurement]:
    n, box = context.size((40_000, 128), (400, 48))
    spec = SetSpec(context.structures[0], n, box, 204.8 / box, context.size(0.01, 0.1), 1, envelope_A2=60.0)
    folder = context.particle_set(spec)
    alone = None
    for processes in (1, 2, 4):
        out = folder / f"gem3d-{processes}-processes"
        context.say(f"{processes} processes")
        summary = reconstruct_with(processes, context, folder, out)
        case, seconds = f"{spec.size}, {processes}", summary["seconds"]
        yield Measurement(TABLE, case, "accumulate, s", seconds["accumulate"])
        if processes > 1:
            adding_s = summary["seconds_adding_up"]
            yield Measurement(TABLE, case, "of it adding up, s", adding_s)
            share = 100 * adding_s / (seconds["accumulate"] - adding_s)
            yield Measurement(TABLE, case, "adding up, % of the rest", share, Target(high=10))
        fits_s = sum(value for stage, value in seconds.items() if stage.startswith("fit half"))
        yield Measurement(TABLE, case, "fit halves, s", seconds.get("fit halves", fits_s))
        if alone is None:
            alone = out
        else:
            linear = max(difference(out, alone, f"linear_half{half}") for half in (1, 2))
            yield Measurement(TABLE, case, "linear maps, relative difference", linear, Target(high=1e-5))
            fitted = max(difference(out, alone, f"half{half}") for half in (1, 2))
            yield Measurement(TABLE, case, "Gaussian half maps, relative difference", fitted)
        resolution_A = summary["resolution"]["calibrated"]["estimate_A"]
        yield Measurement(TABLE, case, "calibrated FSC 0.143, A", resolution_A)


def reconstruct_with(processes: int, context: Context, folder: Path, out: Path) -> dict[str, Any]:
    """Run gem3d, under torchrun if by several, with the machine's threads shared out; its summary.json."""
    arguments = ["reconstruct", folder / "particles.star", "--out", out, "--datadir", folder]
    options = ["--quiet", "--overwrite", *context.few_gaussians]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    run_measured([sys.executable, *(launcher if processes > 1 else []), "-m", "gem3d", *arguments, *options])
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def difference(one: Path, other: Path, name: str) -> float:
    """Root mean square of the difference of two maps over that of the second."""
    a, b = (read_map(folder / f"{name}.mrc").values for folder in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))

"""How long it takes, beside relion_reconstruct on the same images in the same invocation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import relion
from context import FEW_GAUSSIANS, Context, SetSpec, gem3d_program
from measure import Usage, run_measured
from quality import low_snr_set
from registry import Measurement, Target, benchmark

TIME = "Whole reconstruction"
STAGES = "Stages of gem3d reconstruct, s"
RATE = "Accumulating the images"
COLD = "First run, with an empty cache of compiled kernels"


@benchmark(
    "time", "gem3d reconstruct against three relion_reconstruct runs (half 1, half 2, all), 10,000 x 128 px"
)
def time(context: Context) -> Iterator[Measurement]:
    spec = low_snr_set(context, context.structures[0], context.seeds[0])
    folder = context.particle_set(spec)
    context.gem3d(context.particle_set(_tiny(context)), *FEW_GAUSSIANS)  # the kernels are compiled now
    ours: list[Usage] = []
    serial: list[list[Usage]] = []
    parallel: list[list[Usage]] = []
    for _ in range(context.repeats):
        # In turn, so that a slow spell of the machine falls on all alike.
        if relion.available():
            serial.append(three_maps(context, folder, mpi=False))
        if relion.mpi_available():
            parallel.append(three_maps(context, folder, mpi=True))
        ours.append(context.gem3d(folder, repeat=True).usage)

    case = f"{spec.size}, {context.threads} threads"
    gem3d_s = median(usage.wall_s for usage in ours)
    yield Measurement(TIME, case, "gem3d, wall s", gem3d_s, note=f"median of {context.repeats}")
    yield Measurement(TIME, case, "gem3d, CPU s", median(usage.cpu_s for usage in ours))
    programs = {"RELION, 3 serial runs": serial, f"RELION, 3 runs of {context.threads} ranks": parallel}
    for name, runs in programs.items():
        target = Target(high=0.6) if runs is serial else None
        ratio = f"gem3d over {name}, wall"
        if not runs:
            yield Measurement(TIME, case, ratio, None, note=relion.MISSING)
            continue
        wall_s = median(sum(usage.wall_s for usage in three) for three in runs)
        each = " + ".join(f"{usage.wall_s:.1f}" for usage in runs[-1])
        yield Measurement(TIME, case, f"{name}, wall s", wall_s, note=each)
        yield Measurement(
            TIME, case, f"{name}, CPU s", median(sum(usage.cpu_s for usage in three) for three in runs)
        )
        yield Measurement(TIME, case, ratio, gem3d_s / wall_s, target)

    seconds = context.gem3d(folder).summary["seconds"]
    for stage, value in seconds.items():
        yield Measurement(STAGES, case, stage, value)
    yield Measurement(STAGES, case, "start, files, rest", ours[-1].wall_s - sum(seconds.values()))


@benchmark("accumulate", "images per second: gem3d's accumulation against RELION's marginal rate")
def accumulate(context: Context) -> Iterator[Measurement]:
    many = low_snr_set(context, context.structures[0], context.seeds[0])
    few = replace(many, particles=many.particles // 5)
    folders = [context.particle_set(spec) for spec in (few, many)]
    more = many.particles - few.particles
    case = f"{few.particles:,} and {many.particles:,} x {many.box_px} px"
    ours = [context.gem3d(folder).summary for folder in folders]
    rate = ours[1]["images_per_second"]
    yield Measurement(RATE, case, "gem3d, images/s", rate, note="of the larger set, all of the stage")
    seconds = [summary["seconds"]["accumulate"] for summary in ours]
    yield Measurement(RATE, case, "gem3d, marginal images/s", more / (seconds[1] - seconds[0]))
    ratio, target = "gem3d over RELION", Target(low=4)
    if not relion.available():
        yield Measurement(RATE, case, ratio, None, note=relion.MISSING)
        return
    walls = [context.relion(folder, "all", fresh=True)[1].wall_s for folder in folders]
    theirs = more / (walls[1] - walls[0])
    yield Measurement(
        RATE, case, "RELION, marginal images/s", theirs, note=f"{walls[0]:.1f} and {walls[1]:.1f} s"
    )
    yield Measurement(RATE, case, ratio, rate / theirs, target)
    if relion.mpi_available():
        walls = [context.relion(folder, "all", mpi=True, fresh=True)[1].wall_s for folder in folders]
        name = f"RELION, {context.threads} ranks, marginal images/s"
        yield Measurement(
            RATE, case, name, more / (walls[1] - walls[0]), note=f"{walls[0]:.1f} and {walls[1]:.1f} s"
        )


@benchmark("cold", "what compiling the kernels adds to the first run")
def cold(context: Context) -> Iterator[Measurement]:
    spec = _tiny(context)
    folder = context.particle_set(spec)
    with tempfile.TemporaryDirectory(prefix="gem3d-kernels-") as cache:
        first, second = (_run_with_cache(context, folder, cache) for _ in range(2))
    yield Measurement(COLD, spec.size, "first, wall s", first.wall_s)
    yield Measurement(COLD, spec.size, "second, wall s", second.wall_s)
    yield Measurement(COLD, spec.size, "compilation, s", first.wall_s - second.wall_s, Target(high=30))


def three_maps(context: Context, folder: Path, *, mpi: bool) -> list[Usage]:
    """RELION's half 1, half 2 and all, one after the other."""
    return [context.relion(folder, subset, mpi=mpi, repeat=True)[1] for subset in relion.SUBSETS]


def _tiny(context: Context) -> SetSpec:
    """As little work as goes through every kernel."""
    return SetSpec(context.structures[0], 200, 32, 6.4, 0.2, 1)


def _run_with_cache(context: Context, folder: Path, cache: str) -> Usage:
    context.say(
        f"gem3d reconstruct {folder.name}, kernels in {'a new' if not any(Path(cache).iterdir()) else 'the'} cache"
    )
    command = [*gem3d_program(), "reconstruct", folder / "particles.star", "--out", folder / "cold"]
    options = ["--datadir", folder, "--threads", str(context.threads), "--quiet", "--overwrite"]
    options += FEW_GAUSSIANS
    return run_measured([*command, *options], environment={"NUMBA_CACHE_DIR": cache})

"""Time and memory as the number of particles and the box grow."""

from __future__ import annotations

from collections.abc import Iterator

import relion
from context import Context, SetSpec
from registry import Measurement, Target, benchmark

MEMORY_GB = {128: 1.5, 256: 6.0}


@benchmark("scaling_particles", "2,500 to 40,000 x 128 px: time and peak memory, which must not grow")
def scaling_particles(context: Context) -> Iterator[Measurement]:
    counts, box = context.size(((2_500, 10_000, 40_000), 128), ((100, 400, 1_600), 48))
    table, peaks = "Number of particles", []
    for n in counts:
        spec = SetSpec(
            context.structures[0], n, box, 204.8 / box, context.size(0.01, 0.1), 1, envelope_A2=60.0
        )
        for measurement in _cost(context, spec, table):
            yield measurement
            if measurement.measure == "gem3d, peak GB" and measurement.value is not None:
                peaks.append(measurement.value)
    growth = 100 * (peaks[2] / peaks[1] - 1)
    case = f"{counts[1]:,} to {counts[2]:,} x {box} px"
    yield Measurement(table, case, "peak memory grows by, %", growth, Target(high=5))


@benchmark("scaling_box", "5,000 particles of 64 to 256 px over the same field of view: time and peak memory")
def scaling_box(context: Context) -> Iterator[Measurement]:
    n, boxes = context.size((5_000, (64, 128, 192, 256)), (200, (32, 48, 64)))
    for box in boxes:
        spec = SetSpec(
            context.structures[0], n, box, 204.8 / box, context.size(0.01, 0.1), 1, envelope_A2=60.0
        )
        yield from _cost(context, spec, "Box size")


@benchmark("large_box", "a box of 512 px, reconstructed to 4 A: time and peak memory")
def large_box(context: Context) -> Iterator[Measurement]:
    n, box, limit = context.size((300, 512, "4"), (300, 64, "16"))
    spec = SetSpec(context.structures[0], n, box, 327.68 / box, context.size(0.05, 0.5), 1)
    run = context.gem3d(context.particle_set(spec), "--max-resolution", limit)
    table, case = "A large box", f"{spec.size}, --max-resolution {limit}"
    yield Measurement(table, case, "gem3d, wall s", run.usage.wall_s)
    yield Measurement(table, case, "gem3d, peak GB", run.usage.peak_GB, Target(high=16))


def _cost(context: Context, spec: SetSpec, table: str) -> Iterator[Measurement]:
    folder = context.particle_set(spec)
    run = context.gem3d(folder)
    seconds = run.summary["seconds"]
    limit = MEMORY_GB.get(spec.box_px)
    yield Measurement(table, spec.size, "gem3d, wall s", run.usage.wall_s)
    yield Measurement(table, spec.size, "gem3d, CPU s", run.usage.cpu_s)
    yield Measurement(table, spec.size, "accumulate, s", seconds["accumulate"])
    fit_s = sum(value for stage, value in seconds.items() if stage.startswith("fit"))
    yield Measurement(table, spec.size, "fit, s", fit_s)
    target = None if limit is None else Target(high=limit)
    yield Measurement(table, spec.size, "gem3d, peak GB", run.usage.peak_GB, target)
    if relion.available():
        _, usage = context.relion(folder, "all", fresh=True)
        yield Measurement(table, spec.size, "RELION (all, serial), wall s", usage.wall_s)
        yield Measurement(table, spec.size, "RELION (all, serial), peak GB", usage.peak_GB)

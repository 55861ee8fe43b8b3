"""`--fit images`: how fast, in how much memory, how close to the volume fit, and the paper's ablations."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from context import Context, SetSpec
from gem3d.fit.descent import Shapes
from gem3d.maps import read_map
from half_fit import HalfOne
from measure import run_measured
from quality import cases, low_snr_set
from registry import Measurement, Target, benchmark
from score import COMPARE_ABOVE, agreement, mean_difference, read_truth, worst_difference

RATE = "Training, whole steps"
MEMORY = "Memory of --fit images, 20,000 Gaussians"
AGAINST_VOLUME = "Half maps of both fits from a start at random"
ABLATION = "Half map 1 against the truth, --fit images"

PAPER = {128: "GEM on an RTX A6000: 94 to 160 images/s, 0.5 to 1.5 GB (its Table 1, boxes not stated)"}
TRAIN = ("--fit", "images")


@benchmark("train_rate", "images/s and peak memory of training, 5,000 to 50,000 Gaussians at 128 and 256 px")
def train_rate(context: Context) -> Iterator[Measurement]:
    counts = context.size((5_000, 20_000, 50_000), (100, 200))
    for box, n_images in context.size(((128, 2_048), (256, 1_024)), ((32, 128), (48, 128))):
        n = context.size(5_000, 200)
        spec = SetSpec(
            context.structures[0], n, box, 204.8 / box, context.size(0.01, 0.1), 1, envelope_A2=60.0
        )
        folder = context.particle_set(spec)
        for n_gaussians in counts:
            context.say(f"{n_gaussians} Gaussians, {box} px")
            with tempfile.TemporaryDirectory() as scratch:
                out = Path(scratch) / "rate.json"
                script = Path(__file__).with_name("train_steps.py")
                run_measured([sys.executable, script, folder, *map(str, (n_gaussians, 64, n_images)), out])
                found = json.loads(out.read_text())
            case = f"{box} px, {n_gaussians:,} Gaussians, batch 64"
            judged = box == 128 and n_gaussians == 20_000
            rate = found["images_per_second"]
            yield Measurement(
                RATE, case, "images/s", rate, Target(low=200) if judged else None, PAPER.get(box, "")
            )
            yield Measurement(RATE, case, "peak GB", found["peak_GB"], Target(high=1.0) if judged else None)


@benchmark("train_memory", "peak memory of --fit images for 2,500 to 40,000 x 128 px, which must not grow")
def train_memory(context: Context) -> Iterator[Measurement]:
    counts, box = context.size(((2_500, 10_000, 40_000), 128), ((100, 400, 1_600), 48))
    gaussians = context.size("20000", "200")
    peaks = []
    for n in counts:
        spec = SetSpec(
            context.structures[0], n, box, 204.8 / box, context.size(0.01, 0.1), 1, envelope_A2=60.0
        )
        run = context.gem3d(context.particle_set(spec), *TRAIN, "--gaussians", gaussians, "--epochs", "2")
        peaks.append(run.usage.peak_GB)
        yield Measurement(MEMORY, spec.size, "peak GB", peaks[-1], Target(high=1.0))
        yield Measurement(MEMORY, spec.size, "wall s, 2 epochs", run.usage.wall_s)
    growth = 100 * (peaks[2] / peaks[1] - 1)
    case = f"{counts[1]:,} to {counts[2]:,} x {box} px"
    yield Measurement(MEMORY, case, "peak memory grows by, %", growth, Target(high=5))


@benchmark(
    "train_quality", "low_snr from a start at random: --fit images beside --fit volume, shell by shell"
)
def train_quality(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, low_snr_set, seeds=context.seeds[:1]):
        folder = context.particle_set(spec)
        truth, mask = read_truth(folder)
        volume = context.gem3d(folder, "--init", "random")
        images = context.gem3d(folder, *TRAIN)
        for name, row in (("half1", "half 1"), ("half2", "half 2"), ("map_unfiltered", "final map")):
            ours, theirs = (
                agreement(read_map(run.out / f"{name}.mrc").values, truth, mask, spec.pixel_A)
                for run in (images, volume)
            )
            where = f"{case}, {row}"
            worst, shell = worst_difference(ours.curve, theirs.curve, COMPARE_ABOVE)
            target = None if name == "map_unfiltered" else Target(low=-0.02)
            measure = f"worst shell where the volume fit > {COMPARE_ABOVE:g}, difference in FSC"
            yield Measurement(AGAINST_VOLUME, where, "images, FSC 0.5, A", ours.resolution_A, note=ours.note)
            yield Measurement(
                AGAINST_VOLUME, where, "volume, FSC 0.5, A", theirs.resolution_A, note=theirs.note
            )
            yield Measurement(AGAINST_VOLUME, where, measure, worst, target, note=f"shell {shell}")
            mean = mean_difference(ours.curve, theirs.curve)
            yield Measurement(AGAINST_VOLUME, where, "mean over shells, difference in FSC", mean)
        for name, run in (("images", images), ("volume", volume)):
            seconds = sum(s for stage, s in run.summary["seconds"].items() if stage.startswith("fit"))
            yield Measurement(AGAINST_VOLUME, f"{case}, final map", f"{name}, all fits, s", seconds)


@benchmark("ablation", "the paper's Table 5, frozen rotations and isotropic Gaussians, and their number")
def ablation(context: Context) -> Iterator[Measurement]:
    spec = low_snr_set(context, context.structures[0], context.seeds[0])
    folder = context.particle_set(spec)
    truth, mask = read_truth(folder)
    counts = context.size((2_000, 5_000, 10_000, 20_000, 50_000), (100, 200))
    middle = counts[-2]
    runs = {f"{n:,} Gaussians": (n, Shapes()) for n in counts}
    runs[f"{middle:,}, rotations frozen"] = middle, Shapes(rotations=False)
    runs[f"{middle:,}, isotropic"] = middle, Shapes(isotropic=True)
    half = HalfOne(context, folder)
    for case, (n, shapes) in runs.items():
        context.say(case)
        fit, seconds = half.fit("images", "random", n, shapes)
        density = fit.gaussians.density(spec.box_px, spec.pixel_A).numpy()
        found = agreement(density, truth, mask, spec.pixel_A)
        yield Measurement(ABLATION, case, "FSC 0.5, A", found.resolution_A, note=found.note)
        for shell in context.size((20, 30, 40, 50), (5, 10)):
            width_A = spec.box_px * spec.pixel_A / shell
            yield Measurement(ABLATION, case, f"FSC at {width_A:.1f} A", float(found.curve[shell]))
        yield Measurement(ABLATION, case, "fit, s", seconds)

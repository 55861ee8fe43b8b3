"""Kernels and whole runs on a GPU: images a second, times and peak memory, beside what was asked for.

Needs a GPU and a CUDA build of torch. Times are of the device, from event to event, after a run to warm up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

import cryodrgn
import relion
from context import Context, SetSpec
from gem3d.kernels.insert_slices import accumulator_shape, half_plane_weight, insert_slices, weigh_slices
from gem3d.kernels.project import project
from gem3d.kernels.voxelize import voxelize
from gem3d.optics import N_CTF_COEFFICIENTS
from kernels import scene
from registry import Measurement, Skipped, Target, benchmark
from speed import three_maps

REPEATS = 10
TABLE, WHOLE = "Kernels on a GPU", "Whole runs on a GPU"
TAIL = 1e-3  # as training cuts
ON_GPU = ("--device", "cuda")
CRYODRGN_S = 120.0


@benchmark("gpu_kernels", "project, voxelize, weigh_slices, insert_slices, FFTs on a GPU", in_all=False)
def gpu_kernels(context: Context) -> Iterator[Measurement]:
    device = _gpu()
    n, box, support = context.size((50_000, 256, 160), (500, 48, 40))
    yield from _projection(n, 64, box, device)
    yield from _splatting(n, support, device)
    yield from _insertion(128, box, device)


@benchmark(
    "gpu_runs", "reconstructions on a GPU, beside RELION and cryoDRGN: time, rate, memory", in_all=False
)
def gpu_runs(context: Context) -> Iterator[Measurement]:
    _gpu()
    n, box = context.size((100_000, 256), (400, 48))
    spec = SetSpec(context.structures[0], n, box, 1.06 * 256 / box, context.size(0.02, 0.2), 1)
    folder = context.particle_set(spec)
    context.gem3d(folder, *ON_GPU, "--first", "200")  # kernels are compiled, the file is in the page cache
    yield from _volume_runs(context, folder, spec.size)
    yield from _training_runs(context, folder, spec)


def _volume_runs(context: Context, folder: Path, case: str) -> Iterator[Measurement]:
    run = context.gem3d(folder, *ON_GPU)
    summary, seconds = run.summary, run.summary["seconds"]
    fits_s = [value for stage, value in seconds.items() if stage.startswith("fit half")]
    yield Measurement(WHOLE, case, "whole job, s", sum(seconds.values()), Target(high=60))
    yield Measurement(WHOLE, case, "accumulate, images/s", summary["images_per_second"], Target(low=20_000))
    yield Measurement(WHOLE, case, "fit of a half, s", max(fits_s), Target(high=3))
    yield Measurement(WHOLE, case, "peak GB of the GPU", summary["peak_gpu_memory_GB"], Target(high=4))
    ratio = "gem3d over RELION, 3 runs, wall"
    if not relion.available():
        yield Measurement(WHOLE, case, ratio, None, note=relion.MISSING)
        return
    three = three_maps(context, folder, mpi=relion.mpi_available())
    theirs_s = sum(usage.wall_s for usage in three)
    ranks = f"{context.threads} ranks" if relion.mpi_available() else "serial"
    yield Measurement(WHOLE, case, "RELION on the CPU, 3 runs, wall s", theirs_s, note=ranks)
    yield Measurement(WHOLE, case, ratio, run.usage.wall_s / theirs_s)


def _training_runs(context: Context, folder: Path, spec: SetSpec) -> Iterator[Measurement]:
    few = context.size(10_000, 200)
    case = f"{few:,} x {spec.box_px} px, --fit images, 50,000 Gaussians"
    training = ("--fit", "images", "--gaussians", "50000", "--epochs", "2", "--first", str(few))
    summary = context.gem3d(folder, *ON_GPU, *training).summary
    training_s = sum(value for stage, value in summary["seconds"].items() if stage.startswith("fit half"))
    # Two epochs, of which the first lacks the held-out images, and as many again are looked at in the end.
    ours = 2.05 * few / training_s
    yield Measurement(WHOLE, case, "training, images/s", ours, Target(low=5_000))
    yield Measurement(WHOLE, case, "peak GB of the GPU", summary["peak_gpu_memory_GB"])
    ratio = "gem3d's training over cryoDRGN's, images/s"
    if context.cryodrgn is None:
        yield Measurement(WHOLE, case, ratio, None, note=cryodrgn.MISSING)
        return
    with tempfile.TemporaryDirectory() as scratch:
        peer = cryodrgn.train(
            context.cryodrgn, folder, Path(scratch), spec.box_px, spec.pixel_A, (), limit_s=CRYODRGN_S
        )
    rate = peer.images_per_second
    yield Measurement(WHOLE, case, "cryoDRGN train_nn on the GPU, images/s", rate)
    yield Measurement(WHOLE, case, ratio, None if rate is None else ours / rate)


def _gpu() -> torch.device:
    if not torch.cuda.is_available():
        raise Skipped("needs a GPU and a CUDA build of torch")
    return torch.device("cuda")


def _projection(n: int, images: int, box: int, device: torch.device) -> Iterator[Measurement]:
    s = scene(n, images, 0.3 * box, (0.8, 1.6))
    tensors = (s.amplitudes, s.means, s.covariances, s.rotations, s.shifts_px)
    leaves = [t.to(device) for t in tensors]
    for leaf in leaves[:3]:
        leaf.requires_grad_()
    case = f"{n:,} Gaussians, {images} x {box}^2"
    forward_s = _seconds(lambda: project(*leaves, box, TAIL))
    seen = project(*leaves, box, TAIL)
    upstream = torch.randn_like(seen)
    backward_s = _seconds(lambda: torch.autograd.grad(seen, leaves[:3], upstream, retain_graph=True))
    yield Measurement(TABLE, case, "project forward, images/s", images / forward_s)
    yield Measurement(TABLE, case, "project backward, images/s", images / backward_s)
    both = images / (forward_s + backward_s)
    yield Measurement(TABLE, case, "both, images/s", both, Target(low=5_000))


def _splatting(n: int, size: int, device: torch.device) -> Iterator[Measurement]:
    s = scene(n, 1, 0.42 * size, (0.8, 1.2))
    leaves = [t.to(device).requires_grad_() for t in (s.amplitudes, s.means + size // 2, s.covariances)]
    case, shape = f"{n:,} Gaussians, {size}^3", (size,) * 3
    volume = voxelize(*leaves, shape)
    upstream = torch.randn_like(volume)
    yield Measurement(TABLE, case, "voxelize forward, ms", 1e3 * _seconds(lambda: voxelize(*leaves, shape)))
    gradient_s = _seconds(lambda: torch.autograd.grad(volume, leaves, upstream, retain_graph=True))
    yield Measurement(TABLE, case, "voxelize backward, ms", 1e3 * gradient_s)
    padded = torch.randn((2 * size,) * 3, device=device)
    there_s = _seconds(lambda: torch.fft.rfftn(padded))
    # Each of three passes reads and writes the whole.
    floor_s = 3 * 2 * padded.nbytes / _bytes_per_s(device)
    yield Measurement(TABLE, f"{2 * size}^3", "rfftn, ms", 1e3 * there_s)
    yield Measurement(TABLE, f"{2 * size}^3", "floor of its bytes, ms", 1e3 * floor_s)


def _insertion(images: int, box: int, device: torch.device) -> Iterator[Measurement]:
    radius, step_per_A = (box - 1) // 2, 1 / (box * 1.06)
    s = scene(1, images, 1.0, (1.0, 1.0))
    pixels = torch.randn(images, box, box, device=device)
    transforms = torch.fft.rfft2(pixels)
    coefficients = torch.rand(images, N_CTF_COEFFICIENTS, dtype=torch.float64, device=device)
    weight = half_plane_weight(torch.ones(radius + 1)).to(device)
    shifts, rotations = s.shifts_px.to(device), s.rotations.double().to(device)
    accumulator = torch.zeros(accumulator_shape(radius), device=device)
    weighted = weigh_slices(transforms, coefficients, shifts, weight, step_per_A)
    steps: dict[str, Callable[[], Any]] = {
        "rfft2": lambda: torch.fft.rfft2(pixels),
        "weigh_slices": lambda: weigh_slices(
            transforms, coefficients, shifts, weight, step_per_A, out=weighted
        ),
        "insert_slices": lambda: insert_slices(accumulator, weighted, rotations),
    }
    seconds = {name: _seconds(step) for name, step in steps.items()}
    case = f"{images} x {box} px"
    for name, step_s in seconds.items():
        yield Measurement(TABLE, case, f"{name}, images/s", images / step_s)
    yield Measurement(TABLE, case, "all three, images/s", images / sum(seconds.values()), Target(low=20_000))


def _seconds(work: Callable[[], Any]) -> float:
    """Median time of the device."""
    work()
    taken = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3)
    return median(taken)


def _bytes_per_s(device: torch.device) -> float:
    """Of a copy, read and written."""
    source = torch.empty(1 << 28, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source))

"""The inner loops alone, in ns per sample, beside a plain peer and a floor measured in the same run.

The floor of a loop that computes is the exponentials alone; of one that moves data, a copy of as many bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy.spatial.transform import Rotation

from context import Context
from gem3d.kernels.insert_slices import accumulator_shape, half_plane_weight, insert_slices, weigh_slices
from gem3d.kernels.insert_slices import reference as insert_reference
from gem3d.kernels.project import TAIL_CUTOFF, project
from gem3d.kernels.project.reference import project_reference
from gem3d.kernels.voxelize import cpu as voxelize_cpu
from gem3d.kernels.voxelize import reference as voxelize_reference
from gem3d.kernels.voxelize import voxelize
from gem3d.optics import N_CTF_COEFFICIENTS
from gem3d.threads import set_threads
from registry import Measurement, benchmark

TABLE = "Kernels, ns per sample"
ACCUMULATOR_BYTES, CORNERS = 12, 8


@dataclass(frozen=True)
class Scene:
    """Gaussians of anisotropic scales in a ball, and poses."""

    amplitudes: torch.Tensor
    means: torch.Tensor
    covariances: torch.Tensor
    rotations: torch.Tensor
    shifts_px: torch.Tensor


def scene(n: int, images: int, radius_px: float, sd_px: tuple[float, float]) -> Scene:
    rng = np.random.default_rng(1)
    axes = torch.tensor(Rotation.random(n, rng=rng).as_matrix())
    scales = torch.tensor(np.exp(rng.uniform(*np.log(sd_px), size=(n, 3))))
    full = axes @ torch.diag_embed(scales**2) @ axes.mT
    order = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    direction = rng.normal(size=(n, 3))
    direction *= radius_px * rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(direction, axis=1, keepdims=True)
    return Scene(
        torch.ones(n),
        torch.tensor(direction[np.argsort(direction[:, 2])], dtype=torch.float32),
        torch.stack([full[:, i, j] for i, j in order], dim=1).float(),
        torch.tensor(Rotation.random(images, rng=rng).as_matrix(), dtype=torch.float32),
        torch.tensor(rng.uniform(-3, 3, size=(images, 2)), dtype=torch.float32),
    )


@benchmark(
    "kernels",
    "voxelize, project, weigh_slices, insert_slices and FFTs in ns per sample, with peers and floors",
)
def kernels(context: Context) -> Iterator[Measurement]:
    set_threads(context.threads)
    yield from _voxelize(context)
    yield from _project(context)
    yield from _slices(context)
    yield from _transforms(context)


def _voxelize(context: Context) -> Iterator[Measurement]:
    n, size = context.size((20_000, 112), (500, 40))
    s = scene(n, 1, 0.42 * size, (0.6, 1.2))
    parameters = [t.requires_grad_() for t in (s.amplitudes, s.means + size // 2, s.covariances)]
    shape = (size,) * 3
    # Voxels inside the ellipsoids: 4/3 pi cutoff^3 sqrt(det).
    roots = torch.linalg.det(voxelize_reference.unpack_symmetric(s.covariances)).sqrt()
    samples = 4 / 3 * math.pi * voxelize_cpu.CUTOFF**3 * float(roots.detach().sum())
    case = f"{n:,} Gaussians, {size}^3"
    volume = voxelize(*parameters, shape)
    upstream = torch.ones_like(volume)
    few = [t.detach()[:50].clone().requires_grad_() for t in parameters]
    small = (24,) * 3
    plain = voxelize_reference.voxelize(*few, small)
    plain_samples = 50 * 24**3
    exponential = _exponential_ns()

    def gradient(output: torch.Tensor, inputs: list[torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, inputs, torch.ones_like(output), retain_graph=True)

    forward = _ns(lambda: voxelize(*parameters, shape), samples)
    plain_ns = _ns(lambda: voxelize_reference.voxelize(*few, small), plain_samples)
    yield from _rows(
        "voxelize forward", case, forward, "plain torch, 50 Gaussians", plain_ns, "exp", exponential
    )
    backward = _ns(lambda: torch.autograd.grad(volume, parameters, upstream, retain_graph=True), samples)
    plain_ns = _ns(gradient(plain, few), plain_samples)
    yield from _rows(
        "voxelize backward", case, backward, "plain torch, 50 Gaussians", plain_ns, "exp", exponential
    )


def _project(context: Context) -> Iterator[Measurement]:
    n, images, size = context.size((20_000, 16, 128), (500, 2, 48))
    s = scene(n, images, 0.42 * size, (0.6, 1.2))
    # Pixels inside the ellipses: pi (-2 log cutoff) sqrt(det of the projected covariance).
    full = voxelize_reference.unpack_symmetric(s.covariances)
    projected = (s.rotations[:, None] @ full @ s.rotations[:, None].mT)[..., :2, :2]
    samples = math.pi * -2 * math.log(TAIL_CUTOFF) * float(torch.linalg.det(projected).sqrt().sum())
    arguments = (s.amplitudes, s.means, s.covariances, s.rotations, s.shifts_px)
    few = (s.amplitudes[:200], s.means[:200], s.covariances[:200], s.rotations[:1], s.shifts_px[:1])
    case, peer, exponential = (
        f"{n:,} Gaussians, {images} x {size}^2",
        "plain torch, 200 Gaussians",
        _exponential_ns(),
    )
    ours = _ns(lambda: project(*arguments, size), samples)
    plain_ns = _ns(lambda: project_reference(*few, 48), 200 * 48**2)
    yield from _rows("project forward", case, ours, peer, plain_ns, "exp", exponential)

    leaves, few_leaves = ([t.detach().clone().requires_grad_() for t in ts] for ts in (arguments, few))
    seen, plain = project(*leaves, size), project_reference(*few_leaves, 48)
    upstream = torch.ones_like(seen)
    ours = _ns(lambda: torch.autograd.grad(seen, leaves, upstream, retain_graph=True), samples)
    plain_ns = _ns(
        lambda: torch.autograd.grad(plain, few_leaves, torch.ones_like(plain), retain_graph=True), 200 * 48**2
    )
    yield from _rows("project backward", case, ours, peer, plain_ns, "exp", exponential)


def _slices(context: Context) -> Iterator[Measurement]:
    images, box = context.size((128, 128), (16, 48))
    radius = (box - 1) // 2
    s = scene(1, images, 1.0, (1.0, 1.0))
    transforms = torch.fft.rfft2(torch.randn(images, box, box))
    coefficients = torch.rand(images, N_CTF_COEFFICIENTS, dtype=torch.float64)
    weight = half_plane_weight(torch.ones(radius + 1))
    rotations = s.rotations.double()
    per_image = int(torch.count_nonzero(weight))
    samples = images * per_image
    case = f"{images} x {box} px"

    weighted = weigh_slices(transforms, coefficients, s.shifts_px, weight, 1 / (box * 1.6))
    ours = _ns(lambda: weigh_slices(transforms, coefficients, s.shifts_px, weight, 1 / (box * 1.6)), samples)
    ctf = torch.ones(images, *weight.shape)
    plain_ns = _ns(lambda: insert_reference.weigh_slices(transforms, ctf, s.shifts_px, weight), samples)
    moved = 8 + 12  # bytes: one complex in, three floats out
    yield from _rows(
        "weigh_slices",
        case,
        ours,
        "plain torch, CTF given",
        plain_ns,
        "copy",
        moved / 2 * _copy_ns_per_byte(),
    )

    accumulator = torch.zeros(accumulator_shape(radius))
    ours = _ns(lambda: insert_slices(accumulator, weighted, rotations), samples)
    few = 4
    plain_ns = _ns(
        lambda: insert_reference.insert_slices(accumulator, weighted[:few], s.rotations[:few]),
        few * per_image,
    )
    floor = CORNERS * ACCUMULATOR_BYTES * _copy_ns_per_byte()
    yield from _rows("insert_slices", case, ours, f"plain torch, {few} images", plain_ns, "copy", floor)


def _transforms(context: Context) -> Iterator[Measurement]:
    images, box, side = context.size((128, 128, 224), (16, 48, 64))
    stack, volume = torch.randn(images, box, box), torch.randn(side, side, side)
    spectrum = torch.fft.rfftn(volume)
    copy = 4 * _copy_ns_per_byte()
    workers = context.threads
    peer = "scipy.fft"
    cases = {
        ("rfft2 of images", f"{images} x {box}^2"): (
            lambda: torch.fft.rfft2(stack),
            lambda: scipy.fft.rfft2(stack.numpy(), workers=workers),
            stack.numel(),
        ),
        ("rfftn", f"{side}^3"): (
            lambda: torch.fft.rfftn(volume),
            lambda: scipy.fft.rfftn(volume.numpy(), workers=workers),
            volume.numel(),
        ),
        ("irfftn", f"{side}^3"): (
            lambda: torch.fft.irfftn(spectrum, s=volume.shape),
            lambda: scipy.fft.irfftn(spectrum.numpy(), s=tuple(volume.shape), workers=workers),
            volume.numel(),
        ),
    }
    for (name, case), (ours, theirs, samples) in cases.items():
        yield from _rows(name, case, _ns(ours, samples), peer, _ns(theirs, samples), "copy", copy)


def _rows(
    kernel: str, case: str, ours: float, peer: str, peer_ns: float, floor: str, floor_ns: float
) -> Iterator[Measurement]:
    row = f"{kernel}, {case}"
    yield Measurement(TABLE, row, "gem3d", ours)
    yield Measurement(TABLE, row, "peer", peer_ns, note=peer)
    yield Measurement(TABLE, row, "floor", floor_ns, note=floor)
    yield Measurement(TABLE, row, "gem3d over floor", ours / floor_ns)
    yield Measurement(TABLE, row, "peer over gem3d", peer_ns / ours)


def _ns(function: Callable[[], object], samples: float, seconds: float = 0.5) -> float:
    """Best of several runs, per sample: what disturbs a run only ever makes it longer."""
    function()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end or best == math.inf:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best / samples * 1e9


def _exponential_ns() -> float:
    """One exponential, in cache, on all threads."""
    values = torch.rand(2**18)
    out = torch.empty_like(values)
    return _ns(lambda: torch.exp(values, out=out), values.numel())


def _copy_ns_per_byte() -> float:
    """Reading and writing one byte of memory beyond the caches."""
    source = torch.ones(2**25)
    target = torch.empty_like(source)
    return _ns(lambda: target.copy_(source), source.numel() * 4)

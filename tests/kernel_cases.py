"""Inputs and measures that tests of a kernel's CPU and GPU versions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

VOLUME_SHAPES = [(16, 16, 16), (13, 17, 15), (9, 21, 12)]


def relative_rms(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def random_gaussians(
    n: int,
    shape: tuple[int, int, int],
    seed: int = 0,
    scale_px: tuple[float, float] = (0.6, 2.5),
    beyond_px: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Anisotropic Gaussians at random orientations; centres up to `beyond_px` off the grid."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor(shape[::-1], dtype=torch.float64)
    means = torch.rand(n, 3, generator=g, dtype=torch.float64) * (size - 1 + 2 * beyond_px) - beyond_px
    low, high = scale_px
    scales = low * (high / low) ** torch.rand(n, 3, generator=g, dtype=torch.float64)
    frames = torch.linalg.qr(torch.randn(n, 3, 3, generator=g, dtype=torch.float64))[0]
    full = frames @ torch.diag_embed(scales**2) @ frames.transpose(1, 2)
    xx, yy, zz, xy, xz, yz = (full[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
    amplitudes = 0.5 + torch.rand(n, generator=g, dtype=torch.float64)
    return amplitudes, means, torch.stack([xx, yy, zz, xy, xz, yz], dim=1)


def volume_and_gradients(
    function: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    shape: tuple[int, int, int],
    weights: torch.Tensor,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """The volume, and the gradients of its sum with the given weights; float64 on the CPU."""
    leaves = [t.detach().to(device, dtype, copy=True).requires_grad_() for t in inputs]
    volume = function(*leaves, shape)
    (volume * weights.to(device, dtype)).sum().backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    results = [t.detach().double().cpu() for t in (volume, *gradients)]
    return dict(zip(("volume", "amplitude", "mean", "covariance"), results, strict=True))


def random_rotations(n: int, seed: int = 0) -> torch.Tensor:
    """Three views along axes, which put whole rows on the borders between cells and slabs, then random ones."""
    rotations = Rotation.random(n, random_state=np.random.default_rng(seed)).as_matrix()
    rotations[0] = np.eye(3)
    rotations[1] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    rotations[2] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    return torch.from_numpy(rotations)


def random_magnifications(n: int, seed: int = 0) -> torch.Tensor:
    """Matrices `(n, 2, 2)` that magnify unevenly, by at most a tenth; the first by nothing."""
    rng = np.random.default_rng(seed)
    matrices = np.eye(2) + rng.uniform(-0.05, 0.05, (n, 2, 2))
    matrices[0] = np.eye(2)
    return torch.from_numpy(matrices)


def random_cameras(n: int, seed: int = 0) -> torch.Tensor:
    """`random_rotations`, magnified."""
    cameras = random_rotations(n, seed)
    cameras[:, :2] = random_magnifications(n, seed).mT @ cameras[:, :2]
    return cameras


def random_ctf_coefficients(n: int, seed: int = 0) -> torch.Tensor:
    """Coefficients `(n, 15)` as of `gem3d.optics.ctf_coefficients`, with all that they can tell."""
    rng = np.random.default_rng(seed)
    columns = [rng.uniform(-900, -400, n), rng.uniform(-50, 50, n), rng.uniform(-900, -400, n)]
    columns += [mean + rng.uniform(-90, 90, n) for mean in (300.0, 0.0, 600.0, 0.0, 300.0)]
    columns += [np.full(n, -0.1), rng.uniform(0, 20, n), rng.uniform(0.8, 1.2, n)]
    return torch.from_numpy(np.column_stack([*columns, random_magnifications(n, seed).reshape(n, 4)]))


def random_slices(n: int, radius: int, seed: int = 1) -> torch.Tensor:
    """Weighted slices `(n, 2 radius + 1, radius + 1, 3)`."""
    return torch.randn(n, 2 * radius + 1, radius + 1, 3, generator=torch.Generator().manual_seed(seed))

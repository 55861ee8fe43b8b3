"""Inputs and measures that tests of the projection's CPU and GPU versions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

NAMES = ("images", "amplitude", "mean", "covariance", "rotation", "shift")
Arguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def random_rotations(n: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.tensor(Rotation.random(n, rng=rng).as_matrix(), dtype=torch.float32)


def random_case(
    seed: int, *, n: int, n_images: int, sd_px: tuple[float, float], spread_px: float
) -> Arguments:
    """Anisotropic Gaussians of scales within `sd_px`, centres within a cube, poses and shifts."""
    rng = np.random.default_rng(seed)
    axes = random_rotations(n, rng).double()
    scales = torch.tensor(np.exp(rng.uniform(*np.log(sd_px), size=(n, 3))))
    full = axes @ torch.diag_embed(scales**2) @ axes.mT
    six = torch.stack([full[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], dim=1)
    return (
        torch.tensor(rng.uniform(-1, 2, size=n), dtype=torch.float32),
        torch.tensor(rng.uniform(-spread_px, spread_px, size=(n, 3)), dtype=torch.float32),
        six.float(),
        random_rotations(n_images, rng),
        torch.tensor(rng.uniform(-3, 3, size=(n_images, 2)), dtype=torch.float32),
    )


def images_and_gradients(
    function: Callable[..., torch.Tensor],
    arguments: Sequence[torch.Tensor],
    *options: float,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """The images, and the gradients of their sum with random weights, float64 on the CPU; `options`: D, tail."""
    leaves = [t.detach().to(device, dtype, copy=True).requires_grad_() for t in arguments]
    images = function(*leaves, *options)
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    (images * weight.to(device, dtype)).sum().backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    results = [t.detach().double().cpu() for t in (images, *gradients)]
    return dict(zip(NAMES, results, strict=True))

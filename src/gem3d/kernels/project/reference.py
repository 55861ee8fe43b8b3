"""Projection of Gaussians in plain torch: every Gaussian on every pixel, any float type, differentiable.

Memory and time are proportional to n D^2 for each image: for tests, not for work.
"""

from __future__ import annotations

import math

import torch

from gem3d.kernels.voxelize.reference import unpack_symmetric


def project_reference(
    amplitudes: torch.Tensor,
    means: torch.Tensor,
    covariances: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    box_size: int,
) -> torch.Tensor:
    """Project Gaussians; arguments and result as in `gem3d.kernels.project.project`, without any cutoff."""
    full = unpack_symmetric(covariances)
    pixel = torch.arange(box_size, dtype=means.dtype, device=means.device) - box_size // 2
    y, x = torch.meshgrid(pixel, pixel, indexing="ij")
    images = []
    for rotation, shift in zip(rotations, shifts_px, strict=True):
        centre = (means @ rotation.T)[:, :2] + shift
        projected = (rotation @ full @ rotation.T)[:, :2, :2]
        precision = torch.linalg.inv(projected)
        norm = 1 / (2 * math.pi * torch.sqrt(torch.linalg.det(projected)))
        offset = torch.stack([x - centre[:, 0, None, None], y - centre[:, 1, None, None]], dim=-1)
        mahalanobis = torch.einsum("nyxi,nij,nyxj->nyx", offset, precision, offset)
        images.append(torch.einsum("n,nyx->yx", amplitudes * norm, torch.exp(-mahalanobis / 2)))
    return torch.stack(images) if images else means.new_zeros((0, box_size, box_size))

"""Density of a sum of Gaussians on a voxel grid: the formula itself, in plain torch, differentiable."""

from __future__ import annotations

import math

import torch


def voxelize(
    amplitudes: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor, shape: tuple[int, int, int]
) -> torch.Tensor:
    """Evaluate V(X) = sum_j a_j N(X; mu_j, Sigma_j) at every voxel centre, without any cutoff.

    Parameters
    ----------
    amplitudes: `(n,)` masses.
    means: `(n, 3)` x, y, z in index coordinates: voxel `[k, j, i]` lies at (i, j, k).
    covariances: `(n, 6)` xx, yy, zz, xy, xz, yz in voxels squared.
    shape: `(nz, ny, nx)`.

    Returns
    -------
    `(nz, ny, nx)` mass per voxel volume.
    """
    precision = torch.linalg.inv(unpack_symmetric(covariances))
    log_det = torch.linalg.slogdet(unpack_symmetric(covariances))[1]
    density = amplitudes * torch.exp(-0.5 * log_det) / (2 * math.pi) ** 1.5
    z, y, x = (torch.arange(n, dtype=means.dtype, device=means.device) for n in shape)
    grid = torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
    offset = grid - means[:, None, None, None, :]
    distance = torch.einsum("nzyxi,nij,nzyxj->nzyx", offset, precision, offset)
    return torch.einsum("n,nzyx->zyx", density, torch.exp(-0.5 * distance))


def unpack_symmetric(packed: torch.Tensor) -> torch.Tensor:
    """`(n, 6)` xx, yy, zz, xy, xz, yz -> `(n, 3, 3)`."""
    xx, yy, zz, xy, xz, yz = packed.unbind(-1)
    rows = [xx, xy, xz, xy, yy, yz, xz, yz, zz]
    return torch.stack(rows, dim=-1).reshape(*packed.shape[:-1], 3, 3)

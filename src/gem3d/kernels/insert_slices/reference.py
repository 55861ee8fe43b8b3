"""Weighted central slices added to a Fourier volume by trilinear insertion: the formulas, in plain torch.

Geometry. Frequencies are counted in Fourier pixels of the unpadded box (1 / (D pixel_size)). The accumulator is
sampled twice as finely, so that the sample k of the image with pose A is added around `2 A^T (kx, ky, 0)`. Only the
half space x >= 0 is stored (the other half is the complex conjugate); see `accumulator_shape`.
"""

from __future__ import annotations

import math

import torch

PADDING = 2


def accumulator_shape(radius: int) -> tuple[int, int, int, int]:
    """Shape `(2e + 1, 2e + 1, e + 1, 3)` of an accumulator for image frequencies up to `radius` Fourier pixels.

    z and y run from -e to e, x from 0 to e, in padded Fourier pixels; the last axis holds the real and the imaginary
    part of the data and the weight.
    """
    extent = PADDING * radius + 1
    return 2 * extent + 1, 2 * extent + 1, extent + 1, 3


def slice_shape(radius: int) -> tuple[int, int, int]:
    """Shape of a weighted slice: ky from -radius to radius, kx from 0 to radius, real and imaginary part, weight."""
    return 2 * radius + 1, radius + 1, 3


def weigh_slices(
    transforms: torch.Tensor,
    ctf: torch.Tensor,
    shifts_px: torch.Tensor,
    sample_weight: torch.Tensor,
) -> torch.Tensor:
    """Multiply image transforms by CTF, phase of the shift and weight.

    Parameters
    ----------
    transforms: `(b, D, D//2 + 1)` complex, rfft2 of the images as stored (centre at pixel D//2).
    ctf: `(b, 2 radius + 1, radius + 1)`.
    shifts_px: `(b, 2)` x, y: where the model's centre appears, relative to pixel D//2.
    sample_weight: `(2 radius + 1, radius + 1)`, usually from `gem3d.kernels.insert_slices.half_plane_weight`.

    Returns
    -------
    `(b, 2 radius + 1, radius + 1, 3)`: real and imaginary part of C Y exp(+2 pi i k.t) w, and C^2 w; ky from
    -radius to radius, kx from 0 to radius.
    """
    box_size = transforms.shape[1]
    radius = sample_weight.shape[1] - 1
    ky = torch.arange(-radius, radius + 1)
    kx = torch.arange(radius + 1)
    y = transforms[:, ky % box_size][:, :, : radius + 1]
    centre = (shifts_px + box_size // 2)[:, :, None, None]
    angle = 2 * math.pi / box_size * (kx * centre[:, 0] + ky[:, None] * centre[:, 1])
    data = y * torch.exp(1j * angle) * ctf * sample_weight
    return torch.stack([data.real, data.imag, ctf**2 * sample_weight], dim=-1)


def insert_slices(accumulator: torch.Tensor, weighted: torch.Tensor, rotations: torch.Tensor) -> None:
    """Add weighted slices to the accumulator, in place.

    Parameters
    ----------
    accumulator: `accumulator_shape(radius)`.
    weighted: `(b, 2 radius + 1, radius + 1, 3)` from `weigh_slices`.
    rotations: `(b, 3, 3)`, the poses A, or matrices that magnify as well.
    """
    radius = weighted.shape[2] - 1
    extent = PADDING * radius + 1
    ky = torch.arange(-radius, radius + 1, dtype=rotations.dtype)
    kx = torch.arange(radius + 1, dtype=rotations.dtype)
    inside = ((ky[:, None] ** 2 + kx**2) < (radius + 0.5) ** 2) & ((kx > 0) | (ky[:, None] >= 0))
    flat = accumulator.view(-1, 3)
    for slice_, rotation in zip(weighted, rotations, strict=True):
        values = slice_[inside].clone()
        points = PADDING * (kx[:, None] * rotation[0] + ky[:, None, None] * rotation[1])[inside]
        has_place = points.square().sum(1) < extent**2
        points, values = points[has_place], values[has_place]
        conjugate = points[:, 0] < 0
        points[conjugate] *= -1
        values[:, 1][conjugate] *= -1
        base = points.floor()
        fraction = points - base
        base = base.long()
        for corner in range(8):
            offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
            share = torch.where(offset.bool(), fraction, 1 - fraction).prod(dim=1)
            x, y, z = (base + offset).unbind(1)
            index = ((z + extent) * (2 * extent + 1) + y + extent) * (extent + 1) + x
            flat.index_add_(0, index, values * share[:, None])

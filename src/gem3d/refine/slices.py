"""The transform of a map, sampled finely enough to read slices from it."""

from __future__ import annotations

import torch

from gem3d.kernels.compare_slices import volume_shape
from gem3d.kernels.insert_slices import PADDING


def transform_for_slices(density: torch.Tensor, shell_weight: torch.Tensor) -> torch.Tensor:
    """Transform of a map on a grid padded to twice the box, with a weight per shell.

    The map is divided by the transform of the trilinear kernel, sinc^2(r / 2D) along each axis: what interpolation
    will multiply it by. The padded volume is never held: each axis is transformed by a matrix with the frequencies
    that are needed only, which is faster than an FFT whose input is mostly zeros and whose output is mostly cut off.

    Parameters
    ----------
    density: `(D, D, D)` float32 [z, y, x], the centre at D//2.
    shell_weight: `(radius + 1,)` float32, interpolated linearly between shells; slices go up to `radius`
        Fourier pixels.

    Returns
    -------
    `volume_shape(radius)` float32: weight(|k| / 2) sum over voxels r of V(r) exp(-2 pi i k.r / 2D).
    """
    radius = len(shell_weight) - 1
    box = len(density)
    extent = volume_shape(radius)[2] - 1
    position = torch.arange(box, dtype=torch.float64) - box // 2
    frequency = torch.arange(-extent, extent + 1, dtype=torch.float64)
    angle = frequency[:, None] * position * (-2 * torch.pi / (PADDING * box))
    correction = 1 / torch.sinc(position / (PADDING * box)) ** 2
    along = torch.polar(correction.expand_as(angle).contiguous(), angle).to(torch.complex64)
    half = along[extent:]
    values = torch.complex(density @ half.real.T, density @ half.imag.T)
    values = torch.einsum("kz,zyx->kyx", along, values)
    values = torch.einsum("ky,zyx->zkx", along, values)
    values = values.contiguous()
    values *= _between_shells(shell_weight, extent)
    return torch.view_as_real(values)


def _between_shells(shell_weight: torch.Tensor, extent: int) -> torch.Tensor:
    """The weight at every voxel of the half space, `(2 extent + 1, 2 extent + 1, extent + 1)`."""
    squared = torch.arange(-extent, extent + 1).float().square()
    shell = (squared[:, None, None] + squared[:, None] + squared[extent:]).sqrt_() / PADDING
    last = len(shell_weight) - 1
    below = shell.floor().clamp_(max=last).long()
    values = shell_weight[below]
    return values.lerp_(shell_weight[(below + 1).clamp_(max=last)], shell.frac())

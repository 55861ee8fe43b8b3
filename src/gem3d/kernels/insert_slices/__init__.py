"""Weighted central slices, added to a Fourier volume."""

from __future__ import annotations

import torch

from gem3d.kernels.backend import deterministic, load_gpu, uses_triton
from gem3d.kernels.insert_slices import cpu
from gem3d.kernels.insert_slices.reference import PADDING, accumulator_shape, slice_shape

__all__ = [
    "PADDING",
    "accumulator_shape",
    "half_plane_weight",
    "insert_slices",
    "per_fourier_pixel",
    "slice_shape",
    "weigh_slices",
]


def half_plane_weight(shell_weight: torch.Tensor) -> torch.Tensor:
    """Spread a weight per shell over the stored half of the Fourier plane.

    The samples stand for themselves and for their complex conjugates, so the origin, its own conjugate, gets half
    its weight and the repeated half of the line kx = 0 gets none. Beyond the last shell the weight is zero.

    Parameters
    ----------
    shell_weight: `(radius + 1,)` float32, for shells 0 to radius (nearest integer of |k|).

    Returns
    -------
    `(2 radius + 1, radius + 1)` float32, ky from -radius to radius, kx from 0 to radius.
    """
    radius = len(shell_weight) - 1
    device = shell_weight.device
    ky = torch.arange(-radius, radius + 1, device=device)[:, None]
    kx = torch.arange(radius + 1, device=device)
    shell = torch.round(torch.sqrt((kx**2 + ky**2).double())).long()
    weight = torch.where(shell <= radius, shell_weight[shell.clamp(max=radius)], 0.0)
    weight[:radius, 0] = 0
    weight[radius, 0] /= 2
    return weight.contiguous()


def per_fourier_pixel(ctf_coefficients: torch.Tensor, frequency_step_per_A: float) -> torch.Tensor:
    """CTF coefficients `(b, 15)` of `gem3d.optics`, for frequencies in Fourier pixels and a phase in half turns."""
    f = frequency_step_per_A
    # Gamma is in radians, which are half turns over pi; numbers, because a tensor made of them on the host would have
    # to wait for the device.
    units = (f * f / torch.pi,) * 3 + (f**4 / torch.pi,) * 5 + (1 / torch.pi, f * f) + (1.0,) * 5
    columns = ctf_coefficients.double().unbind(1)
    return torch.stack([c * unit for c, unit in zip(columns, units, strict=True)], dim=1).float()


def weigh_slices(
    transforms: torch.Tensor,
    ctf_coefficients: torch.Tensor | None,
    shifts_px: torch.Tensor,
    sample_weight: torch.Tensor,
    frequency_step_per_A: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply image transforms by CTF, phase of the shift and weight.

    Parameters
    ----------
    transforms: `(b, D, D//2 + 1)` complex64, rfft2 of the images as stored (centre at pixel D//2).
    ctf_coefficients: `(b, 15)` from `gem3d.optics.ctf_coefficients`, or None for images without a CTF.
    shifts_px: `(b, 2)` x, y: where the model's centre appears, relative to pixel D//2.
    sample_weight: `(2 radius + 1, radius + 1)` float32 from `half_plane_weight`.
    frequency_step_per_A: width of a Fourier pixel, 1 / (D pixel_size_A).
    out: memory for the result.

    Returns
    -------
    `(b, 2 radius + 1, radius + 1, 3)` float32: real and imaginary part of C Y exp(+2 pi i k.t) w, and C^2 w.
    """
    radius = sample_weight.shape[1] - 1
    n = len(transforms)
    per_pixel = None
    if ctf_coefficients is not None:
        per_pixel = per_fourier_pixel(ctf_coefficients, frequency_step_per_A)
    if out is None:
        out = torch.empty((n, *slice_shape(radius)), device=transforms.device)
    pairs = torch.view_as_real(transforms).contiguous()
    if uses_triton(transforms):
        load_gpu(__name__).weigh_slices(pairs, per_pixel, shifts_px.double().contiguous(), sample_weight, out)
    else:
        coefficients = torch.empty((n, 0)) if per_pixel is None else per_pixel
        cpu.weigh_slices(
            pairs.numpy(),
            coefficients.numpy(),
            shifts_px.double().numpy(),
            sample_weight.numpy(),
            out.numpy(),
        )
    return out


def insert_slices(accumulator: torch.Tensor, weighted: torch.Tensor, rotations: torch.Tensor) -> None:
    """Add weighted slices to the accumulator by trilinear insertion, in place.

    The plane x = 0 receives each sample once; `NormalEquations` adds the complex conjugates there at the end.

    Parameters
    ----------
    accumulator: `accumulator_shape(radius)` float32.
    weighted: `(b, 2 radius + 1, radius + 1, 3)` from `weigh_slices`.
    rotations: `(b, 3, 3)`, the poses A, or the matrices of `gem3d.optics.camera_matrices`. Of a magnified slice what
        lies beyond the accumulator's last shell is left out.
    """
    radius = weighted.shape[2] - 1
    if accumulator.shape != accumulator_shape(radius):
        expected, found = accumulator_shape(radius), tuple(accumulator.shape)
        raise ValueError(f"accumulator for radius {radius} must be {expected}, not {found}")
    if uses_triton(accumulator):
        load_gpu(__name__).insert_slices(
            accumulator, weighted.contiguous(), rotations.double().contiguous(), reproducible=deterministic()
        )
    else:
        cpu.insert_slices(accumulator.numpy(), weighted.numpy(), rotations.double().numpy())

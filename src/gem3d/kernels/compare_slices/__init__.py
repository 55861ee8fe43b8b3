"""Central slices of a map against particle images: loss, gradient and normal matrix of each image.

`reference.py` has the formulas in plain torch, `cpu.py` is the fast one. This is the only place that looks at the
device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gem3d.kernels.compare_slices import cpu
from gem3d.kernels.compare_slices.reference import N_PARAMETERS, volume_shape
from gem3d.kernels.insert_slices import per_fourier_pixel

__all__ = ["N_PARAMETERS", "SliceComparison", "compare_slices", "volume_shape"]


@dataclass(frozen=True)
class SliceComparison:
    """How well slices fit their images, in the parameters turn x, y, z (radians), shift x, y (pixels), defocus (A)
    and contrast.

    Attributes
    ----------
    loss: `(b,)` float64, sum over Fourier pixels of w |M - Y|^2, less its constant part sum of w |Y|^2.
    gradient: `(b, 7)` float64, of the loss.
    normal: `(b, 7, 7)` float64, 2 Re J^H w J with J the derivatives of M: the loss' second derivative without that of
        the model.
    """

    loss: torch.Tensor
    gradient: torch.Tensor
    normal: torch.Tensor


def compare_slices(
    volume: torch.Tensor,
    transforms: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    ctf_coefficients: torch.Tensor,
    defocus_rates: torch.Tensor,
    contrasts: torch.Tensor,
    sample_weight: torch.Tensor,
    frequency_step_per_A: float,
) -> SliceComparison:
    """Compare one slice with each image.

    Parameters
    ----------
    volume: `volume_shape(r)` float32, r not below the radius of `sample_weight`. Beyond r, where magnified slices may
        reach, it counts as zero.
    transforms: `(b, D, D//2 + 1)` complex64, rfft2 of the images as stored (centre at pixel D//2).
    rotations: `(b, 3, 3)` poses A.
    shifts_px: `(b, 2)` where the map's centre appears, relative to pixel D//2.
    ctf_coefficients: `(b, 15)`, see `gem3d.optics`; the slice is magnified as they say.
    defocus_rates: `(b,)` change of the CTF's coefficients 0 and 2 per A of defocus.
    contrasts: `(b,)` factor of each slice.
    sample_weight: `(2 radius + 1, radius + 1)` float32 from `gem3d.kernels.insert_slices.half_plane_weight`; with
        1 / noise power in it the loss is minus the logarithm of the likelihood.
    frequency_step_per_A: width of a Fourier pixel, 1 / (D pixel_size_A).
    """
    n, radius = len(transforms), sample_weight.shape[1] - 1
    if volume.ndim != 4 or volume.shape != volume_shape((volume.shape[2] - 2) // 2):
        raise ValueError(f"no volume for slices: shape {tuple(volume.shape)}")
    if not volume.is_contiguous():
        raise ValueError(
            "the volume must be contiguous: a copy for every comparison would cost more than the work"
        )
    if volume.shape[2] < volume_shape(radius)[2]:
        raise ValueError(f"a volume of shape {tuple(volume.shape)} has no slices up to radius {radius}")
    out = (
        torch.empty(n, dtype=torch.float64),
        torch.empty(n, N_PARAMETERS, dtype=torch.float64),
        torch.empty(n, N_PARAMETERS, N_PARAMETERS, dtype=torch.float64),
    )
    half_turns = defocus_rates * (frequency_step_per_A**2 / torch.pi)
    cpu.compare_slices(
        volume.numpy(),
        torch.view_as_real(transforms).numpy(),
        rotations.double().contiguous().numpy(),
        shifts_px.double().contiguous().numpy(),
        per_fourier_pixel(ctf_coefficients, frequency_step_per_A).numpy(),
        half_turns.float().numpy(),
        contrasts.float().contiguous().numpy(),
        sample_weight.numpy(),
        (out[0].numpy(), out[1].numpy(), out[2].numpy()),
    )
    return SliceComparison(*out)

"""Central slices of a Fourier volume against images: the formulas, in plain torch, for any floating type.

The model of image i with the pose A, the shift t, the CTF C and the contrast s, at the Fourier pixel k = (kx, ky):

    M(k) = s C(k) V(A^T (u, v, 0)) exp(-2 pi i k.(t + D//2) / D)

(u, v) is k, or what the magnification in the CTF's coefficients makes of it. V is read by trilinear interpolation
from a volume sampled twice as finely as the box, and is zero beyond its radius. The parameters in which a
comparison is differentiated are small changes of these: a turn v (radians; A -> exp([v]x) A), the shift (pixels), the
defocus (A, of U and V alike) and the contrast.
"""

from __future__ import annotations

import math

import torch

from gem3d.kernels.insert_slices.reference import PADDING

N_PARAMETERS = 7
"""Turn x, y, z, shift x, y, defocus, contrast."""


def volume_shape(radius: int) -> tuple[int, int, int, int]:
    """Shape `(2e + 1, 2e + 1, e + 1, 2)` of a volume for image frequencies up to `radius` Fourier pixels.

    z and y run from -e to e, x from 0 to e, in padded Fourier pixels; the last axis holds real and imaginary part.
    """
    extent = PADDING * radius + 1
    return 2 * extent + 1, 2 * extent + 1, extent + 1, 2


def frequencies(radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kx and ky of the stored half of the Fourier plane, each `(2 radius + 1, radius + 1)`."""
    ky, kx = torch.meshgrid(
        torch.arange(-radius, radius + 1).double(), torch.arange(radius + 1).double(), indexing="ij"
    )
    return kx, ky


def interpolate(volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Trilinear interpolation.

    Parameters
    ----------
    volume: `volume_shape(radius)`.
    points: `(n, 3)` x, y, z in padded Fourier pixels, anywhere within the radius.

    Returns
    -------
    `(n,)` complex
    """
    extent = volume.shape[2] - 1
    conjugate = points[:, 0] < 0
    points = torch.where(conjugate[:, None], -points, points)
    base = points.detach().floor()
    fraction = points - base
    values = torch.zeros(len(points), dtype=torch.promote_types(volume.dtype, torch.complex64))
    for corner in range(8):
        offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        share = torch.where(offset.bool(), fraction, 1 - fraction).prod(dim=1)
        x, y, z = (base.long() + offset).unbind(1)
        values = values + torch.view_as_complex(volume[z + extent, y + extent, x]) * share
    return torch.where(conjugate, values.conj(), values)


def model(
    volume: torch.Tensor,
    rotation: torch.Tensor,
    shift_px: torch.Tensor,
    coefficients: torch.Tensor,
    defocus_rate: torch.Tensor,
    contrast: torch.Tensor,
    change: torch.Tensor,
    box_size: int,
    radius: int,
) -> torch.Tensor:
    """The slice that one image is compared with.

    Parameters
    ----------
    volume: `volume_shape(r)`, r >= radius.
    rotation: `(3, 3)`; shift_px: `(2,)`.
    coefficients: `(15,)` of the CTF per Fourier pixel, see `gem3d.optics`.
    defocus_rate: change of the coefficients 0 and 2 per A of defocus.
    change: `(7,)` of the parameters.

    Returns
    -------
    `(2 radius + 1, radius + 1)` complex, zero beyond the radius.
    """
    kx, ky = frequencies(radius)
    inside = kx**2 + ky**2 < (radius + 0.5) ** 2
    kx, ky = kx[inside], ky[inside]
    zero = torch.zeros_like(change[0])
    x, y, z = change[:3]
    cross = torch.stack([torch.stack([zero, -z, y]), torch.stack([z, zero, -x]), torch.stack([-y, x, zero])])
    turned = torch.linalg.matrix_exp(cross) @ rotation
    c = coefficients
    u, v = c[11] * kx + c[12] * ky, c[13] * kx + c[14] * ky
    points = PADDING * (u[:, None] * turned[0] + v[:, None] * turned[1])
    has_value = points.detach().square().sum(1) < (volume.shape[2] - 1) ** 2
    slice_ = interpolate(volume, points * has_value[:, None]) * has_value
    gamma = c[0] * u**2 + c[1] * u * v + c[2] * v**2 + c[8]
    gamma = gamma + c[3] * u**4 + c[4] * u**3 * v + c[5] * u**2 * v**2 + c[6] * u * v**3 + c[7] * v**4
    s = u**2 + v**2
    gamma = gamma + defocus_rate * change[5] * s
    ctf = -torch.sin(gamma) * c[10] * torch.exp(-c[9] * s)
    centre = shift_px + change[3:5] + box_size // 2
    phase = torch.exp(-2j * math.pi / box_size * (kx * centre[0] + ky * centre[1]))
    out = torch.zeros(2 * radius + 1, radius + 1, dtype=slice_.dtype)
    out[inside] = (contrast + change[6]) * ctf * slice_ * phase
    return out


def compare_slices(
    volume: torch.Tensor,
    transforms: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    coefficients: torch.Tensor,
    defocus_rates: torch.Tensor,
    contrasts: torch.Tensor,
    sample_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss of each image, its gradient and its Gauss-Newton matrix; see the face for the parameters.

    Only `transforms` and `coefficients` differ: `(b, D, D//2 + 1)` complex of any precision, and `(b, 15)` per
    Fourier pixel.
    """
    box_size, radius = transforms.shape[1], sample_weight.shape[1] - 1
    rows = torch.arange(-radius, radius + 1) % box_size
    found = []
    for b in range(len(transforms)):
        data = transforms[b, rows][:, : radius + 1]

        def predicted(change: torch.Tensor, b: int = b) -> torch.Tensor:
            return torch.view_as_real(
                model(
                    volume,
                    rotations[b],
                    shifts_px[b],
                    coefficients[b],
                    defocus_rates[b],
                    contrasts[b],
                    change,
                    box_size,
                    radius,
                )
            )

        change = torch.zeros(N_PARAMETERS, dtype=rotations.dtype)
        slice_ = predicted(change)
        jacobian = torch.autograd.functional.jacobian(predicted, change)  # type: ignore[no-untyped-call]
        weight = sample_weight[..., None]
        residual = slice_ - torch.view_as_real(data)
        loss = (weight * slice_ * (2 * residual - slice_)).sum()
        gradient = 2 * torch.einsum("yxc,yxcp->p", weight * residual, jacobian)
        normal = 2 * torch.einsum("yxcp,yxcq->pq", weight[..., None] * jacobian, jacobian)
        found.append((loss, gradient, normal))
    losses, gradients, normals = zip(*found, strict=True)
    return torch.stack(losses), torch.stack(gradients), torch.stack(normals)

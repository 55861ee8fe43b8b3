"""The contrast transfer function (CTF), with RELION's conventions.

    gamma(k) = -pi lambda df(k) k^2 + pi/2 Cs lambda^3 k^4 - phase_shift - asin(amplitude_contrast)
    CTF(k)   = -sin(gamma) scale exp(-B k^2 / 4)

The astigmatic defocus is written as a quadratic form in (kx, ky), so there is no atan2, no square root and every
derivative is finite:

    df(k) k^2 = (dfU + dfV)/2 (kx^2 + ky^2) + (dfU - dfV)/2 ((kx^2 - ky^2) cos 2a + 2 kx ky sin 2a)

Symmetric aberrations, such as tetrafoil, add to gamma. Antisymmetric ones, such as beam tilt and trefoil, turn the
phase of an image's transform; with known ones it is turned back, which leaves the noise what it was. Where a
microscope magnifies unevenly, an image shows at the frequency k what a true one shows at M k: CTF, phases and slice
are all those of M k.

Formulas: Rohou & Grigorieff 2015, J. Struct. Biol. 192:216; Zivanov et al. 2020, IUCrJ 7:253. Signs were checked
against RELION (white particles: the CTF is positive at k = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gem3d.particles import OpticsGroup, Particles

# Columns of the coefficients of a CTF; of gamma those of u^2, uv, v^2, then u^4, u^3 v, u^2 v^2, u v^3, v^4.
QUADRATIC, QUARTIC, OFFSET, BLUR, SCALE, MAGNIFICATION = slice(0, 3), slice(3, 8), 8, 9, 10, slice(11, 15)
N_CTF_COEFFICIENTS = 15
N_GAMMA_COEFFICIENTS = 9
N_PHASE_COEFFICIENTS = 6
NO_MAGNIFICATION = (1.0, 0.0, 0.0, 1.0)
MOST_DISTORTION = 0.1
"""By which a magnification may change a length: no microscope's changes it by more, and kernels rely on it."""
MOST_KNOWN_FACTORS = 64
"""Sets of aberrations whose phase factors are kept; where there are more, as of beam shifts, they are made anew."""


def electron_wavelength_A(voltage_kV: float) -> float:
    """Relativistic electron wavelength in angstroms."""
    volts = voltage_kV * 1e3
    return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


def ctf_coefficients(
    particles: Particles, dtype: type[np.floating[Any]] = np.float64
) -> NDArray[np.floating[Any]]:
    """Coefficients of each particle's CTF as a polynomial in frequency.

    Parameters
    ----------
    dtype: of the result; with float32, in half the memory, each term of gamma is off by 6e-8 of itself at most.

    Returns
    -------
    `(n, 15)` c: with (kx, ky) in 1/A, u = c11 kx + c12 ky, v = c13 kx + c14 ky and s = u^2 + v^2,
    ``gamma = c0 u^2 + c1 uv + c2 v^2 + c3 u^4 + c4 u^3 v + c5 u^2 v^2 + c6 u v^3 + c7 v^4 + c8`` and
    ``CTF = -sin(gamma) c10 exp(-c9 s)``.
    """
    groups = particles.optics
    index = particles.optics_index
    wavelength_A = np.array([electron_wavelength_A(g.voltage_kV) for g in groups])[index]
    cs_A = np.array([g.spherical_aberration_mm * 1e7 for g in groups])[index]
    amplitude_contrast = np.array([g.amplitude_contrast for g in groups])[index]

    mean = particles.defocus_A.mean(axis=1)
    half_difference = (particles.defocus_A[:, 0] - particles.defocus_A[:, 1]) / 2
    angle = np.deg2rad(particles.astigmatism_deg)
    quadratic = -np.pi * wavelength_A
    coefficients = np.zeros((len(particles), N_CTF_COEFFICIENTS), dtype)
    coefficients[:, 0] = quadratic * (mean + half_difference * np.cos(2 * angle))
    coefficients[:, 1] = quadratic * 2 * half_difference * np.sin(2 * angle)
    coefficients[:, 2] = quadratic * (mean - half_difference * np.cos(2 * angle))
    coefficients[:, QUARTIC] = (0.5 * np.pi * cs_A * wavelength_A**3)[:, None] * (1, 0, 2, 0, 1)
    coefficients[:, OFFSET] = -np.deg2rad(particles.phase_shift_deg) - np.arcsin(amplitude_contrast)
    if any(any(g.gamma_coefficients) for g in groups):
        coefficients[:, :N_GAMMA_COEFFICIENTS] += np.array([g.gamma_coefficients for g in groups])[index]
    coefficients[:, BLUR] = particles.ctf_bfactor_A2 / 4
    coefficients[:, SCALE] = particles.ctf_scale * particles.contrast
    coefficients[:, MAGNIFICATION] = np.array([g.magnification for g in groups])[index]
    return coefficients


def camera_matrices(particles: Particles) -> NDArray[np.float64]:
    """`(n, 3, 3)`: a map point X appears in the image of a particle at the first two of `matrices[i] @ X`.

    These are the poses A with their first two rows mixed by the transposed magnification: a slice at A^T (M k) is
    one at (M^T A)^T k.
    """
    if all(group.magnification == NO_MAGNIFICATION for group in particles.optics):
        return particles.rotations
    of_groups = np.array([group.magnification for group in particles.optics]).reshape(-1, 2, 2)
    matrices = particles.rotations.copy()
    magnification = of_groups[particles.optics_index]
    matrices[:, :2] = np.einsum("nji,njk->nik", magnification, particles.rotations[:, :2])
    return matrices


def defocus_rates(particles: Particles) -> NDArray[np.float64]:
    """`(n,)` change of the coefficients c0 and c2 per A that is added to both defoci: -pi lambda."""
    wavelength_A = np.array([electron_wavelength_A(g.voltage_kV) for g in particles.optics])
    rates: NDArray[np.float64] = -np.pi * wavelength_A[particles.optics_index]
    return rates


def contrast_transfer_function(
    coefficients: torch.Tensor, kx_per_A: torch.Tensor, ky_per_A: torch.Tensor
) -> torch.Tensor:
    """CTF at the given frequencies.

    Parameters
    ----------
    coefficients: `(n, 15)` from `ctf_coefficients`.
    kx_per_A, ky_per_A: frequencies in 1/A, broadcastable to one another, `(...)`.

    Returns
    -------
    `(n, ...)`
    """
    kx, ky = kx_per_A + 0 * ky_per_A, ky_per_A + 0 * kx_per_A
    dtype = torch.promote_types(coefficients.dtype, kx.dtype)
    c, kx, ky = coefficients.to(dtype), kx.to(dtype), ky.to(dtype)
    n = len(c)
    xx, xy, yx, yy = c[:, MAGNIFICATION].unbind(1)
    # u^2, uv and v^2 as forms in kx^2, kx ky and ky^2; gamma is a form in these, whatever M is: one matrix product.
    rows = (
        (xx * xx, 2 * xx * xy, xy * xy),
        (xx * yx, xx * yy + xy * yx, xy * yy),
        (yx * yx, 2 * yx * yy, yy * yy),
    )
    forms = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    none = torch.zeros_like(c[:, 0])
    quartic = torch.stack([c[:, 3], c[:, 4], c[:, 5], none, none, c[:, 6], none, none, c[:, 7]], dim=1)
    quartic = forms.mT @ quartic.view(n, 3, 3) @ forms
    quadratic = (c[:, None, QUADRATIC] @ forms)[:, 0]
    squares = torch.stack([kx * kx, kx * ky, ky * ky]).flatten(1)
    products = (squares[:, None] * squares).flatten(0, 1)
    gamma = torch.cat([quadratic, quartic.flatten(1)], dim=1) @ torch.cat([squares, products])
    blur = (forms[:, 0] + forms[:, 2]) * c[:, BLUR, None] @ squares
    ctf = -torch.sin(gamma + c[:, OFFSET, None]) * c[:, SCALE, None] * torch.exp(-blur)
    return ctf.view(n, *kx.shape)


def antisymmetric_phase(
    coefficients: Sequence[float], kx_per_A: torch.Tensor, ky_per_A: torch.Tensor
) -> torch.Tensor:
    """Phase in radians by which aberrations turn an image's transform at the given frequencies.

    Parameters
    ----------
    coefficients: six, of kx, ky, kx^3, kx^2 ky, kx ky^2 and ky^3: `OpticsGroup.phase_coefficients`.
    kx_per_A, ky_per_A: frequencies in 1/A, broadcastable to one another.
    """
    x, y, xxx, xxy, xyy, yyy = coefficients
    kx, ky = kx_per_A, ky_per_A
    return kx * (x + xxx * kx * kx + xyy * ky * ky) + ky * (y + yyy * ky * ky + xxy * kx * kx)


@lru_cache(maxsize=MOST_KNOWN_FACTORS)
def phase_factors(
    group: OpticsGroup,
    box_size_px: int,
    pixel_size_A: float,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> torch.Tensor:
    """`(D, D // 2 + 1)` complex64 factors exp(i phase) of an `rfft2`, on a device, which must not be changed."""
    kx = torch.fft.rfftfreq(box_size_px, dtype=torch.float64) / pixel_size_A
    ky = torch.fft.fftfreq(box_size_px, dtype=torch.float64)[:, None] / pixel_size_A
    xx, xy, yx, yy = group.magnification
    phase = antisymmetric_phase(group.phase_coefficients, xx * kx + xy * ky, yx * kx + yy * ky)
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64).to(device)

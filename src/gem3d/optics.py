"""The contrast transfer function (CTF), with RELION's conventions.

    gamma(k) = -pi lambda df(k) k^2 + pi/2 Cs lambda^3 k^4 - phase_shift - asin(amplitude_contrast)
    CTF(k)   = -sin(gamma) scale exp(-B k^2 / 4)

The astigmatic defocus is written as a quadratic form in (kx, ky), so there is no atan2, no square root and every
derivative is finite:

    df(k) k^2 = (dfU + dfV)/2 (kx^2 + ky^2) + (dfU - dfV)/2 ((kx^2 - ky^2) cos 2a + 2 kx ky sin 2a)

Formulas: Rohou & Grigorieff 2015, J. Struct. Biol. 192:216; signs checked against RELION (white particles: the
CTF is positive at k = 0). Antisymmetric aberrations, such as beam tilt and trefoil, turn the phase of an image's
transform (Zivanov et al. 2020, IUCrJ 7:253); with known ones it is turned back, which leaves the noise what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gem3d.particles import Particles

N_CTF_COEFFICIENTS = 7
N_PHASE_COEFFICIENTS = 6
MOST_KNOWN_FACTORS = 64
"""Sets of aberrations whose phase factors are kept; where there are more, as of beam shifts, they are made anew."""


def electron_wavelength_A(voltage_kV: float) -> float:
    """Relativistic electron wavelength in angstroms."""
    volts = voltage_kV * 1e3
    return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


def ctf_coefficients(particles: Particles) -> NDArray[np.float64]:
    """Coefficients of each particle's CTF as a polynomial in frequency.

    Returns
    -------
    `(n, 7)`: with (kx, ky) in 1/A and s = kx^2 + ky^2,
    ``gamma = c0 kx^2 + c1 kx ky + c2 ky^2 + c3 s^2 + c4`` and ``CTF = -sin(gamma) c6 exp(-c5 s)``.
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
    return np.stack(
        [
            quadratic * (mean + half_difference * np.cos(2 * angle)),
            quadratic * 2 * half_difference * np.sin(2 * angle),
            quadratic * (mean - half_difference * np.cos(2 * angle)),
            0.5 * np.pi * cs_A * wavelength_A**3,
            -np.deg2rad(particles.phase_shift_deg) - np.arcsin(amplitude_contrast),
            particles.ctf_bfactor_A2 / 4,
            particles.ctf_scale * particles.contrast,
        ],
        axis=1,
    )


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
    coefficients: `(n, 7)` from `ctf_coefficients`.
    kx_per_A, ky_per_A: frequencies in 1/A, broadcastable to one another, `(...)`.

    Returns
    -------
    `(n, ...)`
    """
    kx, ky = kx_per_A + 0 * ky_per_A, ky_per_A + 0 * kx_per_A
    c = coefficients.reshape(coefficients.shape + (1,) * kx.ndim).unbind(1)
    s = kx * kx + ky * ky
    gamma = c[0] * kx * kx + c[1] * kx * ky + c[2] * ky * ky + c[3] * s * s + c[4]
    return -torch.sin(gamma) * c[6] * torch.exp(-c[5] * s)


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
    coefficients: tuple[float, ...],
    box_size_px: int,
    pixel_size_A: float,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> torch.Tensor:
    """`(D, D // 2 + 1)` complex64 factors exp(i phase) of an `rfft2`, on a device, which must not be changed."""
    kx = torch.fft.rfftfreq(box_size_px, dtype=torch.float64) / pixel_size_A
    ky = torch.fft.fftfreq(box_size_px, dtype=torch.float64)[:, None] / pixel_size_A
    phase = antisymmetric_phase(coefficients, kx, ky)
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64).to(device)

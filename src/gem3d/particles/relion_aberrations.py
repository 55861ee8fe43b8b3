"""RELION's antisymmetric aberrations as polynomials in frequency: see `gem3d.optics.antisymmetric_phase`.

Beam tilt (tx, ty) in mrad turns an image's transform by -2 pi 1e-3 Cs lambda^2 k^2 (tx kx + ty ky); odd Zernike
polynomials (Zivanov et al. 2020, IUCrJ 7:253) stand for a phase in radians on frequencies in 1/A, not on the unit
disc. They are numbered by degree n = 1, 1, 3, 3, 3, 3 and m = -1, 1, -3, -1, 1, 3; negative m are sines.
All signs were checked with relion_reconstruct of RELION 3.1: from images with each aberration it gives the true map
where the column says so, and a worse one where it does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.optics import N_PHASE_COEFFICIENTS, electron_wavelength_A

_LARGEST_RADIANS = 1e12
# Columns: kx, ky, kx^3, kx^2 ky, kx ky^2, ky^3.
_ODD_ZERNIKE = np.array(
    [
        [0, 1, 0, 0, 0, 0],  # r sin a
        [1, 0, 0, 0, 0, 0],  # r cos a
        [0, 0, 0, 3, 0, -1],  # r^3 sin 3a
        [0, -2, 0, 3, 0, 3],  # (3 r^3 - 2 r) sin a
        [-2, 0, 3, 0, 3, 0],  # (3 r^3 - 2 r) cos a
        [0, 0, 1, 0, -3, 0],  # r^3 cos 3a
    ],
    dtype=np.float64,
)


def of_beam_tilt(
    tilt_mrad: NDArray[np.float64],
    voltage_kV: NDArray[np.float64],
    spherical_aberration_mm: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`(n, 6)` coefficients, in radians.

    Parameters
    ----------
    tilt_mrad: `(n, 2)`, rlnBeamTiltX and rlnBeamTiltY.
    voltage_kV, spherical_aberration_mm: `(n,)`.
    """
    voltages, index = np.unique(voltage_kV, return_inverse=True)
    wavelength_A = np.array([electron_wavelength_A(voltage) for voltage in voltages])[index]
    x, y = (-2e-3 * np.pi * 1e7 * spherical_aberration_mm * wavelength_A**2 * tilt for tilt in tilt_mrad.T)
    none = np.zeros_like(x)
    return np.stack([none, none, x, y, x, y], axis=1)


def of_odd_zernike(text: str) -> tuple[NDArray[np.float64], bool]:
    """`(6,)` coefficients of an rlnOddZernike such as `[0,0,0.5]`, and whether they are all that there is.

    Where polynomials of a higher degree have a part, nothing is given.

    Raises
    ------
    ValueError: see `zernike_coefficients`.
    """
    values = zernike_coefficients(text)
    known = np.zeros(N_PHASE_COEFFICIENTS)
    if values[N_PHASE_COEFFICIENTS:].any():
        return known, False
    known[: len(values)] = values[:N_PHASE_COEFFICIENTS]
    return known @ _ODD_ZERNIKE, True


def zernike_coefficients(text: str) -> NDArray[np.float64]:
    """Those of an rlnOddZernike or rlnEvenZernike such as `[0,0,0.5]`.

    Raises
    ------
    ValueError: it is no list of numbers, or they are beyond anything possible.
    """
    entries = [entry for entry in text.strip("[]() ").replace(",", " ").split() if entry != "None"]
    values = np.array([float(entry) for entry in entries])
    if not (np.abs(values) <= _LARGEST_RADIANS).all():
        raise ValueError(text)
    return values


def to_odd_zernike(coefficients: tuple[float, ...]) -> str:
    """The rlnOddZernike that stands for such a phase."""
    values = np.linalg.solve(_ODD_ZERNIKE.T, np.array(coefficients))
    return "[" + ",".join(repr(value) for value in (values + 0.0).tolist()) + "]"

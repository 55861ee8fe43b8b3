"""RELION's aberrations as polynomials in frequency: see `gem3d.optics`.

Beam tilt (tx, ty) in mrad turns an image's transform by -2 pi 1e-3 Cs lambda^2 k^2 (tx kx + ty ky); odd Zernike
polynomials (Zivanov et al. 2020, IUCrJ 7:253) stand for a phase in radians on frequencies in 1/A, not on the unit
disc. They are numbered by degree n = 1, 1, 3, 3, 3, 3 and m = -1, 1, -3, -1, 1, 3; negative m are sines. Even ones,
of n = 0, 2, 2, 2, 4, 4, 4, 4, 4 and m = 0, -2, 0, 2, -4, -2, 0, 2, 4, add to gamma.
All signs were checked with relion_reconstruct of RELION 3.1: from images with each aberration it gives the true map
where the column says so, and a worse one where it does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.optics import electron_wavelength_A

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
# Columns: kx^2, kx ky, ky^2, kx^4, kx^3 ky, kx^2 ky^2, kx ky^3, ky^4 and 1.
_EVEN_ZERNIKE = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 1],
        [0, 2, 0, 0, 0, 0, 0, 0, 0],  # r^2 sin 2a
        [2, 0, 2, 0, 0, 0, 0, 0, -1],  # 2 r^2 - 1
        [1, 0, -1, 0, 0, 0, 0, 0, 0],  # r^2 cos 2a
        [0, 0, 0, 0, 4, 0, -4, 0, 0],  # r^4 sin 4a
        [0, -6, 0, 0, 8, 0, 8, 0, 0],  # (4 r^4 - 3 r^2) sin 2a
        [-6, 0, -6, 6, 0, 12, 0, 6, 1],  # 6 r^4 - 6 r^2 + 1
        [-3, 0, 3, 4, 0, 0, 0, -4, 0],  # (4 r^4 - 3 r^2) cos 2a
        [0, 0, 0, 1, 0, -6, 0, 1, 0],  # r^4 cos 4a
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
    return _of_zernike(text, _ODD_ZERNIKE)


def of_even_zernike(text: str) -> tuple[NDArray[np.float64], bool]:
    """`(9,)` coefficients of an rlnEvenZernike, and whether they are all that there is; as `of_odd_zernike`."""
    return _of_zernike(text, _EVEN_ZERNIKE)


def _of_zernike(text: str, polynomials: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    values, known = zernike_coefficients(text), np.zeros(len(polynomials))
    if values[len(known) :].any():
        return known, False
    known[: len(values)] = values[: len(known)]
    return known @ polynomials, True


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
    return _to_zernike(coefficients, _ODD_ZERNIKE)


def to_even_zernike(coefficients: tuple[float, ...]) -> str:
    """The rlnEvenZernike that adds so to gamma."""
    return _to_zernike(coefficients, _EVEN_ZERNIKE)


def _to_zernike(coefficients: tuple[float, ...], polynomials: NDArray[np.float64]) -> str:
    values = np.linalg.solve(polynomials.T, np.array(coefficients))
    return "[" + ",".join(repr(value) for value in (values + 0.0).tolist()) + "]"

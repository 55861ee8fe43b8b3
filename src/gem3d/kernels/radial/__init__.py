"""Functions of |k| alone on half spectra: sums at each |k|, and a factor for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.kernels.radial import cpu

__all__ = ["multiply_radially", "radial_products"]


def radial_products(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Sums over all frequencies k of one |k| of Re A conj(B), |A|^2 and |B|^2, the missing half counted.

    Parameters
    ----------
    a, b: `(D, D, D//2 + 1)` half spectra of real maps; may be one and the same.

    Returns
    -------
    `(3, n)` for |k|^2 = 0, 1, ..., n - 1 in Fourier pixels, up to the corners; summed in float64, to the same bits
    on any number of threads.
    """
    _check(a)
    if b.shape != a.shape:
        raise ValueError(f"half spectra of shapes {a.shape} and {b.shape}")
    return cpu.radial_products(a, b)


def multiply_radially(spectrum: NDArray[np.complex64], factor: NDArray[np.float32]) -> None:
    """Multiply a half spectrum `(D, D, D//2 + 1)`, in place, by `factor[|k|^2]`, |k| in Fourier pixels.

    Parameters
    ----------
    factor: `(n,)`, up to the corners of the spectrum: n is at least 3 (D//2)^2 + 1.
    """
    _check(spectrum)
    if len(factor) < 3 * (len(spectrum) // 2) ** 2 + 1:
        raise ValueError(f"{len(factor)} factors do not reach the corners of a box of {len(spectrum)}")
    cpu.multiply_radially(spectrum, factor)


def _check(spectrum: NDArray[np.complex64]) -> None:
    box_size = len(spectrum)
    if spectrum.shape != (box_size, box_size, box_size // 2 + 1) or spectrum.dtype != np.complex64:
        raise ValueError(f"no half spectrum: {spectrum.dtype} of shape {spectrum.shape}")

"""Sums and factors over |k|: the formulas, in plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def squared_frequency(box_size: int) -> NDArray[np.int64]:
    """|k|^2 on the half spectrum, `(D, D, D//2 + 1)`, in Fourier pixels."""
    full = np.rint(np.fft.fftfreq(box_size, 1 / box_size)).astype(np.int64)
    half = np.arange(box_size // 2 + 1)
    squared: NDArray[np.int64] = full[:, None, None] ** 2 + full[:, None] ** 2 + half**2
    return squared


def radial_products(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> NDArray[np.float64]:
    """See `gem3d.kernels.radial.radial_products`."""
    box_size = len(a)
    x = np.arange(box_size // 2 + 1)
    times = np.where((x == 0) | (2 * x == box_size), 1, 2)
    wide_a, wide_b = a.astype(np.complex128), b.astype(np.complex128)
    values = (wide_a * wide_b.conj()).real, np.abs(wide_a) ** 2, np.abs(wide_b) ** 2
    n = 3 * (box_size // 2) ** 2 + 1
    squared = squared_frequency(box_size).ravel()
    return np.array([np.bincount(squared, (value * times).ravel(), n) for value in values])


def multiply_radially(spectrum: NDArray[np.complex64], factor: NDArray[np.float32]) -> None:
    """See `gem3d.kernels.radial.multiply_radially`."""
    spectrum *= factor[squared_frequency(len(spectrum))]

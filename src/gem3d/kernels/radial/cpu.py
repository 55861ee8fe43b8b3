"""Radial sums and factors on the CPU: one pass over the spectrum, its planes shared out."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.threads import in_shares

# Each has sums of its own. Were there as many as threads, the last digits would depend on their number.
PARTS = 16


@numba.njit(cache=True, nogil=True)
def _radial_products(begin, end, a, b, planes_per_part, sums):  # type: ignore[no-untyped-def]
    box_size, n_x = a.shape[0], a.shape[2]
    for part in range(begin, end):
        of_part = sums[part]
        for row_z in range(part * planes_per_part, min((part + 1) * planes_per_part, box_size)):
            z = row_z if 2 * row_z <= box_size else row_z - box_size
            for row_y in range(box_size):
                y = row_y if 2 * row_y <= box_size else row_y - box_size
                for x in range(n_x):
                    times = 1.0 if x == 0 or 2 * x == box_size else 2.0
                    value_a, value_b = a[row_z, row_y, x], b[row_z, row_y, x]
                    re_a, im_a = np.float64(value_a.real), np.float64(value_a.imag)
                    re_b, im_b = np.float64(value_b.real), np.float64(value_b.imag)
                    target = of_part[z * z + y * y + x * x]
                    target[0] += times * (re_a * re_b + im_a * im_b)
                    target[1] += times * (re_a * re_a + im_a * im_a)
                    target[2] += times * (re_b * re_b + im_b * im_b)


@numba.njit(cache=True, nogil=True)
def _multiply_radially(begin, end, spectrum, factor):  # type: ignore[no-untyped-def]
    box_size, n_x = spectrum.shape[0], spectrum.shape[2]
    for row_z in range(begin, end):
        z = row_z if 2 * row_z <= box_size else row_z - box_size
        for row_y in range(box_size):
            y = row_y if 2 * row_y <= box_size else row_y - box_size
            in_plane = z * z + y * y
            for x in range(n_x):
                spectrum[row_z, row_y, x] *= factor[in_plane + x * x]


def radial_products(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Sums `(3, n)` of Re A conj(B), |A|^2, |B|^2 at each |k|^2."""
    box_size = len(a)
    sums = np.zeros((PARTS, 3 * (box_size // 2) ** 2 + 1, 3))
    in_shares(_radial_products, PARTS, a, b, -(-box_size // PARTS), sums)
    total: NDArray[np.float64] = np.ascontiguousarray(sums.sum(axis=0).T)
    return total


def multiply_radially(spectrum: NDArray[np.complex64], factor: NDArray[np.float32]) -> None:
    """Multiply `spectrum` by `factor[|k|^2]` in place."""
    in_shares(_multiply_radially, len(spectrum), spectrum, np.asarray(factor, dtype=np.float32))

"""Products over central slices on the CPU, the slices shared out."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.threads import in_shares


@numba.njit(cache=True, nogil=True)
def _slice_products(begin, end, a, b, normals, last_shell, sums):  # type: ignore[no-untyped-def]
    box_size = a.shape[0]
    farthest = (last_shell + 0.5) ** 2
    frequency = np.zeros(3, dtype=np.int64)
    for i in range(begin, end):
        axis = int(np.argmax(np.abs(normals[i])))
        along_u, along_v = (axis + 1) % 3, (axis + 2) % 3
        slope_u = normals[i, along_u] / normals[i, axis]
        slope_v = normals[i, along_v] / normals[i, axis]
        cross, power_a, power_b = 0.0, 0.0, 0.0
        for u in range(-last_shell, last_shell + 1):
            for v in range(0 if u > 0 else 1, last_shell + 1):
                height = -(u * slope_u + v * slope_v)
                if u * u + v * v + height * height >= farthest or abs(height) >= box_size // 2:
                    continue
                below = math.floor(height)
                for upper in range(2):
                    weight = height - below if upper == 1 else below + 1 - height
                    frequency[along_u], frequency[along_v], frequency[axis] = u, v, below + upper
                    # Of a real map the values at k and -k have the same products, and the half spectrum holds one.
                    sign = -1 if frequency[0] < 0 else 1
                    x, y, z = sign * frequency[0], sign * frequency[1], sign * frequency[2]
                    value_a, value_b = a[z % box_size, y % box_size, x], b[z % box_size, y % box_size, x]
                    re_a, im_a = np.float64(value_a.real), np.float64(value_a.imag)
                    re_b, im_b = np.float64(value_b.real), np.float64(value_b.imag)
                    cross += weight * (re_a * re_b + im_a * im_b)
                    power_a += weight * (re_a * re_a + im_a * im_a)
                    power_b += weight * (re_b * re_b + im_b * im_b)
        sums[i, 0], sums[i, 1], sums[i, 2] = cross, power_a, power_b


def slice_products(
    a: NDArray[np.complex64], b: NDArray[np.complex64], normals: NDArray[np.float64], last_shell: int
) -> NDArray[np.float64]:
    """Sums `(n, 3)` over each slice."""
    sums = np.zeros((len(normals), 3))
    in_shares(_slice_products, len(normals), a, b, np.ascontiguousarray(normals), last_shell, sums)
    return sums

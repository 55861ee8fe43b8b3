"""Products summed over one central slice: the formula, in plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def slice_products(
    a: NDArray[np.complex64], b: NDArray[np.complex64], normal: NDArray[np.float64], last_shell: int
) -> NDArray[np.float64]:
    """See `gem3d.kernels.slice_products.slice_products`; of one normal, `(3,)`."""
    box_size = len(a)
    axis = int(np.argmax(np.abs(normal)))
    u, v = (axis + 1) % 3, (axis + 2) % 3
    plane_u, plane_v = np.mgrid[-last_shell : last_shell + 1, 0 : last_shell + 1].reshape(2, -1)
    height = -(plane_u * (normal[u] / normal[axis]) + plane_v * (normal[v] / normal[axis]))
    kept = (plane_v > 0) | (plane_u > 0)
    kept &= plane_u**2 + plane_v**2 + height**2 < (last_shell + 0.5) ** 2
    kept &= np.abs(height) < box_size // 2
    height = height[kept]
    below = np.floor(height).astype(np.int64)
    frequency = np.empty((3, len(height)), dtype=np.int64)
    frequency[u], frequency[v] = plane_u[kept], plane_v[kept]
    sums = np.zeros(3)
    for corner, weight in ((below, below + 1 - height), (below + 1, height - below)):
        frequency[axis] = corner
        # Of a real map the values at k and -k have the same products, and the half spectrum holds one of them.
        x, y, z = np.where(frequency[0] < 0, -frequency, frequency)
        value_a, value_b = (volume[z % box_size, y % box_size, x].astype(np.complex128) for volume in (a, b))
        products = (value_a * value_b.conj()).real, np.abs(value_a) ** 2, np.abs(value_b) ** 2
        sums += [float(weight @ product) for product in products]
    return sums

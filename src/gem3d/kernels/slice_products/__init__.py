"""Products of two half spectra summed over central slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.kernels.slice_products import cpu

__all__ = ["slice_products"]


def slice_products(
    a: NDArray[np.complex64], b: NDArray[np.complex64], normals: NDArray[np.float64], last_shell: int
) -> NDArray[np.float64]:
    """Sums of Re A conj(B), |A|^2 and |B|^2 over half of each central slice, without its origin.

    A slice is one Fourier pixel thick: along the axis closest to its normal the products are interpolated linearly
    between the two Fourier pixels that enclose it. The half that is left out holds the same values.

    Parameters
    ----------
    a, b: `(D, D, D//2 + 1)` half spectra of real maps.
    normals: `(n, 3)` unit vectors x, y, z.
    last_shell: last shell that counts, D//2 at most.

    Returns
    -------
    `(n, 3)`
    """
    box_size = len(a)
    if not a.shape == b.shape == (box_size, box_size, box_size // 2 + 1):
        raise ValueError(f"half spectra of shapes {a.shape} and {b.shape}")
    if last_shell > box_size // 2:
        raise ValueError(f"shell {last_shell} lies beyond the box of {box_size}")
    return cpu.slice_products(a, b, normals, last_shell)

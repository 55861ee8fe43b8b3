"""Band-passing on the CPU. A band is a thin shell: of each line along z only the two stretches in it are read."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.threads import in_shares


@numba.njit(cache=True, nogil=True)
def _pass_band(begin, end, spectra, transfer, first_square, column, row, out):  # type: ignore[no-untyped-def]
    box_size = spectra.shape[2]
    n_maps, n_rows, size = out.shape[1], out.shape[2], out.shape[3]
    last_square = len(transfer) - 1
    for line in range(begin, end):
        i, rest = divmod(line, n_maps * n_rows)
        m, j = divmod(rest, n_rows)
        x, y = column + i, row + j
        target = out[i, m, j]
        target[:] = 0
        in_plane = x * x + y * y
        if in_plane > last_square:
            continue
        source = spectra[x, m, y if y >= 0 else y + box_size]
        nearest = math.ceil(math.sqrt(max(first_square - in_plane, 0)))
        farthest = int(math.sqrt(last_square - in_plane))
        for z in range(nearest, min(farthest, (size - 1) // 2) + 1):
            target[z] = source[z] * transfer[in_plane + z * z]
        # An even grid's Nyquist plane is stored once, among the negative frequencies.
        for z in range(-min(farthest, size // 2), -max(nearest, 1) + 1):
            target[z + size] = source[z + box_size] * transfer[in_plane + z * z]


def pass_band(
    spectra: NDArray[np.complex64],
    transfer: NDArray[np.float32],
    column: int,
    row: int,
    out: NDArray[np.complex64],
) -> None:
    """Fill `out` `(columns, maps, rows, size)`, from the given column and row on."""
    nonzero = np.flatnonzero(transfer)
    first_square = int(nonzero[0]) if len(nonzero) else len(transfer)
    in_shares(_pass_band, math.prod(out.shape[:3]), spectra, transfer, first_square, column, row, out)

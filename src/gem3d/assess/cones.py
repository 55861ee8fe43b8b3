"""Sums over the part of each Fourier shell that lies within a double cone, for many cones at once.

Fourier pixels are first summed by shell and by direction, in cells that tile half a sphere; a cone's sum is that of
its cells. A cell that the cone's edge cuts counts by the share of it inside. The cells are squares on the faces of a
cube, which need no trigonometry and give a frequency and its opposite the same cell.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess.shells import Curve, hermitian_multiplicity, shells_of_squares, whole_frequencies

# At most 3 degrees wide, a seventh of the usual cone's half-angle.
CELLS_PER_EDGE = 40
N_CELLS = 3 * CELLS_PER_EDGE**2
# A cell's share in a cone is counted on a grid of points, so many along each edge.
POINTS_PER_EDGE = 3


class ConicalSums:
    """Sums over cones of the half spectra of one box size.

    Parameters
    ----------
    box_size: voxels a side.
    last_shell: Fourier pixels beyond it are left out.
    directions: `(n, 3)` unit vectors x, y, z along the cones' axes.
    half_angle_deg: between a cone's axis and its surface.
    """

    def __init__(
        self, box_size: int, last_shell: int, directions: NDArray[np.float64], half_angle_deg: float
    ) -> None:
        self._n_shells = last_shell + 1
        full = whole_frequencies(box_size)
        half = np.arange(box_size // 2 + 1)
        shell_of = shells_of_squares(box_size)
        in_plane = full[:, None] ** 2 + half**2
        of_column = hermitian_multiplicity(box_size).astype(np.float32)
        pixels, bins, multiplicity = [], [], []
        # A plane at a time stays in the cache.
        for row, z in enumerate(full):
            shells = shell_of[in_plane + z**2]
            y, x = np.nonzero(shells <= last_shell)
            k = (x, full[y], np.full(len(x), z))
            cells = _cell_index(*(torch.from_numpy(along.astype(np.float32)) for along in k))
            pixels.append((row * box_size + y) * len(half) + x)
            bins.append(cells.numpy() * self._n_shells + shells[y, x])
            multiplicity.append(of_column[x])
        self._pixels, self._bins = np.concatenate(pixels), np.concatenate(bins)
        self._multiplicity = np.concatenate(multiplicity)
        self._shares = _shares(directions, half_angle_deg)

    def take(self, half_spectrum: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The values of a half spectrum `(D, D, D//2 + 1)` that count, `(m,)`, in the order that `sums` expects."""
        return half_spectrum.ravel()[self._pixels]

    def sums(self, values: NDArray[np.float32] | None = None) -> tuple[Curve, NDArray[np.float64]]:
        """Sums over the whole spectrum of `values` `(m,)` on its half; without any, numbers of Fourier pixels.

        Returns
        -------
        `(last_shell + 1,)` over each shell, and `(n, last_shell + 1)` over each cone's part of it.
        """
        weights = self._multiplicity if values is None else values * self._multiplicity
        sums = np.bincount(self._bins, weights=weights, minlength=N_CELLS * self._n_shells)
        cells = sums.reshape(N_CELLS, self._n_shells)
        return cells.sum(axis=0), self._shares @ cells


def _cell_index(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Cell of each frequency, `(m,)` int64: the axis of its largest component, and the place on that face."""
    in_x = x.abs() >= torch.maximum(y.abs(), z.abs())
    in_y = ~in_x & (y.abs() >= z.abs())
    face = torch.where(in_x, 0, torch.where(in_y, 1, 2))
    largest, u, v = (
        torch.where(in_x, a, torch.where(in_y, b, c)) for a, b, c in ((x, y, z), (y, z, x), (z, x, y))
    )
    largest[largest == 0] = 1  # frequency 0 has no direction: any cell will do
    cell = face
    for component in (u, v):
        place = ((component / largest + 1) * (CELLS_PER_EDGE / 2)).long()
        cell = cell * CELLS_PER_EDGE + place.clamp_(max=CELLS_PER_EDGE - 1)
    return cell


def _shares(directions: NDArray[np.float64], half_angle_deg: float) -> NDArray[np.float64]:
    """Share of each cell inside each cone, `(n, N_CELLS)`, counted on a grid of points."""
    n_points = CELLS_PER_EDGE * POINTS_PER_EDGE
    edge = (np.arange(n_points) + 0.5) * (2 / n_points) - 1
    shares = np.zeros((len(directions), N_CELLS), dtype=np.float32)
    for u, v in itertools.product(range(POINTS_PER_EDGE), repeat=2):
        face = np.stack(np.broadcast_arrays(1.0, edge[u::POINTS_PER_EDGE, None], edge[v::POINTS_PER_EDGE]))
        face = (face / np.linalg.norm(face, axis=0)).reshape(3, -1)
        points = np.concatenate([np.roll(face, axis, axis=0) for axis in range(3)], axis=1)
        cosine = directions.astype(np.float32) @ points.astype(np.float32)
        shares += np.abs(cosine) >= np.cos(np.deg2rad(half_angle_deg))
    return (shares / POINTS_PER_EDGE**2).astype(np.float64)

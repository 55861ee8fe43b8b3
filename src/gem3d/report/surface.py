"""The map as a surface of triangles, at a level that divides molecule from solvent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.filters import threshold_otsu
from skimage.measure import marching_cubes

from gem3d.assess.local_resolution import LocalResolution
from gem3d.assess.mask import support_box
from gem3d.assess.shells import FloatVolume
from gem3d.maps import fourier_resample

MOST_VERTICES = 40_000
INSIDE = 0.5
LEVEL_DIGITS = 3
MARGIN_VOXELS = 2
# Partial specific volume of protein, 0.73 cm3/g, over Avogadro's number.
PROTEIN_A3_PER_DA = 1.21


@dataclass(frozen=True)
class Surface:
    """Triangles of an isosurface.

    vertices_A: `(n, 3)` x, y, z from the box centre.
    faces: `(m, 3)` indices of vertices.
    grid_A: spacing of the grid that it was drawn from.
    """

    vertices_A: NDArray[np.float32]
    faces: NDArray[np.int32]
    grid_A: float


def contour_level(density: FloatVolume, mask: FloatVolume) -> float:
    """Level between solvent and molecule: Otsu's threshold (1979) of the densities inside the mask.

    Rounded to three digits, so that the level stated is the level drawn.
    """
    inside = density[mask > INSIDE]
    if inside.size == 0 or inside.min() == inside.max():
        return float(density.mean())
    level = threshold_otsu(inside)  # type: ignore[no-untyped-call]
    return float(f"{level:.{LEVEL_DIGITS}g}")


def enclosed_kDa(density: FloatVolume, mask: FloatVolume, level: float, pixel_size_A: float) -> float:
    """Mass of protein that fills the volume above the level inside the mask."""
    voxels = int(((density > level) & (mask > INSIDE)).sum())
    return voxels * pixel_size_A**3 / PROTEIN_A3_PER_DA / 1000


def isosurface(density: FloatVolume, mask: FloatVolume, level: float, pixel_size_A: float) -> Surface | None:
    """The surface inside the mask, on a grid so coarse that it has at most `MOST_VERTICES`.

    None where no voxel inside the mask lies above the level.
    """
    # Faded out like the mask, so that its edge is no wall.
    floor = 0.0 if level > 0 else level - float(density.std())
    masked = np.asarray(floor + (density - floor) * mask, dtype=np.float32)
    drawn, size = masked, len(density)
    while (drawn > level).any():
        vertices, faces = _triangles(drawn, level)
        if len(vertices) <= MOST_VERTICES:
            grid_A = pixel_size_A * len(density) / size
            centred = (vertices - size // 2)[:, ::-1] * grid_A
            return Surface(np.ascontiguousarray(centred, dtype=np.float32), faces, grid_A)
        # The number of vertices goes with the square of the grid.
        size = 2 * int(0.97 * size * (MOST_VERTICES / len(vertices)) ** 0.5 / 2)
        drawn = fourier_resample(masked, size)
    return None


def local_at(surface: Surface, local: LocalResolution, pixel_size_A: float) -> NDArray[np.float32]:
    """`(n,)` local resolution in A at every vertex."""
    centre = len(local.values_A) // 2
    places = (surface.vertices_A[:, ::-1] / pixel_size_A + centre).T
    values: NDArray[np.float32] = map_coordinates(local.values_A, places, order=1, mode="nearest")
    return values


def _triangles(density: FloatVolume, level: float) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices `(n, 3)` z, y, x in voxels and faces, of the part of the box that reaches the level."""
    start, shape = support_box(density > level, MARGIN_VOXELS)
    window = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    # Closed where the molecule touches the border of the box.
    padded = np.pad(density[window], 1, constant_values=min(level - 1, float(density.min())))
    vertices, faces, _, _ = marching_cubes(padded, level)  # type: ignore[no-untyped-call]
    return vertices + np.array(start, dtype=np.float32) - 1, faces.astype(np.int32)

"""Soft masks: from the map itself, or a sphere; and the box that a mask needs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gem3d.assess.shells import (
    FloatVolume,
    check_same_box,
    fourier_transform,
    inverse_fourier_transform,
    radii,
)
from gem3d.errors import MapError
from gem3d.kernels.radial import multiply_radially

# Where no diameter is given: the particle is looked for inside 0.9 of the box, the noise measured outside
# 0.84 of it.
SEARCH_DIAMETER_BOXES = 0.9
NOISE_DIAMETER_BOXES = 0.84
THRESHOLD_SIGMAS = 3.0
THRESHOLD_FRACTION = 0.2
SMALLEST_COMPONENT = 0.1


def sphere_mask(
    box_size: int, pixel_size_A: float, diameter_A: float, soft_edge_A: float = 10.0
) -> FloatVolume:
    """Sphere around the centre D//2: 1 inside `diameter_A`, a cosine edge `soft_edge_A` wide outside it.

    Returns
    -------
    `(D, D, D)` in [0, 1].
    """
    return _cosine_edge(_radius(box_size) * pixel_size_A - diameter_A / 2, soft_edge_A)


def automatic_mask(
    volume: FloatVolume,
    pixel_size_A: float,
    *,
    particle_diameter_A: float | None = None,
    low_pass_A: float = 15.0,
    dilation_A: float = 6.0,
    soft_edge_A: float = 10.0,
) -> FloatVolume:
    """Soft mask of the particle, drawn from a noisy map; a sphere where no region stands out from the noise.

    The map is low-passed; a voxel belongs to the particle above three times the noise outside the particle's
    sphere and above 0.2 of the highest density. Connected regions of at least a tenth of the largest are
    kept, their holes filled, and the result widened and given a cosine edge.

    Parameters
    ----------
    volume: `(D, D, D)` best the mean of the linear half maps, particle positive.
    pixel_size_A: A per voxel.
    particle_diameter_A: nothing beyond this sphere is taken for particle; None for 0.9 of the box.
    low_pass_A: resolution in A at which the Gaussian low-pass has fallen to one half.
    dilation_A: how far beyond the thresholded region the mask stays 1.
    soft_edge_A: width of the cosine edge; at least 4 voxels are used, a sharper one leaks between shells.

    Returns
    -------
    `(D, D, D)` in [0, 1].

    Raises
    ------
    MapError: the map is not cubic and finite.
    """
    box_size = check_same_box(volume=volume)
    box_A = box_size * pixel_size_A
    soft_edge_A = max(soft_edge_A, 4 * pixel_size_A)
    search_diameter_A = min(particle_diameter_A or np.inf, SEARCH_DIAMETER_BOXES * box_A)
    noise_diameter_A = min(particle_diameter_A or np.inf, NOISE_DIAMETER_BOXES * box_A)

    low_pass_A = max(low_pass_A, 3 * pixel_size_A)
    density = _low_pass(volume, pixel_size_A, low_pass_A)
    radius_A = _radius(box_size) * pixel_size_A
    inside = radius_A <= search_diameter_A / 2
    # Not the corners: gridding correction raises the noise there, and some programs blank them.
    level, sigma = _level_and_noise(density[(radius_A > noise_diameter_A / 2) & (radius_A <= box_A / 2)])
    if sigma == 0:
        level, sigma = _level_and_noise(density[inside])
    density -= level
    highest = float(np.percentile(density[inside], 99.9))
    if highest <= 0:
        return sphere_mask(box_size, pixel_size_A, search_diameter_A, soft_edge_A)
    region = inside & (density > max(THRESHOLD_SIGMAS * sigma, THRESHOLD_FRACTION * highest))
    region, largest = _large_components(region)
    # Twelve independent volumes of the filter: noise has no connected region above 3 sigma of that size.
    if largest * pixel_size_A**3 < low_pass_A**3:
        return sphere_mask(box_size, pixel_size_A, search_diameter_A, soft_edge_A)

    # The distance transform is the dear part: only the box that can be reached is computed.
    reach = math.ceil((dilation_A + soft_edge_A) / pixel_size_A) + 1
    start, shape = support_box(region, reach)
    window = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    filled = ndimage.binary_fill_holes(region[window])
    distance_A = _distance(filled) * pixel_size_A
    mask = np.zeros(volume.shape, dtype=np.float32)
    mask[window] = _cosine_edge(distance_A - dilation_A, soft_edge_A)
    return mask


def support_box(mask: NDArray[np.generic], margin: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest box holding every voxel above 0, widened by `margin` voxels and cut at the map's border.

    Returns
    -------
    start_zyx, shape_zyx: first voxel and extent along z, y, x.

    Raises
    ------
    MapError: the mask is zero everywhere.
    """
    positive = np.asarray(mask) > 0
    start, shape = [], []
    for axis in range(3):
        occupied = np.flatnonzero(positive.any(axis=tuple(a for a in range(3) if a != axis)))
        if len(occupied) == 0:
            raise MapError("the mask is zero everywhere; give another mask or a particle diameter")
        first = max(int(occupied[0]) - margin, 0)
        start.append(first)
        shape.append(min(int(occupied[-1]) + margin, positive.shape[axis] - 1) - first + 1)
    return (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])


def _radius(box_size: int) -> FloatVolume:
    """Distance in voxels from the centre D//2, `(D, D, D)`."""
    axis = (np.arange(box_size) - box_size // 2).astype(np.float32)
    radius: FloatVolume = np.sqrt(
        axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    )
    return radius


def _distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in voxels from the nearest voxel of a region.

    scipy finds that voxel, but takes as long again for the distance, in arrays of three times the size.
    """
    nearest = ndimage.distance_transform_edt(~region, return_distances=False, return_indices=True)
    squared = np.zeros(region.shape)
    for axis, place in enumerate(nearest):
        along = np.arange(region.shape[axis], dtype=place.dtype).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        squared += np.square(place - along)
    return np.sqrt(squared, out=squared)


def _cosine_edge(distance_A: NDArray[np.floating], width_A: float) -> FloatVolume:
    """1 where the distance is negative, 0 beyond `width_A`, half a cosine between."""
    edge: FloatVolume = (distance_A <= 0).astype(np.float32)
    between = (distance_A > 0) & (distance_A < width_A)
    edge[between] = 0.5 + 0.5 * np.cos(np.pi / width_A * distance_A[between]) if width_A > 0 else 0
    return edge


def _low_pass(volume: FloatVolume, pixel_size_A: float, low_pass_A: float) -> FloatVolume:
    """Gaussian filter whose transfer is one half at `low_pass_A`."""
    box_size = volume.shape[0]
    relative = radii(box_size) * (low_pass_A / (box_size * pixel_size_A))
    spectrum = fourier_transform(volume)
    multiply_radially(spectrum, np.exp(-math.log(2) * relative**2).astype(np.float32))
    return inverse_fourier_transform(spectrum, box_size)


def _level_and_noise(values: NDArray[np.float32]) -> tuple[float, float]:
    """Median, and standard deviation from the median absolute deviation (1.4826: normal distribution)."""
    level = float(np.median(values))
    return level, 1.4826 * float(np.median(np.abs(values - level)))


def _large_components(region: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Regions (connected by faces, edges or corners) of at least a tenth of the largest, and its voxel count."""
    labels, _ = ndimage.label(region, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep: NDArray[np.bool_] = (sizes >= max(SMALLEST_COMPONENT * sizes.max(), 1))[labels]
    return keep, int(sizes.max())

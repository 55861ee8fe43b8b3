"""Fourier slice correlation (FSLC): central slices of two maps compared, one view at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import Curve, FloatVolume, check_same_box, fourier_transform, ratio

ELEVATION_STEP_DEG = 5.0
AZIMUTH_STEP_DEG = 10.0


@dataclass(frozen=True)
class SliceCorrelation:
    """Correlation of matching central slices of two half maps over viewing directions (GEM, Table 4).

    elevation_deg: `(n,)`, azimuth_deg: `(m,)`, the grid of slice normals, over half a sphere.
    values: `(n, m)` correlations.
    mean, standard_deviation: over the sphere, each value weighted by its solid angle.
    last_shell: last shell that counted.
    """

    elevation_deg: Curve
    azimuth_deg: Curve
    values: NDArray[np.float64]
    mean: float
    standard_deviation: float
    last_shell: int


def slice_correlation(
    a: FloatVolume, b: FloatVolume, mask: FloatVolume | None, *, last_shell: int | None = None
) -> SliceCorrelation:
    """Re sum A conj(B) / sqrt(sum |A|^2 sum |B|^2) over each central slice of Fourier space, without its origin.

    A slice is one Fourier pixel thick: along the axis closest to its normal the products are interpolated linearly
    between the two Fourier pixels that enclose it. Its normal is the viewing direction of the images that inform it.

    Every Fourier value counts by its power, and a slice is a plane of all frequencies: a few strong values at low
    frequency decide, and maps that agree there come near 1 whatever they are worth beyond. Like any correlation
    of half maps it does not see what both have wrong alike, such as a missing cone that a prior fills the same way
    in both.

    Parameters
    ----------
    a, b: `(D, D, D)` half maps, unmasked.
    mask: `(D, D, D)` multiplies both maps first; None for no mask.
    last_shell: last shell that counts; None for D//2.

    Raises
    ------
    MapError: the maps are not cubic, alike and finite.
    """
    box_size = check_same_box(a=a, b=b, mask=mask)
    last_shell = box_size // 2 if last_shell is None else last_shell
    products = _products(a if mask is None else a * mask, b if mask is None else b * mask)
    elevation_deg = np.arange(ELEVATION_STEP_DEG / 2, 90, ELEVATION_STEP_DEG)
    azimuth_deg = np.arange(AZIMUTH_STEP_DEG / 2, 360, AZIMUTH_STEP_DEG)
    elevation, azimuth = np.meshgrid(np.deg2rad(elevation_deg), np.deg2rad(azimuth_deg), indexing="ij")
    normals = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
    )
    plane = _half_plane(last_shell)
    sums = np.array([_slice_sums(products, plane, n, box_size, last_shell) for n in normals.reshape(-1, 3)])
    cross, power_a, power_b = sums.T.reshape(3, *elevation.shape)
    values = ratio(cross, np.sqrt(power_a * power_b))
    mean = float(np.average(values, weights=np.cos(elevation)))
    variance = float(np.average((values - mean) ** 2, weights=np.cos(elevation)))
    return SliceCorrelation(elevation_deg, azimuth_deg, values, mean, float(np.sqrt(variance)), last_shell)


def _products(a: FloatVolume, b: FloatVolume) -> NDArray[np.float32]:
    """Re A conj(B), |A|^2, |B|^2 of every Fourier pixel of the half spectrum, `(D * D * (D//2 + 1), 3)`."""
    first, second = fourier_transform(a), fourier_transform(b)
    products = np.empty((first.size, 3), dtype=np.float32)
    for i, (x, y) in enumerate(((first, second), (first, first), (second, second))):
        products[:, i] = (x.real * y.real + x.imag * y.imag).ravel()
    return products


def _half_plane(last_shell: int) -> NDArray[np.int64]:
    """Fourier pixels of half a plane, which hold all that the other half does, `(2, n)`, without the origin."""
    u, v = np.mgrid[-last_shell : last_shell + 1, 0 : last_shell + 1]
    inside = (u**2 + v**2 < (last_shell + 0.5) ** 2) & ((v > 0) | (u > 0))
    return np.stack([u[inside], v[inside]])


def _slice_sums(
    products: NDArray[np.float32],
    plane: NDArray[np.int64],
    normal: NDArray[np.float64],
    box_size: int,
    last_shell: int,
) -> NDArray[np.float64]:
    """Sums of the three products over one slice."""
    axis = int(np.argmax(np.abs(normal)))
    u, v = (axis + 1) % 3, (axis + 2) % 3
    height = -(plane[0] * (normal[u] / normal[axis]) + plane[1] * (normal[v] / normal[axis]))
    inside = plane[0] ** 2 + plane[1] ** 2 + height**2 < (last_shell + 0.5) ** 2
    inside &= np.abs(height) < box_size // 2
    height = height[inside]
    below = np.floor(height).astype(np.int64)
    share = (height - below).astype(np.float32)
    frequency = np.empty((3, len(height)), dtype=np.int64)
    frequency[u], frequency[v] = plane[:, inside]
    sums = np.zeros(3)
    for corner, weight in ((below, 1 - share), (below + 1, share)):
        frequency[axis] = corner
        # Of a real map the values at k and -k have the same products, and the half spectrum holds one of them.
        x, y, z = np.where(frequency[0] < 0, -frequency, frequency)
        pixels = ((z % box_size) * box_size + y % box_size) * (box_size // 2 + 1) + x
        sums += weight @ products.take(pixels, axis=0)
    return sums

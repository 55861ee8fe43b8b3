"""Which part of Fourier space a set of views covers: every image informs the plane perpendicular to its view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gem3d.assess.shells import Curve, inverse_fourier_transform

# So many distances at a time stay in the cache.
PLANES_AT_A_TIME = 64

# The point spread function: the amplitude of Fourier space has fallen to 1/e at this shell, and ends at the other.
ENVELOPE_SHELL = 10
LAST_SHELL = 2 * ENVELOPE_SHELL
# Of a box of 64 pixels, at half a pixel: fine enough for widths to a hundredth.
PSF_BOX_PX = 64
PSF_OVERSAMPLING = 2
PSF_THRESHOLD = np.exp(-2)


@dataclass(frozen=True)
class Views:
    """Distinct viewing directions.

    directions: `(n, 3)` float32 unit vectors x, y, z; a view and its opposite are the same.
    counts: `(n,)` float32, images that have each.
    """

    directions: NDArray[np.float32]
    counts: NDArray[np.float32]


def merge_views(directions: NDArray[np.float64], width: float) -> Views:
    """Bring together the views `(n, 3)` that fall into the same cell, a cube of edge `width` that the sphere cuts.

    A cell's views are replaced by their mean direction, so that one view alone in its cell stays as it is.
    """
    # The normals of a plane point both ways.
    half = np.where(directions[:, 2:] < 0, -directions, directions)
    n_along = int(np.ceil(2 / width)) + 2
    index = np.floor(half / width).astype(np.int64) + n_along // 2
    key = (index[:, 0] * n_along + index[:, 1]) * n_along + index[:, 2]
    _, cell, counts = np.unique(key, return_inverse=True, return_counts=True)
    total = np.stack([np.bincount(cell, weights=component) for component in half.T], axis=1)
    mean = total / np.linalg.norm(total, axis=1, keepdims=True)
    return Views(mean.astype(np.float32), counts.astype(np.float32))


def planes_through(points: NDArray[np.float64], views: Views) -> Curve:
    """Number of central planes that pass through each point, `(m,)`.

    As where slices are inserted by linear interpolation, a plane counts by 1 - its distance in Fourier pixels: it is
    one Fourier pixel thick at half height. A plane with a sharp surface would not bear that views are merged.

    Parameters
    ----------
    points: `(m, 3)` frequencies x, y, z in Fourier pixels.
    views: normals of the planes.
    """
    points32 = points.astype(np.float32)
    total = np.zeros(len(points))
    for start in range(0, len(views.counts), PLANES_AT_A_TIME):
        part = slice(start, start + PLANES_AT_A_TIME)
        weight = points32 @ views.directions[part].T
        np.subtract(1, np.abs(weight, out=weight), out=weight)
        total += np.maximum(weight, 0, out=weight) @ views.counts[part]
    return total


def point_spread_widths(views: Views, directions: NDArray[np.float64]) -> Curve:
    """Half width of the point spread function along each direction `(m, 3)`, in pixels, `(m,)`.

    The function is the Fourier transform of sqrt(number of images) exp(-(k / 10)^2), k in Fourier pixels of a box of
    64 pixels: signal over noise in amplitude grows as the root of the number of images. Its half width is the
    distance at which it has fallen to 1 / e^2 of the centre, at most half the box. Band and threshold are choices of
    this program: detail a tenth as wide as the box, whatever the resolution of the map.
    """
    k = np.fft.fftfreq(PSF_BOX_PX, 1 / PSF_BOX_PX).astype(np.int64)
    x = np.arange(LAST_SHELL + 1)
    z, y, x = (axis.ravel() for axis in np.meshgrid(k, k, x, indexing="ij"))
    radius2 = x**2 + y**2 + z**2
    inside = radius2 <= LAST_SHELL**2
    points = np.stack([x[inside], y[inside], z[inside]], axis=1)
    amplitude = np.sqrt(planes_through(points, views)) * np.exp(-radius2[inside] / ENVELOPE_SHELL**2)
    size = PSF_BOX_PX * PSF_OVERSAMPLING
    spectrum = np.zeros((size, size, size // 2 + 1), dtype=np.complex64)
    spectrum[points[:, 2], points[:, 1], points[:, 0]] = amplitude
    psf = np.fft.fftshift(inverse_fourier_transform(spectrum, size))

    step = 0.5  # of the oversampled grid
    distance = np.arange(0, size // 2, step)
    rays = directions[:, ::-1, None] * distance + size // 2
    profile = ndimage.map_coordinates(psf, rays.transpose(1, 0, 2).reshape(3, -1), order=1)
    profile = profile.reshape(len(directions), -1) / profile[0]
    below = profile < PSF_THRESHOLD
    below[:, -1] = True
    after = np.argmax(below, axis=1)
    row = np.arange(len(directions))
    high, low = profile[row, after - 1], profile[row, after]
    share = np.clip((high - PSF_THRESHOLD) / np.maximum(high - low, 1e-12), 0, 1)
    width: Curve = (after - 1 + share) * step / PSF_OVERSAMPLING
    return width

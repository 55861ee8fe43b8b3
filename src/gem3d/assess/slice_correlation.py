"""Fourier slice correlation (FSLC): central slices of two maps compared, one view at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import Curve, FloatVolume, check_same_box, fourier_transform, ratio
from gem3d.kernels.slice_products import slice_products

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

    A slice is one Fourier pixel thick, see `gem3d.kernels.slice_products`. Its normal is the viewing direction of the
    images that inform it.

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
    first, second = (fourier_transform(volume if mask is None else volume * mask) for volume in (a, b))
    elevation_deg = np.arange(ELEVATION_STEP_DEG / 2, 90, ELEVATION_STEP_DEG)
    azimuth_deg = np.arange(AZIMUTH_STEP_DEG / 2, 360, AZIMUTH_STEP_DEG)
    elevation, azimuth = np.meshgrid(np.deg2rad(elevation_deg), np.deg2rad(azimuth_deg), indexing="ij")
    normals = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
    )
    sums = slice_products(first, second, normals.reshape(-1, 3), last_shell)
    cross, power_a, power_b = sums.T.reshape(3, *elevation.shape)
    values = ratio(cross, np.sqrt(power_a * power_b))
    mean = float(np.average(values, weights=np.cos(elevation)))
    variance = float(np.average((values - mean) ** 2, weights=np.cos(elevation)))
    return SliceCorrelation(elevation_deg, azimuth_deg, values, mean, float(np.sqrt(variance)), last_shell)

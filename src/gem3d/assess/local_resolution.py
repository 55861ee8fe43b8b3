"""Local resolution, read from the calibrated FSC around every point of the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gem3d.assess.band_fields import Window
from gem3d.assess.fsc import FSC_THRESHOLD
from gem3d.assess.local_curves import LocalCurves, values_in_window
from gem3d.assess.shells import Curve, FloatVolume

# The window is as wide as it must be for the linear half maps to correlate by so many standard deviations where the
# map ends, within so many times the resolution and within limits: a narrower one cannot tell signal from noise, a
# wider one tells less and less of the place.
WINDOW_SIGMAS = 2.5
WINDOW_RESOLUTIONS = (6.0, 10.0)
WINDOW_LIMITS_A = (25.0, 50.0)
WIDEST_WINDOW_BOXES = 0.25
# Of a window that lies less than this under the mask nothing is read.
LEAST_INSIDE = 0.05
SIGNAL_SIGMAS = 2.0


@dataclass(frozen=True)
class LocalResolution:
    """Resolution around every voxel; statistics are over the voxels inside the mask.

    values_A: `(D, D, D)` resolution in A; outside the mask that of the nearest grid points.
    window_A: full width at half maximum of the window.
    step_A: spacing of the grid that was computed; values between are interpolated.
    finest_A: no value is finer than this, the end of the valid range.
    coarsest_A: no value is coarser than this, the width of the window.
    mean_A, median_A, quartiles_A: over the voxels inside the mask.
    """

    values_A: FloatVolume
    window_A: float
    step_A: float
    finest_A: float
    coarsest_A: float
    mean_A: float
    median_A: float
    quartiles_A: tuple[float, float]


def window_for(resolution_A: float, linear_fsc: float, pixel_size_A: float, box_size: int) -> float:
    """Full width at half maximum in A of the window for a map.

    Parameters
    ----------
    resolution_A: of the whole map.
    linear_fsc: of the linear half maps there.
    pixel_size_A: A per voxel.
    box_size: voxels per side.
    """
    narrow_A, wide_A = (resolution_A * times for times in WINDOW_RESOLUTIONS)
    # The number of values in a window grows as the square of its width: its volume, over the width of its bands.
    n = values_in_window(resolution_A, wide_A, pixel_size_A)
    needed_A = wide_A * WINDOW_SIGMAS / max(linear_fsc, 1e-3) / np.sqrt(2 * n)
    window_A = np.clip(np.clip(needed_A, narrow_A, wide_A), *WINDOW_LIMITS_A)
    return float(min(window_A, WIDEST_WINDOW_BOXES * box_size * pixel_size_A))


def local_resolution(
    curves: LocalCurves, mask: FloatVolume, pixel_size_A: float, *, threshold: float = FSC_THRESHOLD
) -> LocalResolution:
    """First crossing of the threshold by the curve of every point, in A, and between the points.

    A curve that stays above ends at the last band, one that starts without significant signal at the first.

    Parameters
    ----------
    mask: `(D, D, D)` that the curves were computed under.
    pixel_size_A: A per voxel.
    """
    box_size = len(mask)
    box_A = box_size * pixel_size_A
    shells = to_voxels(
        known_everywhere(crossing_shells(curves, threshold), curves), curves, Window.whole(box_size)
    )
    values_A = (box_A / shells).astype(np.float32)
    inside = values_A[mask > 0.5]
    first, median, third = (float(q) for q in np.percentile(inside, (25, 50, 75)))
    step = max(float(axis[1] - axis[0]) for axis in curves.positions)
    return LocalResolution(
        values_A,
        window_A=curves.window_A,
        step_A=step * pixel_size_A,
        finest_A=box_A / float(curves.centres_shells[-1]),
        coarsest_A=box_A / float(curves.centres_shells[0]),
        mean_A=float(inside.mean(dtype=np.float64)),
        median_A=median,
        quartiles_A=(first, third),
    )


def crossing_shells(curves: LocalCurves, threshold: float = FSC_THRESHOLD) -> NDArray[np.float64]:
    """Fractional shell where the curve of each point first falls below the threshold, `(z, y, x)`."""
    values, centres = curves.calibrated, curves.centres_shells
    below = values < threshold
    after = np.where(below.any(axis=0), below.argmax(axis=0), len(centres) - 1)
    before = np.maximum(after - 1, 0)
    high, low = (np.take_along_axis(values, at[None], axis=0)[0].astype(np.float64) for at in (before, after))
    drop = high - low
    part = np.divide(high - threshold, drop, out=np.zeros_like(drop), where=drop > 0)
    part = np.where(below.any(axis=0), np.clip(part, 0, 1), 1.0)
    shells = centres[before] + part * (centres[after] - centres[before])
    silent = (curves.significance < SIGNAL_SIGMAS) | below[0]
    result: NDArray[np.float64] = np.where(silent, centres[0], shells)
    return result


def known_everywhere(values: NDArray[np.float64], curves: LocalCurves) -> NDArray[np.float64]:
    """The values `(..., z, y, x)`, those of points whose window hardly touches the mask replaced by the nearest
    known ones.
    """
    unknown = curves.inside < LEAST_INSIDE
    if unknown.all() or not unknown.any():
        return values
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    filled: NDArray[np.float64] = values[(..., *nearest)]
    return filled


def to_voxels(values: NDArray[np.float64], curves: LocalCurves, window: Window) -> NDArray[np.float32]:
    """Values at the points interpolated linearly to the voxels of a window; constant beyond the outermost points."""
    along_z, along_y, along_x = (
        _interpolation(points, *voxels)
        for points, voxels in zip(curves.positions, (window.z, window.y, window.x), strict=True)
    )
    planes = np.einsum("Yy,zyx,Xx->zYX", along_y, values.astype(np.float32), along_x, optimize=True)
    volume: NDArray[np.float32] = np.tensordot(along_z, planes, axes=(1, 0)).astype(np.float32)
    return volume


def _interpolation(points: Curve, start: int, stop: int) -> NDArray[np.float32]:
    """Weights `(voxels, points)` of linear interpolation."""
    place = np.clip((np.arange(start, stop) - points[0]) / (points[1] - points[0]), 0, len(points) - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(len(points))), 0, 1)
    rows: NDArray[np.float32] = weights.astype(np.float32)
    return rows

"""How close a map is to the truth, and two programs' maps against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gem3d.assess import band_passed_products, calibrated_fsc, fourier_shell_correlation, resolution_at
from gem3d.maps import read_map

Volume = NDArray[np.float32]
Curve = NDArray[np.float64]

MASK_LOW_PASS_PX = 4.0
MASK_THRESHOLD = 0.08
MASK_EDGE_PX = 2.0
COMPARE_ABOVE = 0.3
CALIBRATED_BELOW_A = 15.0
CALIBRATED_ABOVE = 0.143


def truth_mask(truth: Volume) -> Volume:
    """The one mask that all programs are scored in, made from the truth alone."""
    smooth = gaussian_filter(truth, MASK_LOW_PASS_PX)
    inside = (smooth > MASK_THRESHOLD * smooth.max()).astype(np.float32)
    mask: Volume = gaussian_filter(inside, MASK_EDGE_PX)
    return mask


def read_truth(folder: Path) -> tuple[Volume, Volume]:
    """The truth of a particle set and the mask made from it."""
    truth = read_map(folder / "truth.mrc").values
    return truth, truth_mask(truth)


@dataclass(frozen=True)
class Agreement:
    """FSC of a map with the truth, `(D//2 + 1,)`, and the resolution at which it falls below 0.5.

    Where it never does, the resolution is that of Nyquist and `note` says so.
    """

    curve: Curve
    resolution_A: float
    note: str


def agreement(values: Volume, truth: Volume, mask: Volume, pixel_size_A: float) -> Agreement:
    curve = fourier_shell_correlation(values, truth, mask)
    found = resolution_at(curve, 0.5, pixel_size_A, len(truth))
    if found.resolution_A is not None:
        return Agreement(curve, found.resolution_A, "")
    if curve[1] >= 0.5:
        return Agreement(curve, 2 * pixel_size_A, "not below 0.5 up to Nyquist")
    return Agreement(curve, len(truth) * pixel_size_A, "below 0.5 from the first shell on")


def finer_percent(ours_A: float, theirs_A: float) -> float:
    """By how many per cent our resolution in A is the smaller number."""
    return 100 * (theirs_A - ours_A) / theirs_A


def judged(curve: Curve) -> slice:
    """Shells that are compared: not the mean of the map, nor Nyquist, where programs disagree on what to keep."""
    return slice(1, len(curve) - 1)


def worst_difference(ours: Curve, theirs: Curve, above: float = -np.inf) -> tuple[float | None, int | None]:
    """Lowest `ours - theirs` over the judged shells where `theirs` exceeds `above`, and its shell."""
    where = judged(theirs)
    difference = np.where(theirs[where] > above, ours[where] - theirs[where], np.inf)
    if not np.isfinite(difference).any():
        return None, None
    shell = int(np.argmin(difference))
    return float(difference[shell]), shell + 1


def mean_difference(ours: Curve, theirs: Curve) -> float:
    """Mean of `ours - theirs` over the judged shells."""
    where = judged(theirs)
    return float(np.mean(ours[where] - theirs[where]))


@dataclass(frozen=True)
class CalibrationError:
    """Calibrated FSC minus what it estimates, over the shells judged.

    mean, largest: of the absolute error; None where no shell can be judged.
    shells: how many were judged.
    beyond: how many lie beyond the curve's validity although the truth is above the threshold there.
    """

    mean: float | None
    largest: float | None
    shells: int
    beyond: int


def calibration_error(
    calibrated: Curve, actual: Curve, pixel_size_A: float, box_size: int
) -> CalibrationError:
    """Compare a calibrated FSC (NaN beyond its validity) with FSC(G1, truth) FSC(G2, truth).

    Shells finer than 15 A where the latter exceeds 0.143.
    """
    shell = np.arange(len(actual))
    judge = (shell * CALIBRATED_BELOW_A > box_size * pixel_size_A) & (actual > CALIBRATED_ABOVE)
    judge[-1] = False
    error = np.abs(calibrated - actual)[judge]
    known = np.isfinite(error)
    if not known.any():
        return CalibrationError(None, None, 0, int(judge.sum()))
    return CalibrationError(
        float(error[known].mean()), float(error[known].max()), int(known.sum()), int((~known).sum())
    )


def actual_calibration(halves: tuple[Volume, Volume], truth: Volume, mask: Volume) -> Curve:
    """FSC(G1, truth) FSC(G2, truth), masked after the shell filter as the calibrated FSC is."""
    products = band_passed_products([*halves, truth], np.square(mask)).inner_products
    norm = np.sqrt(products[:, 0, 0] * products[:, 1, 1]) * products[:, 2, 2]
    crossed = products[:, 0, 2] * products[:, 1, 2]
    actual: Curve = np.divide(crossed, norm, out=np.zeros_like(crossed), where=norm > 0)
    return actual


def plain_calibration(halves: tuple[Volume, Volume], truth: Volume, mask: Volume) -> Curve:
    """FSC(G1, truth) FSC(G2, truth), masked before the transform as an ordinary FSC is."""
    first, second = (fourier_shell_correlation(half, truth, mask) for half in halves)
    product: Curve = first * second
    return product


def calibrated_in(
    halves: tuple[Volume, Volume], linear: tuple[Volume, Volume], mask: Volume, pixel_size_A: float
) -> Curve:
    """The calibrated FSC of a run's maps in another mask, NaN beyond its validity."""
    box_size = len(mask)
    found = calibrated_fsc(*halves, *linear, mask, pixel_size_A=pixel_size_A, last_shell=(box_size - 1) // 2)
    curve: Curve = np.full(box_size // 2 + 1, np.nan)
    n_valid = 0 if found.valid_up_to_shell is None else found.valid_up_to_shell + 1
    curve[:n_valid] = found.smoothed[:n_valid]
    return curve

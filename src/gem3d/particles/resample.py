"""Images on another grid of pixels, by the trigonometric polynomial through their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

# What a product of pixel sizes may be off by and still count as the number of pixels that it is meant to be.
_ROUNDING = 1e-6
_IMAGES_AT_ONCE = 16


class Resampler:
    """Band-limited interpolation between two grids whose centres, pixels n//2, lie in one place.

    Along each axis, with x the position from the centre in source pixels and L the period,

        R[j', j] = 1/L sum_m cos(2 pi m (x_j' - x_j) / L),    |m| / (L p) < min(1 / (2 p), 1 / (2 p')),

    and an image f becomes R f R^T. L is the source's box n, or as much as the target needs, the source being zero
    beyond its box. Where both are equally wide, this is a crop or a padding of the Fourier transform, its Nyquist
    frequency left out. But for the factor values are kept: an image of slow changes looks the same.

    Parameters
    ----------
    box_px, pixel_A: the grid of the source.
    target_box_px, target_pixel_A: that of the result.
    factor: that values are multiplied by.

    Attributes
    ----------
    matrix: R, `(target_box_px, box_px)` float32.
    last_shell: Fourier shells of the target up to this one are whole; what lies beyond is not all there.
    covered: `(target_box_px,)` bool, the target's pixels along an axis that lie within the source.
    correlation: `(2 target_box_px,)` float64, along an axis of the target, that white noise has at each lag from
        -target_box_px on, in the order of an FFT; that of noise which fills all of the target's band is 1 at lag 0.
    """

    def __init__(
        self, box_px: int, pixel_A: float, target_box_px: int, target_pixel_A: float, *, factor: float = 1.0
    ) -> None:
        step = target_pixel_A / pixel_A
        period = max(float(box_px), target_box_px * step)
        highest = math.ceil(min(period, period / step) / 2 - _ROUNDING) - 1
        source = np.arange(box_px) - box_px // 2
        target = (np.arange(target_box_px) - target_box_px // 2) * step
        m = np.arange(1, highest + 1)
        at_source, at_target = (2 * np.pi / period * np.outer(x, m) for x in (source, target))
        waves = np.cos(at_target) @ np.cos(at_source).T + np.sin(at_target) @ np.sin(at_source).T
        matrix = (1 + 2 * waves) / period
        self.matrix = torch.from_numpy(matrix.astype(np.float32))
        self._times_factor = torch.from_numpy((factor * matrix).astype(np.float32))
        # Half a Fourier pixel beyond the last wave, in Fourier pixels of the target.
        edge = (highest + 0.5) * target_box_px * step / period
        self.last_shell = min(math.floor(edge - 0.5 + _ROUNDING), (target_box_px - 1) // 2)
        lag = np.fft.fftfreq(2 * target_box_px, 1 / (2 * target_box_px)) * step
        self.correlation = step / period * (1 + 2 * np.cos(2 * np.pi / period * np.outer(lag, m)).sum(axis=1))
        self.covered = (target > source[0] - _ROUNDING) & (target < source[-1] + _ROUNDING)

    def resample(
        self, images: NDArray[np.float32], out: NDArray[np.float32], where: NDArray[np.int64]
    ) -> None:
        """Fill `out[where]`, of `(b, D', D')` float32, with the images `(b, D, D)` float32 on the target's grid."""
        for begin in range(0, len(images), _IMAGES_AT_ONCE):
            some = torch.from_numpy(images[begin : begin + _IMAGES_AT_ONCE])
            out[where[begin : begin + _IMAGES_AT_ONCE]] = self._times_factor @ (some @ self.matrix.T)

    def on(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """What takes images `(b, D, D)` float32 on a device to `(b, D', D')` there; its matrices are moved once."""
        left, right = self._times_factor.to(device), self.matrix.T.to(device)
        return lambda images: left @ (images @ right)

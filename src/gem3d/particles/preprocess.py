"""Background normalisation of particle images, and what tells an image that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import SettingsError
from gem3d.threads import in_shares

GOOD, CONSTANT_BACKGROUND, NOT_FINITE, CONSTANT, HOT_PIXEL, EXTREME = range(6)
_LARGEST = np.finfo(np.float64).max

# An image is lost to a hot pixel when its power lies in fewer pixels than this: sum(d^2)^2 / sum(d^4), which is D^2/3
# for noise and 1 / s^2 where one pixel holds a share s of it. That pixel then adds more noise than all the rest: it
# stands 64 standard deviations out in a box of 64, 256 in one of 256. The 7 images of EMPIAR-10076 (320 px) have
# 34,000, simulated complexes without noise 23 and more in boxes of 32 px, the thinnest bars seen end on 7, a bead
# 12 px wide at 40 standard deviations 58, one of 6 px 15. In boxes below 16 px a whole particle may be as small.
FEWEST_PIXELS_WITH_POWER = 4.0
_FEWEST_OF_ALL_PIXELS = 1 / 64

# What LLVM may assume so that the sums use vector instructions. NaN and infinity are not assumed away: they
# are looked for.
_FASTMATH = {"reassoc", "contract", "nsz"}


@dataclass(frozen=True)
class ImageStatistics:
    """What the pixels of some images say, `(b,)` each.

    Attributes
    ----------
    status: uint8: `GOOD`; or `NOT_FINITE` (a NaN or an infinity anywhere), `CONSTANT` (all pixels equal),
        `CONSTANT_BACKGROUND` (those outside the particle, where the image was to be normalised), `HOT_PIXEL` (most of
        the power lies in a few pixels).
    background_mean, background_sd: of the image as stored.
    power: mean square of the image's deviation from the background's mean, of the image as it is left.
    """

    status: NDArray[np.uint8]
    background_mean: NDArray[np.float64]
    background_sd: NDArray[np.float64]
    power: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[ImageStatistics]) -> ImageStatistics:
        """Those of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def at(self, index: NDArray[np.int64]) -> ImageStatistics:
        """Those of some of the images."""
        return ImageStatistics(*(getattr(self, f.name)[index] for f in fields(self)))


def normalise_background(images: NDArray[np.float32], radius_px: float) -> NDArray[np.uint8]:
    """Give each image's background mean 0 and standard deviation 1, in place.

    Parameters and the status returned are those of `measure_images`.
    """
    return measure_images(images, radius_px, normalise=True).status


def measure_images(images: NDArray[np.float32], radius_px: float, *, normalise: bool) -> ImageStatistics:
    """Look at every pixel, and normalise the background if asked to.

    The background is what lies farther than `radius_px` from pixel (n//2, n//2).

    Parameters
    ----------
    images: `(b, D, D)` float32, C-contiguous.
    radius_px: radius of the circle that holds the particle, pixels.
    normalise: give each image's background mean 0 and standard deviation 1, in place; images that are not finite or
        have a constant background stay as they are.
    """
    if images.dtype != np.float32:
        raise TypeError(f"images must be float32, got {images.dtype}")
    if images.ndim != 3 or images.shape[1] != images.shape[2] or not images.flags.c_contiguous:
        raise ValueError(f"images must be C-contiguous (b, D, D), got {images.shape}")
    inside = _inside(images.shape[1], float(radius_px))
    status = np.zeros(len(images), np.uint8)
    found = np.zeros((len(images), 3))
    fewest = fewest_pixels_with_power(images.shape[1])
    in_shares(_measure, len(images), images, inside, normalise, fewest, status, found)
    return ImageStatistics(status, *found.T)


def particle_circle(box_size_px: int, radius_px: float) -> NDArray[np.bool_]:
    """Pixels that are no background, `(D, D)`: at most `radius_px` from pixel (n//2, n//2).

    Raises
    ------
    SettingsError: they leave no background.
    """
    offset = np.arange(box_size_px) - box_size_px // 2
    inside: NDArray[np.bool_] = offset[:, None] ** 2 + offset[None, :] ** 2 <= radius_px**2
    if not radius_px > 0 or np.count_nonzero(~inside) < 2:
        raise SettingsError(
            f"a background radius of {radius_px:g} px leaves no background in images of {box_size_px} px; "
            f"give a smaller particle diameter (less than {box_size_px} px)."
        )
    return inside


@lru_cache(maxsize=16)
def _inside(box_size_px: int, radius_px: float) -> NDArray[np.int64]:
    """First column inside the circle and the one after the last, of every image row, `(D, 2)`."""
    inside = particle_circle(box_size_px, radius_px)
    first = np.where(inside.any(axis=1), inside.argmax(axis=1), 0)
    return np.stack([first, first + inside.sum(axis=1)], axis=1)


def fewest_pixels_with_power(box_size_px: int) -> float:
    """Fewer than so many, and the power of an image of this box is that of a hot pixel."""
    return min(FEWEST_PIXELS_WITH_POWER, box_size_px**2 * _FEWEST_OF_ALL_PIXELS)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _measure(begin_image, end_image, images, inside, normalise, fewest, status, found):  # type: ignore[no-untyped-def]
    box = images.shape[1]
    count = box * box - (inside[:, 1] - inside[:, 0]).sum()
    for i in range(begin_image, end_image):
        image = images[i]
        # One pass for both moments, in double precision and from an origin inside the data, which keeps
        # sum(d^2) - sum(d)^2 / n from cancelling when the mean is large.
        origin = np.float64(image[0, 0])
        sum_d = 0.0
        sum_d2 = 0.0
        sum_inside = 0.0
        for y in range(box):
            row = image[y]
            first, end = inside[y, 0], inside[y, 1]
            for x in range(first):
                d = row[x] - origin
                sum_d += d
                sum_d2 += d * d
            for x in range(first, end):
                sum_inside += row[x]
            for x in range(end, box):
                d = row[x] - origin
                sum_d += d
                sum_d2 += d * d
        mean_d = sum_d / count
        variance = sum_d2 / count - mean_d * mean_d
        # One NaN or infinity spoils its sum, and finite float32 pixels cannot overflow a double. Compared,
        # not asked with isfinite: LLVM may reassociate the x - x in that to zero.
        if not (sum_d2 <= _LARGEST and abs(sum_inside) <= _LARGEST):
            status[i] = NOT_FINITE
            continue
        found[i, 0] = origin + mean_d
        found[i, 1] = np.sqrt(max(variance, 0.0))
        if normalise and not variance > 0.0:
            status[i] = CONSTANT_BACKGROUND
            continue
        mean = origin + mean_d
        sum_2 = 0.0
        sum_4 = 0.0
        if normalise:
            scale = np.float32(1.0 / np.sqrt(variance))
            for y in range(box):
                row = image[y]
                for x in range(box):
                    value = np.float32(row[x] - mean) * scale
                    row[x] = value
                    square = np.float64(value) * np.float64(value)
                    sum_2 += square
                    sum_4 += square * square
        else:
            for y in range(box):
                row = image[y]
                for x in range(box):
                    value = row[x] - mean
                    square = value * value
                    sum_2 += square
                    sum_4 += square * square
        found[i, 2] = sum_2 / (box * box)
        # Compared so that a sum that has overflowed counts as hot.
        if sum_2 == 0.0:
            status[i] = CONSTANT
        elif not sum_2 * sum_2 >= fewest * sum_4:
            status[i] = HOT_PIXEL

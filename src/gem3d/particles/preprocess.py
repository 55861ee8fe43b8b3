"""Background normalisation of particle images."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ImageStackError, SettingsError
from gem3d.particles.image_names import describe_particle
from gem3d.particles.particles import Particles
from gem3d.threads import in_shares

NORMALISED, CONSTANT_BACKGROUND, NOT_FINITE = 0, 1, 2
_LARGEST = np.finfo(np.float64).max

# What LLVM may assume so that the sums use vector instructions. NaN and infinity are not assumed away: they
# are looked for.
_FASTMATH = {"reassoc", "contract", "nsz"}


def normalise_background(images: NDArray[np.float32], radius_px: float) -> NDArray[np.uint8]:
    """Give each image's background mean 0 and standard deviation 1, in place.

    The background is what lies farther than `radius_px` from pixel (n//2, n//2).

    Parameters
    ----------
    images: `(b, D, D)` float32, C-contiguous; changed in place.
    radius_px: radius of the circle that holds the particle, pixels.

    Returns
    -------
    `(b,)`: `NORMALISED`, or, for an image left as it was, `CONSTANT_BACKGROUND` or `NOT_FINITE` (a NaN or an
    infinity anywhere in the image). `refuse_unnormalised` turns these into an error.
    """
    if images.dtype != np.float32:
        raise TypeError(f"images must be float32, got {images.dtype}")
    if images.ndim != 3 or images.shape[1] != images.shape[2] or not images.flags.c_contiguous:
        raise ValueError(f"images must be C-contiguous (b, D, D), got {images.shape}")
    inside = _inside(images.shape[1], float(radius_px))
    status = np.zeros(len(images), np.uint8)
    in_shares(_normalise, len(images), images, inside, status)
    return status


def refuse_unnormalised(status: NDArray[np.uint8], rows: NDArray[np.int64], particles: Particles) -> None:
    """Raise for the first image that could not be normalised.

    Parameters
    ----------
    status: `(b,)` from `normalise_background`.
    rows: `(b,)` the images' particles.
    """
    bad = np.flatnonzero(status != NORMALISED)
    if bad.size == 0:
        return
    what = {
        CONSTANT_BACKGROUND: "all pixels outside the particle are equal, so its noise cannot be told (was "
        "the stack masked?)",
        NOT_FINITE: "the image holds NaN or infinite pixels",
    }[int(status[bad[0]])]
    raise ImageStackError(
        f"{particles.source}: {describe_particle(particles, int(rows[bad[0]]))}: {what}. "
        "Remove the particle, extract it again, or leave the images as they are with --no-normalise."
    )


@lru_cache(maxsize=16)
def _inside(box_size_px: int, radius_px: float) -> NDArray[np.int64]:
    """First column inside the circle and the one after the last, of every image row, `(D, 2)`."""
    offset = np.arange(box_size_px) - box_size_px // 2
    inside = offset[:, None] ** 2 + offset[None, :] ** 2 <= radius_px**2
    if not radius_px > 0 or np.count_nonzero(~inside) < 2:
        raise SettingsError(
            f"a background radius of {radius_px:g} px leaves no background in images of {box_size_px} px; "
            f"give a smaller particle diameter (less than {box_size_px} px)."
        )
    first = np.where(inside.any(axis=1), inside.argmax(axis=1), 0)
    return np.stack([first, first + inside.sum(axis=1)], axis=1)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _normalise(begin_image, end_image, images, inside, status):  # type: ignore[no-untyped-def]
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
        elif not variance > 0.0:
            status[i] = CONSTANT_BACKGROUND
        else:
            scale = np.float32(1.0 / np.sqrt(variance))
            mean = origin + mean_d
            for y in range(box):
                row = image[y]
                for x in range(box):
                    row[x] = np.float32(row[x] - mean) * scale

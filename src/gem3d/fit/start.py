"""Where the fit of one half set starts: its support, the number of its Gaussians, and the Gaussians themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from gem3d.assess import automatic_mask
from gem3d.assess.shells import FloatVolume
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.volume import grid_of
from gem3d.gaussians import Gaussians, initialise_from_map, initialise_random

Support = tuple[tuple[float, float], ...]

# Growth ends before there are more Gaussians than the grid can tell apart.
FEWEST_VOXELS_PER_GAUSSIAN = 4
FEWEST_GAUSSIANS = 200
START_LOW_PASS_A = 2.4
MIN_SCALE_PX = 0.6
# Room around the mask, and around the centres of fitted Gaussians.
MASK_MARGIN_A, CENTRES_MARGIN_A = 3.0, 6.0


@dataclass(frozen=True)
class Spread:
    """How many Gaussians a fit starts from, where it may choose, and how wide they are.

    Attributes
    ----------
    volume_per_gaussian_A3: volume of the particle that one stands for.
    voxels_per_gaussian: at least so many, however coarse the images.
    scale_per_spacing: their standard deviation over the spacing of their centres.
    """

    volume_per_gaussian_A3: float
    voxels_per_gaussian: float
    scale_per_spacing: float


@dataclass(frozen=True)
class Start:
    """What a fit begins with.

    Attributes
    ----------
    support_A: (low, high) in A from the box centre along z, y, x; what the judge sees, and what the
        volume fit models.
    most_gaussians: growth stops short of more; 0 for no growth.
    """

    gaussians: Gaussians
    support_A: Support
    most_gaussians: int


def start_of_half(
    linear: FloatVolume,
    held_out: NormalEquations,
    particle_diameter_A: float,
    rng: np.random.Generator,
    *,
    n_gaussians: int | Literal["auto"],
    init: Literal["map", "random"],
    spread: Spread,
) -> Start:
    """Everything comes from this half alone: mask, support and random numbers too.

    Parameters
    ----------
    linear: `(D, D, D)` linear map of the half.
    held_out: equations of the half's held-out particles; they tell the grid.
    """
    pixel_size_A = held_out.pixel_size_A
    mask = automatic_mask(linear, pixel_size_A, particle_diameter_A=particle_diameter_A)
    support_A = support_of(mask, pixel_size_A)
    volume_A3 = float(mask.sum()) * pixel_size_A**3
    voxels = volume_A3 / grid_of(held_out, support_A).voxel_size_A ** 3
    if n_gaussians == "auto":
        wanted = min(volume_A3 / spread.volume_per_gaussian_A3, voxels / spread.voxels_per_gaussian)
        n, most = max(FEWEST_GAUSSIANS, round(wanted)), round(voxels / FEWEST_VOXELS_PER_GAUSSIAN)
    else:
        n, most = n_gaussians, 0
    min_scale_A = MIN_SCALE_PX * pixel_size_A
    low_passed = gaussian_filter(linear, START_LOW_PASS_A / pixel_size_A) * mask
    if init == "map" and low_passed.max() > 0:
        drawn = initialise_from_map(low_passed, pixel_size_A, n, rng, min_scale_A, spread.scale_per_spacing)
    else:
        total = max(float(np.maximum(low_passed, 0).sum()), 1e-3) * pixel_size_A**3
        inside = (mask > 0.5).astype(np.float32)
        drawn = initialise_random(inside, pixel_size_A, total, n, rng, min_scale_A, spread.scale_per_spacing)
    return Start(drawn, support_A, most)


def mean_of(one: Gaussians, other: Gaussians) -> Gaussians:
    """The mean of two maps: all their Gaussians together, at half the mass."""
    return one.scaled(0.5).joined(other.scaled(0.5))


def support_around(gaussians: Gaussians) -> Support:
    """(low, high) in A from the box centre along z, y, x, with room around the centres."""
    centres_A = gaussians.centres_A.numpy()[:, ::-1]
    return tuple(
        (float(low - CENTRES_MARGIN_A), float(high + CENTRES_MARGIN_A))
        for low, high in zip(centres_A.min(0), centres_A.max(0), strict=True)
    )


def support_of(mask: FloatVolume, pixel_size_A: float) -> Support:
    """(low, high) in A from the box centre along z, y, x of the voxels where the mask is above a half."""
    centre = np.array(mask.shape) // 2
    occupied = np.argwhere(mask > 0.5)
    low = (occupied.min(axis=0) - centre) * pixel_size_A - MASK_MARGIN_A
    high = (occupied.max(axis=0) - centre) * pixel_size_A + MASK_MARGIN_A
    return tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))

"""How the particles are oriented, and what that does to a map, from their poses alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.coverage import LAST_SHELL, merge_views, planes_through, point_spread_widths
from gem3d.assess.shells import Curve
from gem3d.assess.sphere import half_sphere

# Bins of the heat map, equal in sin(latitude) and in longitude.
N_LATITUDES, N_LONGITUDES = 24, 48
N_DIRECTIONS = 2000
# Directions along which the point spread function is measured; it is smoother than the sampling.
N_PSF_DIRECTIONS = 1000
# No direction counts as less sampled than this, relative to uniform views: what is not seen at all has no reciprocal.
LEAST_SAMPLING = 0.02
# Views are brought together in cells this wide, in Fourier pixels at the shell in question, and no wider than that in
# radians: the sampling is then right to a few per cent, and a million particles cost little more than 50,000.
CELL_WIDTH_PX = 0.7
CELL_WIDTH_RAD = 0.015


@dataclass(frozen=True)
class OrientationDistribution:
    """Distribution of viewing directions and the Fourier space it covers.

    latitude_deg: `(n + 1,)`, longitude_deg: `(m + 1,)` edges of the bins of the heat map, equal in solid angle.
    counts: `(n, m)` particles that view the map from each bin; a view and its opposite are kept apart.
    empty_bins: fraction of bins without a particle.
    expected_empty_bins: the same for as many particles with uniform views.
    directions: `(k, 3)` unit vectors over half a sphere.
    sampling: `(k,)` how often Fourier space is sampled along each, relative to uniform views.
    unseen: fraction of Fourier directions that no image reaches.
    scf: sampling compensation factor (Baldwin & Lyumkis 2020), 1 for uniform views, 0 for large gaps.
    efficiency: E_od (Naydenova & Russo 2017), 1 for uniform views.
    """

    latitude_deg: Curve
    longitude_deg: Curve
    counts: NDArray[np.int64]
    empty_bins: float
    expected_empty_bins: float
    directions: NDArray[np.float64]
    sampling: Curve
    unseen: float
    scf: float
    efficiency: float


def orientation_distribution(
    rotations: NDArray[np.floating], box_size_px: int, *, shell: int | None = None
) -> OrientationDistribution:
    """Viewing directions of particles, how evenly they sample Fourier space, and what that costs.

    A particle of pose A is seen from A^T (0, 0, 1); its image informs the central plane of Fourier space that is
    perpendicular to this direction and one Fourier pixel thick. Every particle counts alike, good or bad, and the
    symmetry of the particle is not applied.

    sampling: number of planes through the point at `shell` along a direction, over that of uniform views.
    scf: 1 / mean over directions of 1 / sampling (Baldwin & Lyumkis 2020, Prog. Biophys. Mol. Biol. 150:160); a
        sampling below 0.02 counts as 0.02. Side views all around one axis have 8 / pi^2 = 0.81.
    efficiency: 1 - 2 sd(R) / mean(R), not below 0, R the half width of the point spread function over directions
        (Naydenova & Russo 2017, Nat. Commun. 8:629); how R is measured here: `coverage.point_spread_widths`.

    Parameters
    ----------
    rotations: `(n, 3, 3)` poses A.
    box_size_px: pixels a side, which fixes how thick a plane is.
    shell: Fourier pixels from the origin where sampling is counted, best where the map's resolution ends: the gaps
        between planes widen outwards. None for half of Nyquist.

    Raises
    ------
    ValueError: not `(n, 3, 3)`, or no particle.
    """
    if rotations.ndim != 3 or rotations.shape[1:] != (3, 3) or len(rotations) == 0:
        raise ValueError(f"rotations must have shape (n, 3, 3) with n > 0, got {rotations.shape}")
    views = np.asarray(rotations[:, 2, :], dtype=np.float64)
    shell = max(box_size_px // 4, 1) if shell is None else shell

    sine_edges = np.linspace(-1, 1, N_LATITUDES + 1)
    longitude_edges = np.linspace(-180, 180, N_LONGITUDES + 1)
    longitude = np.rad2deg(np.arctan2(views[:, 1], views[:, 0]))
    sine = np.clip(views[:, 2], -1, 1)
    counts = np.histogram2d(sine, longitude, bins=(sine_edges, longitude_edges))[0].astype(np.int64)

    directions = half_sphere(N_DIRECTIONS)
    cell_width = min(CELL_WIDTH_PX / shell, CELL_WIDTH_RAD)
    planes = planes_through(directions * shell, merge_views(views, cell_width))
    # Uniform views: the cosine between view and direction is uniform, and one plane in 2 `shell` passes through.
    sampling = planes / (len(views) / (2 * shell))
    width = point_spread_widths(merge_views(views, CELL_WIDTH_PX / LAST_SHELL), half_sphere(N_PSF_DIRECTIONS))
    return OrientationDistribution(
        latitude_deg=np.rad2deg(np.arcsin(sine_edges)),
        longitude_deg=longitude_edges,
        counts=counts,
        empty_bins=float(np.mean(counts == 0)),
        expected_empty_bins=float((1 - 1 / counts.size) ** len(views)),
        directions=directions,
        sampling=sampling,
        unseen=float(np.mean(planes == 0)),
        scf=float(1 / np.mean(1 / np.maximum(sampling, LEAST_SAMPLING))),
        efficiency=max(float(1 - 2 * width.std() / width.mean()), 0.0),
    )

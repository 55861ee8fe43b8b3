"""Where a fit starts: centres drawn from a map of the same half set, or at random."""

from __future__ import annotations

import numpy as np
import torch

from gem3d.assess.shells import FloatVolume
from gem3d.gaussians.model import Gaussians, inverse_softplus

# Where the map is faint the draws are sparse; a Gaussian that bridges such a gap would cover thousands of voxels.
WIDEST_PER_MEDIAN = 2.5
# softplus of the trained value at the start: where softplus is nearly an exponential, a step changes every mass by
# the same share, and masses that the data do not ask for go to zero.
START_SOFTPLUS = 0.05


def initialise_from_map(
    density: FloatVolume,
    voxel_size_A: float,
    n_gaussians: int,
    rng: np.random.Generator,
    min_scale_A: float,
    scale_per_spacing: float = 0.5,
) -> Gaussians:
    """Draw centres with a probability proportional to the positive part of a map.

    Parameters
    ----------
    density: `(D, D, D)` [z, y, x], low-passed and masked by the caller; its total becomes that of the Gaussians.
    min_scale_A: smallest starting standard deviation.
    scale_per_spacing: standard deviation relative to the spacing of centres in the volume they fill.
    """
    positive = np.maximum(density, 0).astype(np.float64).ravel()
    total = positive.sum()
    if total <= 0:
        raise ValueError("the map has no positive density to start from")
    # Stratified: one draw in each of n equal shares of the mass, so that no region is missed by chance.
    shares = (np.arange(n_gaussians) + rng.random(n_gaussians)) / n_gaussians
    cells = np.searchsorted(np.cumsum(positive) / total, shares).clip(max=positive.size - 1)
    zyx = np.stack(np.unravel_index(cells, density.shape), axis=1) + rng.uniform(-0.5, 0.5, (n_gaussians, 3))
    centres_A = (zyx - np.array(density.shape) // 2)[:, ::-1] * voxel_size_A
    local = positive[cells]
    # The density of centres at each one sets the local spacing.
    volume_each_A3 = voxel_size_A**3 * total / (n_gaussians * local)
    spacing_A = np.cbrt(volume_each_A3)
    mass = float(total) * voxel_size_A**3 / n_gaussians
    return _assemble(centres_A, scale_per_spacing * spacing_A, mass, rng, min_scale_A)


def initialise_random(
    mask: FloatVolume,
    voxel_size_A: float,
    total_mass: float,
    n_gaussians: int,
    rng: np.random.Generator,
    min_scale_A: float,
    scale_per_spacing: float = 0.5,
) -> Gaussians:
    """Centres at random inside a mask, equal masses; other parameters as for a start from a map.

    The paper starts at random too. From a sphere, a long particle is far from filled when training ends.
    """
    density = np.asarray(mask * (total_mass / (mask.sum() * voxel_size_A**3)), dtype=np.float32)
    return initialise_from_map(density, voxel_size_A, n_gaussians, rng, min_scale_A, scale_per_spacing)


def _assemble(
    centres_A: np.ndarray, scales_A: np.ndarray, mass: float, rng: np.random.Generator, min_scale_A: float
) -> Gaussians:
    n = len(centres_A)
    scales_A = np.clip(
        scales_A, min_scale_A, max(min_scale_A, WIDEST_PER_MEDIAN * float(np.median(scales_A)))
    )
    log_scales = np.log(scales_A)[:, None].repeat(3, axis=1)
    return Gaussians(
        centres_A=torch.from_numpy(np.ascontiguousarray(centres_A)).float(),
        log_scales=torch.from_numpy(log_scales).float(),
        quaternions=torch.from_numpy(rng.standard_normal((n, 4))).float(),
        raw_masses=inverse_softplus(torch.full((n,), START_SOFTPLUS)),
        unit_mass=float(mass) / START_SOFTPLUS,
    )

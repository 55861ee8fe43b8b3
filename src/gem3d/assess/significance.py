"""Is there any signal? The correlation of two half maps under a sphere that was chosen before the maps were seen.

A mask drawn from pure noise fakes correlation in the lowest shells; a sphere chosen beforehand cannot.
"""

from __future__ import annotations

import numpy as np
import torch

from gem3d.assess.band_pass import BAND_CUTOFF_SHELLS, effective_numbers, shell_band
from gem3d.assess.mask import sphere_mask
from gem3d.assess.shells import Curve, FloatVolume, fourier_transform, radii, ratio
from gem3d.assess.smoothing import local_quadratic_weights, pooled_number
from gem3d.assess.whitening import whitened
from gem3d.kernels.radial import radial_products

A_PRIORI_DIAMETER_BOXES = 0.9
SOFT_EDGE_BOXES = 0.05


def sphere_significance(
    half1: FloatVolume,
    half2: FloatVolume,
    *,
    pixel_size_A: float,
    particle_diameter_A: float | None = None,
    last_shell: int | None = None,
) -> Curve:
    """Pooled significance z of the correlation of two independent half maps in each shell, under a sphere.

    The bands are those of `gem3d.assess.band_pass`, but the sphere comes before them, which takes two transforms in
    all. So that strong low frequencies do not leak, the maps are first given the same amplitude in all shells.

    Parameters
    ----------
    half1, half2: `(D, D, D)` half maps without a prior.
    pixel_size_A: A per voxel.
    particle_diameter_A: of the sphere; None for 0.9 of the box.
    last_shell: last Fourier shell that the maps were made from; None for D//2.

    Returns
    -------
    `(last_shell + 1,)`, of unit variance where there is no signal.
    """
    box_size = len(half1)
    n_shells = (box_size // 2 if last_shell is None else last_shell) + 1
    box_A = box_size * pixel_size_A
    diameter_A = min(particle_diameter_A or np.inf, A_PRIORI_DIAMETER_BOXES * box_A)
    sphere = sphere_mask(box_size, pixel_size_A, diameter_A, SOFT_EDGE_BOXES * box_A)
    spectra = [fourier_transform(whitened(half) * sphere) for half in (half1, half2)]
    radius = radii(box_size)
    cross, power1, power2 = (_band_sums(sums, radius, n_shells) for sums in radial_products(*spectra))
    norm = np.sqrt(power1 * power2)
    curve = ratio(cross, norm)
    n = effective_numbers(np.square(sphere), n_shells)
    kernel = local_quadratic_weights(n)
    z: Curve = (kernel @ curve) * np.sqrt(2 * pooled_number(kernel, n))
    return z


def _band_sums(sums: Curve, radius: Curve, n_shells: int) -> Curve:
    """Sum of `sums` at each radius, `(n,)` rising, under the power h^2 of each shell's band, `(n_shells,)`."""
    result = np.zeros(n_shells)
    for shell in range(n_shells):
        ends = np.searchsorted(radius, (shell - BAND_CUTOFF_SHELLS, shell + BAND_CUTOFF_SHELLS), side="right")
        within = slice(ends[0], ends[1])
        result[shell] = shell_band(shell)(torch.from_numpy(radius[within])).numpy() ** 2 @ sums[within]
    return result

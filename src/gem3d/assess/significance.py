"""Is there any signal? The correlation of two half maps under a sphere that was chosen before the maps were seen.

A mask drawn from pure noise fakes correlation in the lowest shells; a sphere chosen beforehand cannot.
"""

from __future__ import annotations

import numpy as np
import torch

from gem3d.assess.band_pass import effective_numbers, shell_band
from gem3d.assess.mask import sphere_mask
from gem3d.assess.shells import (
    Curve,
    FloatVolume,
    fourier_transform,
    frequency_radius,
    hermitian_multiplicity,
    ratio,
)
from gem3d.assess.smoothing import local_quadratic_weights, pooled_number
from gem3d.assess.whitening import filtered, whitening_factor

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
    whitened = [filtered(half, whitening_factor(half, box_size // 2)) for half in (half1, half2)]
    spectra = [fourier_transform(half * sphere) for half in whitened]
    products = ((0, 1), (0, 0), (1, 1))
    cross, power1, power2 = (
        _band_sums((spectra[i] * spectra[j].conj()).real, box_size, n_shells) for i, j in products
    )
    norm = np.sqrt(power1 * power2)
    curve = ratio(cross, norm)
    n = effective_numbers(np.square(sphere), n_shells)
    kernel = local_quadratic_weights(n)
    z: Curve = (kernel @ curve) * np.sqrt(2 * pooled_number(kernel, n))
    return z


def _band_sums(values: FloatVolume, box_size: int, n_shells: int) -> Curve:
    """Sum of `values` on the half spectrum under the power h^2 of each shell's band, `(n_shells,)`."""
    # |q|^2 is a whole number, and every band a function of it.
    squared = np.rint(np.square(frequency_radius(box_size))).astype(np.int64)
    weighted = values * hermitian_multiplicity(box_size).astype(np.float32)
    sums = np.bincount(squared.ravel(), weights=weighted.ravel())
    radius = torch.from_numpy(np.sqrt(np.arange(len(sums))))
    return np.array([float((shell_band(k)(radius).numpy() ** 2) @ sums) for k in range(n_shells)])

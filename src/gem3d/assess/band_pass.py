"""Shell correlations with the mask applied AFTER the shell filter (mFSC; Penczek 2020, IUCrJ 7(6)).

Every unmasked map is band-passed to shell k, h(q) = exp(-(|q| - k)^2 / (2 * 0.7^2)), brought back to real
space, and inner products are taken there under a weight W = mask^2. Strong low-frequency signal cannot leak
into shell k, because the mask comes after the filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess.band_fields import (
    Band,
    BandFields,
    Window,
    bandwidth,
    crop,
    inverse_of,
    sampled,
    spectrum_of,
)
from gem3d.assess.shells import Curve, FloatVolume, check_same_box
from gem3d.threads import Steps, two_at_a_time

BAND_SIGMA_SHELLS = 0.7
BAND_CUTOFF_SHELLS = 3.0
# Up to here a shell is too coarse for the sum over its pixels to be taken for an integral over |q|.
EXACT_SHELLS = 8
RADIAL_STEP_VOXELS = 0.25


@dataclass(frozen=True)
class BandProducts:
    """Inner products of band-passed maps and the number of independent values behind them.

    inner_products: `(n_shells, n_maps, n_maps)` mean over the box of W a_k b_k.
    n_effective: `(n_shells,)` independent complex values, Hermitian mates not counted twice.
    """

    inner_products: NDArray[np.float64]
    n_effective: NDArray[np.float64]


def band_passed_products(
    maps: Sequence[FloatVolume],
    weight: FloatVolume,
    *,
    last_shell: int | None = None,
    full_grid: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BandProducts:
    """Inner products of all pairs of maps, band-passed to every shell 0 .. `last_shell`, under a weight.

    Parameters
    ----------
    maps: `(D, D, D)` each, unmasked.
    weight: `(D, D, D)`, W = mask^2.
    last_shell: D//2 without it.
    full_grid: compute every shell on the full grid: slower, the exact answer that the small grids
        approximate.
    progress: called with (work done, work in all), in voxels.
    """
    named = {f"map {i + 1}": volume for i, volume in enumerate(maps)}
    box_size = check_same_box(**named, weight=weight)
    n_shells = (box_size // 2 if last_shell is None else last_shell) + 1
    weight_spectrum = spectrum_of(weight)
    fields = BandFields(
        maps, Window.around(weight), bandwidth(weight_spectrum, box_size), full_grid=full_grid
    )
    products = np.zeros((n_shells, len(maps), len(maps)))
    lasts = [shell + BAND_CUTOFF_SHELLS for shell in range(n_shells)]
    steps = Steps(progress, sum(fields.grid_size(last) ** 3 for last in lasts))

    def on_one_grid(size_and_shells: tuple[int, list[int]]) -> None:
        size, shells = size_and_shells
        grid = fields.grid(size)
        on_grid = sampled(weight, weight_spectrum, grid.window).flatten(1)
        for shell in shells:
            for planes, values in grid.planes(shell_band(shell), lasts[shell]):
                flat = values.flatten(2)
                # One product a plane in float32, the planes summed in float64.
                per_plane = torch.einsum("azr,bzr->zab", flat * on_grid[planes], flat)
                products[shell] += per_plane.double().sum(0).numpy() / size**3
            steps.done(size**3)

    two_at_a_time(on_one_grid, fields.by_grid(lasts))
    return BandProducts(products, effective_numbers(weight, n_shells))


def shell_band(shell: int) -> Band:
    """h(|q|) of a shell."""

    def band(radius: torch.Tensor) -> torch.Tensor:
        passed = torch.exp((radius - shell) ** 2 / (-2 * BAND_SIGMA_SHELLS**2))
        passed *= (radius - shell).abs() <= BAND_CUTOFF_SHELLS
        # The mean of a map depends on how its background was set, not on the particle.
        return passed if shell == 0 else passed * (radius > 0)

    return band


def effective_number(weight: FloatVolume, band_power: NDArray[np.floating]) -> float:
    """Number of independent complex values in a band of white noise seen under a weight W.

    n_eff = (sum W)^2 (sum P)^2 / (2 sum_q |What(q)|^2 (P * P)(q)); half the number of Fourier pixels in the
    shell for an indicator band and no mask. The correlation of two independent noise maps has the variance 1
    / (2 n_eff).

    Parameters
    ----------
    weight: `(D, D, D)` W.
    band_power: `(D, D, D//2 + 1)` P on the half spectrum: the shell's indicator, or h^2.
    """
    size = weight.shape[0]
    spectrum = spectrum_of(weight)
    autocorrelation = inverse_of(spectrum.abs() ** 2, size)
    p = inverse_of(torch.as_tensor(np.asarray(band_power, dtype=np.float32)), size)
    # sum_q |What|^2 (P * P) is the mean of autocorrelation(W) p(r)^2.
    denominator = 2 * float((autocorrelation * p * p).mean(dtype=torch.float64))
    if denominator <= 0:
        return 0.0
    return (float(spectrum[0, 0, 0].real) * float(p[0, 0, 0])) ** 2 / denominator


def effective_numbers(weight: FloatVolume, n_shells: int) -> Curve:
    """`effective_number` of the bands of shells 0 .. n_shells - 1, `(n_shells,)`, without a transform for each.

    P is radial, so that of the autocorrelation of W only its sum over spheres counts, and p(r) is an integral of
    P(q) q sin(2 pi q r) / r over q. The lowest shells are summed pixel by pixel on a small grid.
    """
    size = weight.shape[0]
    spectrum = spectrum_of(weight)
    numbers = np.zeros(n_shells)
    if not np.any(weight):
        return numbers
    small = min(size, 4 * (EXACT_SHELLS + int(BAND_CUTOFF_SHELLS) + 1))
    small_spectrum = crop(spectrum, size, small)
    small_weight = inverse_of(small_spectrum, small).numpy()
    full = torch.fft.fftfreq(small, 1.0 / small)
    radius = (full[:, None, None] ** 2 + full[:, None] ** 2 + torch.arange(small // 2 + 1.0) ** 2).sqrt()
    for shell in range(min(EXACT_SHELLS, n_shells)):
        numbers[shell] = effective_number(small_weight, (shell_band(shell)(radius) ** 2).numpy())
    if n_shells <= EXACT_SHELLS:
        return numbers

    autocorrelation = inverse_of(spectrum.abs() ** 2, size)
    lag = torch.fft.fftfreq(size, 1.0 / size)
    squared = lag[:, None] ** 2 + lag**2
    n_bins = int(np.sqrt(3) * size / 2 / RADIAL_STEP_VOXELS) + 2
    sums = torch.zeros(n_bins, dtype=torch.float64)
    # It is the same at r and -r: a plane z stands for -z as well.
    for z in range(size // 2 + 1):
        bins = ((squared + z**2).sqrt() / RADIAL_STEP_VOXELS).round().long().flatten()
        in_plane = torch.bincount(bins, weights=autocorrelation[z].flatten().double(), minlength=n_bins)
        sums += in_plane if 2 * z % size == 0 else 2 * in_plane
    r = np.arange(n_bins) * RADIAL_STEP_VOXELS / size  # in boxes
    offset = torch.linspace(-BAND_CUTOFF_SHELLS, BAND_CUTOFF_SHELLS, 120, dtype=torch.float64)
    band = (shell_band(EXACT_SHELLS)(EXACT_SHELLS + offset) ** 2).numpy()
    # p(r) is the mean over q = k + d of sin(2 pi q r) / (2 pi q r) under h^2 q^2. Bands are alike for all shells k,
    # so the sum of sin(2 pi (k + d) r) h^2 (k + d) is made of a few sums over d, odd ones of which vanish.
    phase = 2 * np.pi * np.outer(r, offset.numpy())
    even, odd = np.cos(phase) @ band, np.sin(phase) @ (band * offset.numpy())
    second = float(band @ offset.numpy() ** 2)
    for shell in range(EXACT_SHELLS, n_shells):
        at = 2 * np.pi * r[1:] * shell
        p = np.ones(n_bins)
        p[1:] = (np.sin(at) * shell * even[1:] + np.cos(at) * odd[1:]) / (2 * np.pi * r[1:])
        p[1:] /= shell**2 * band.sum() + second
        numbers[shell] = 1 / float(sums.numpy() @ p**2)
    numbers[EXACT_SHELLS:] *= size**3 * float(spectrum[0, 0, 0].real) ** 2 / 2
    return numbers

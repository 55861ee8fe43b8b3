"""Shell correlations with the mask applied AFTER the shell filter (mFSC; Penczek 2020, IUCrJ 7(6)).

Every unmasked map is band-passed to shell k, h(q) = exp(-(|q| - k)^2 / (2 * 0.7^2)), brought back to real
space, and inner products are taken there under a weight W = mask^2. Strong low-frequency signal cannot leak
into shell k, because the mask comes after the filter.

A band around shell k ends at K = k + 3, so its fields need only a small grid. On a grid of n points a product
of two fields, which reaches 2K, is aliased beyond n - 2K; the weight has no power there once n >= 2K + Q, Q
its bandwidth, and the sum is that of the full grid. Shells too high for that use the full grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from gem3d.assess.shells import FloatVolume, as_tensor, check_same_box

BAND_SIGMA_SHELLS = 0.7
BAND_CUTOFF_SHELLS = 3.0
# Share of a weight's power that may lie beyond its bandwidth Q. It leaves an error of some 1e-4 in a
# correlation, because what is aliased is the far end of the spectrum of a product of two noise-like fields.
BANDWIDTH_TAIL = 1e-3


@dataclass(frozen=True)
class BandProducts:
    """Inner products of band-passed maps and the number of independent values behind them.

    inner_products: `(n_weights, n_shells, n_maps, n_maps)` mean over the box of W a_k b_k.
    n_effective: `(n_weights, n_shells)` independent complex values, Hermitian mates not counted twice.
    """

    inner_products: NDArray[np.float64]
    n_effective: NDArray[np.float64]


def band_passed_products(
    maps: Sequence[FloatVolume],
    weights: Sequence[FloatVolume],
    *,
    last_shell: int | None = None,
    full_grid: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BandProducts:
    """Inner products of all pairs of maps, band-passed to every shell 0 .. `last_shell`, under each weight.

    Parameters
    ----------
    maps: `(D, D, D)` each, unmasked.
    weights: `(D, D, D)` each, W = mask^2.
    last_shell: D//2 without it.
    full_grid: compute every shell on the full grid: slower, the exact answer that the small grids
        approximate.
    progress: called with (work done, work in all), in voxels.
    """
    named = {f"map {i + 1}": volume for i, volume in enumerate(maps)}
    box_size = check_same_box(**named, **{f"weight {i + 1}": weight for i, weight in enumerate(weights)})
    n_shells = (box_size // 2 if last_shell is None else last_shell) + 1
    spectra = [torch.fft.rfftn(as_tensor(volume)) / box_size**3 for volume in maps]
    weight_spectra = [torch.fft.rfftn(as_tensor(weight)) / box_size**3 for weight in weights]
    bandwidth = max(_bandwidth(spectrum, box_size) for spectrum in weight_spectra)

    products = np.zeros((len(weights), n_shells, len(maps), len(maps)))
    n_effective = np.zeros((len(weights), n_shells))
    grid: _Grid | None = None
    sizes = [box_size if full_grid else _grid_size(shell, bandwidth, box_size) for shell in range(n_shells)]
    work = np.cumsum(np.array(sizes, dtype=np.int64) ** 3)
    for shell, size in enumerate(sizes):
        if grid is None or grid.size != size:
            grid = None  # its memory is needed for the next
            grid = _Grid(spectra, weight_spectra, box_size, size)
        products[:, shell], n_effective[:, shell] = grid.shell_products(shell)
        if progress is not None:
            progress(int(work[shell]), int(work[-1]))
    return BandProducts(products, n_effective)


def _grid_size(shell: int, bandwidth: int, box_size: int) -> int:
    """Points a side that a shell needs, see the top of this file."""
    needed = 2 * int(np.ceil(shell + BAND_CUTOFF_SHELLS)) + bandwidth + 1
    return min(int(next_fast_len(needed + needed % 2, real=True)), box_size)


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
    spectrum = torch.fft.rfftn(as_tensor(weight)) / size**3
    autocorrelation = _inverse(spectrum.abs() ** 2, size)
    return _effective_number(
        spectrum, autocorrelation, torch.as_tensor(np.asarray(band_power, dtype=np.float32))
    )


class _Grid:
    """Spectra cropped to a grid of `size` points a side, the weights on that grid, and buffers used again."""

    def __init__(
        self, spectra: list[torch.Tensor], weight_spectra: list[torch.Tensor], box_size: int, size: int
    ) -> None:
        self.size = size
        self.spectra = [_crop(spectrum, box_size, size) for spectrum in spectra]
        self.weight_spectra = [_crop(spectrum, box_size, size) for spectrum in weight_spectra]
        self.weights = [_inverse(spectrum, size) for spectrum in self.weight_spectra]
        self.autocorrelations = [_inverse(spectrum.abs() ** 2, size) for spectrum in self.weight_spectra]
        full = torch.fft.fftfreq(size, 1.0 / size)
        half = torch.arange(size // 2 + 1, dtype=torch.float32)
        self.radius = torch.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2)
        # Fresh memory for every transform would cost more than the transforms.
        self.fields = torch.empty(len(spectra), size, size * size)
        self.weighted = torch.empty_like(self.fields)

    def shell_products(self, shell: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Inner products `(n_weights, n_maps, n_maps)` and n_eff `(n_weights,)` of one shell."""
        band = torch.exp((self.radius - shell) ** 2 / (-2 * BAND_SIGMA_SHELLS**2))
        band *= (self.radius - shell).abs() <= BAND_CUTOFF_SHELLS
        if shell > 0:
            band[0, 0, 0] = 0  # the mean of a map depends on how its background was set, not on the particle
        for field, spectrum in zip(self.fields, self.spectra, strict=True):
            _inverse(spectrum * band, self.size, out=field.view(self.size, self.size, self.size))
        products, n_effective = [], []
        for weight, spectrum, autocorrelation in zip(
            self.weights, self.weight_spectra, self.autocorrelations, strict=True
        ):
            torch.mul(self.fields, weight.view(self.size, -1), out=self.weighted)
            # One product a plane in float32, the planes summed in float64.
            planes = torch.einsum("azr,bzr->zab", self.weighted, self.fields)
            products.append(planes.double().sum(0).numpy() / self.size**3)
            n_effective.append(_effective_number(spectrum, autocorrelation, band**2))
        return np.array(products), np.array(n_effective)


def _effective_number(
    spectrum: torch.Tensor, autocorrelation: torch.Tensor, band_power: torch.Tensor
) -> float:
    """`effective_number` on one grid; sum_q |What|^2 (P * P) is the mean of autocorrelation(W) p(r)^2."""
    size = band_power.shape[0]
    p = _inverse(band_power, size)
    denominator = 2 * float((autocorrelation * p * p).mean(dtype=torch.float64))
    if denominator <= 0:
        return 0.0
    return (float(spectrum[0, 0, 0].real) * float(p[0, 0, 0])) ** 2 / denominator


def _inverse(half_spectrum: torch.Tensor, size: int, out: torch.Tensor | None = None) -> torch.Tensor:
    """Sum over frequencies of a half spectrum times exp(2 pi i q.r / size), no 1/N."""
    values = half_spectrum.to(torch.complex64)
    field: torch.Tensor = torch.fft.irfftn(values, s=(size, size, size), norm="forward", out=out)
    return field


def _crop(half_spectrum: torch.Tensor, box_size: int, size: int) -> torch.Tensor:
    """Half spectrum on a smaller grid: frequencies up to (size - 1) // 2, an even grid's Nyquist plane empty."""
    if size == box_size:
        return half_spectrum
    m = (size - 1) // 2
    rows = torch.cat([torch.arange(m + 1), torch.arange(box_size - m, box_size)])
    target = torch.cat([torch.arange(m + 1), torch.arange(size - m, size)])
    cropped = half_spectrum.new_zeros(size, size, size // 2 + 1)
    cropped[target[:, None], target, : m + 1] = half_spectrum[rows[:, None], rows, : m + 1]
    return cropped


def _bandwidth(half_spectrum: torch.Tensor, box_size: int) -> int:
    """Smallest Q such that max(|qx|, |qy|, |qz|) > Q holds less than `BANDWIDTH_TAIL` of the power."""
    power = half_spectrum.abs().double() ** 2
    full = torch.fft.fftfreq(box_size, 1.0 / box_size).abs().long()
    largest = torch.maximum(full[:, None], full)[:, :, None].maximum(torch.arange(box_size // 2 + 1))
    per_frequency = torch.bincount(largest.flatten(), weights=power.flatten())
    beyond = per_frequency.flip(0).cumsum(0).flip(0)
    return int((beyond > BANDWIDTH_TAIL * beyond[0]).sum()) - 1

"""The calibrated FSC around every point of a grid: what local resolution and local filtering are read from.

The window of a point is a Gaussian, and as everywhere (`gem3d.assess.band_pass`) it comes after the filter: the maps
are band-passed once for all points, their products smoothed and read at the points. A narrow window cannot tell
neighbouring shells apart, so the bands are as wide as the window makes them in any case: the kernel of a band
reaches as far as the window does.

Where a map ends in one place and goes on in another, a wide band carries strong signal up across its lower edge, as
the sharp-edged mask does that other programs move through the map; these subtract what phase-randomised maps show
(Chen et al. 2013, Ultramicroscopy 135:24). Here the maps are whitened first, which leaves no steep fall to leak down,
and what a band sees of the bands below it is subtracted, at every point its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess.band_fields import Band, BandFields, BandGrid, Window, bandwidth, sampled, spectrum_of
from gem3d.assess.shells import (
    Curve,
    FloatVolume,
    check_same_box,
    fourier_transform,
    ratio,
)
from gem3d.assess.whitening import whitening_factor
from gem3d.threads import Steps, two_at_a_time

SIGMA_PER_FWHM = 1 / np.sqrt(8 * np.log(2))
# Share of the variance of the whole window that is the window's own; the rest is the reach of the bands' power.
OWN_SHARE = 2 / 3
BAND_CUTOFF_SIGMAS = 3.0
SPACING_SIGMAS = 0.85
STEPS_PER_WINDOW = 4.0


@dataclass(frozen=True)
class LocalCurves:
    """Curves over bands at the points of a grid.

    centres_shells: `(n,)` of the bands, in Fourier pixels of the box, rising.
    window_A: full width at half maximum of the window, kernel of the bands included.
    positions: voxel coordinates of the points along z, y, x.
    calibrated: `(n, z, y, x)` the calibrated FSC; the ordinary one where the half maps are their own linear maps.
    significance: `(z, y, x)` of the correlation of the linear half maps in the first band, in standard deviations.
    weight: `(n, z, y, x)` regression on the truth of the final map.
    inside: `(z, y, x)` share of a window that lies under the mask.
    """

    centres_shells: Curve
    window_A: float
    positions: tuple[Curve, Curve, Curve]
    calibrated: NDArray[np.float32]
    significance: NDArray[np.float64]
    weight: NDArray[np.float32]
    inside: NDArray[np.float64]


def local_curves(
    half1: FloatVolume,
    half2: FloatVolume,
    mask: FloatVolume,
    pixel_size_A: float,
    *,
    window_A: float,
    last_shell: int,
    linear: tuple[FloatVolume, FloatVolume] | None = None,
    final_map: FloatVolume | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalCurves:
    """The calibrated FSC F = <G1,B2> <G2,B1> / (|G1| |G2| <B1,B2>) under a window around each point.

    Parameters
    ----------
    half1, half2: `(D, D, D)` half maps G, unmasked, unfiltered.
    mask: `(D, D, D)` in [0, 1]; every window is multiplied by its square.
    pixel_size_A: A per voxel.
    window_A: full width at half maximum of the window, kernel of the bands included; no band is coarser than that.
    last_shell: no band lies beyond.
    linear: half maps B without a prior; None: the half maps are their own, and F is the ordinary FSC.
    final_map: the map whose regression on the truth is wanted; None for the mean of the half maps.
    progress: called with (bands done, bands in all).
    """
    box_size = check_same_box(half1=half1, half2=half2, mask=mask)
    box_A = box_size * pixel_size_A
    own_voxels, sigma_per_voxel = _widths(window_A, pixel_size_A)
    sigma_shells = sigma_per_voxel * box_size
    first = box_A / window_A
    centres = np.linspace(
        first, last_shell, max(2, round((last_shell - first) / (SPACING_SIGMAS * sigma_shells)) + 1)
    )

    b1, b2 = linear or (half1, half2)
    factor = torch.from_numpy(whitening_factor(fourier_transform(b1 + b2), last_shell))
    maps = [half1, half2, *(linear or ()), *(() if final_map is None else (final_map,))]
    weight = np.square(mask)
    weight_spectrum = spectrum_of(weight)
    window = Window.around(weight)
    fields = BandFields(maps, window, bandwidth(weight_spectrum, box_size))
    step = window_A / pixel_size_A / STEPS_PER_WINDOW
    positions = (_points(*window.z, step), _points(*window.y, step), _points(*window.x, step))
    points = _Points(positions, own_voxels)
    # What counts is the number of independent values, (sum W)^2 / sum W^2 of that of a whole Gaussian.
    inside = points.means(weight, window)
    squared = _Points(positions, own_voxels / np.sqrt(2)).means(np.square(weight), window)
    share = np.divide(inside**2, squared, out=np.zeros_like(inside), where=squared > 1e-6)

    g1, g2 = 0, 1
    l1, l2 = (2, 3) if linear else (g1, g2)
    pairs = sorted({(g1, l2), (l1, g2), (g1, g1), (g2, g2), (g1, g2), (l1, l2)})
    if final_map is not None:
        pairs.append((len(maps) - 1, len(maps) - 1))
    found = np.zeros((len(centres), len(pairs), *inside.shape))
    bands = [_band(float(centre), sigma_shells, factor) for centre in centres]
    lasts = [float(centre) + BAND_CUTOFF_SIGMAS * sigma_shells for centre in centres]
    steps = Steps(progress, sum(fields.grid_size(last) ** 3 for last in lasts))

    def on_one_grid(size_and_bands: tuple[int, list[int]]) -> None:
        size, of_grid = size_and_bands
        grid = fields.grid(size)
        on_grid = sampled(weight, weight_spectrum, grid.window)
        for i in of_grid:
            found[i] = points.products(grid, on_grid, bands[i], lasts[i], pairs)
            steps.done(size**3)

    two_at_a_time(on_one_grid, fields.by_grid(lasts))
    grid = fields.grid(fields.grid_size(lasts[0]))
    on_grid = sampled(weight, weight_spectrum, grid.window)
    cross, power1, power2 = points.products(grid, on_grid, bands[0], lasts[0], [(l1, l2), (l1, l1), (l2, l2)])
    n = share * values_in_window(window_A, window_A, pixel_size_A)
    significance = ratio(cross, np.sqrt(np.maximum(power1 * power2, 0))) * np.sqrt(2 * n)

    _subtract_lower_bands(found, centres, sigma_shells)
    of = {pair: found[:, i] for i, pair in enumerate(pairs)}
    norm1, norm2 = (np.sqrt(np.maximum(of[g, g], 0)) for g in (g1, g2))
    cross1, cross2, signal = of[g1, l2], of[l1, g2], of[l1, l2]
    positive = (cross1 > 0) & (cross2 > 0) & (signal > 0)
    calibrated = ratio(cross1 * cross2, norm1 * norm2 * signal) * positive
    between = np.clip(ratio(of[g1, g2], norm1 * norm2), 0, 1)
    final = np.maximum(found[:, -1], 0) if final_map is not None else norm1 * norm2 * (1 + between) / 2
    half = (ratio(cross1, norm1**2) + ratio(cross2, norm2**2)) / 2
    regression = half * np.sqrt(2 / (1 + between) * ratio(norm1 * norm2, final))
    return LocalCurves(
        centres,
        window_A,
        positions,
        calibrated.astype(np.float32),
        significance,
        regression.astype(np.float32),
        inside,
    )


def _band(centre: float, sigma_shells: float, whitening: torch.Tensor) -> Band:
    def band(radius: torch.Tensor) -> torch.Tensor:
        passed = torch.exp((radius - centre) ** 2 / (-2 * sigma_shells**2)) * (radius > 0)
        return passed * whitening[radius.round().long()]

    return band


def _subtract_lower_bands(sums: NDArray[np.float64], centres: Curve, sigma_shells: float) -> None:
    """Take out of each band, in place, what comes from the frequencies nearer to the centres of lower bands.

    With the frequencies shared out among the bands, a band sees a_ij of each, a_ij = the integral of its power over
    the share of band j. From the lowest band on, what those below hold is known, and what it sees of them subtracted;
    what it sees of those above is taken to be like its own. Carrying strong signal upwards would fake resolution;
    carrying weak signal downwards does no harm, and undoing it would amplify the noise.

    Parameters
    ----------
    sums: `(n, ...)` of products of band-passed maps; afterwards for each band as if it held its own share alone.
    """
    edges = np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [centres[-1] + 4 * sigma_shells]])
    nodes, node_weights = np.polynomial.legendre.leggauss(12)
    middle, half_width = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    q = middle[:, None] + half_width[:, None] * nodes  # (share, node)
    power = np.exp(-(((q[None] - centres[:, None, None]) / sigma_shells) ** 2)) * q**2
    seen = (power * node_weights).sum(axis=2) * half_width
    for i in range(len(centres)):
        below = np.tensordot(seen[i, :i], sums[:i], axes=(0, 0))
        sums[i] = (sums[i] - below) / seen[i, i:].sum()


class _Points:
    """Sums over the Gaussian window of every point.

    Parameters
    ----------
    positions: voxel coordinates of the points along z, y, x.
    sigma_voxels: standard deviation of the windows.
    """

    def __init__(self, positions: tuple[Curve, Curve, Curve], sigma_voxels: float) -> None:
        self._positions, self._sigma = positions, sigma_voxels

    def means(self, volume: FloatVolume, window: Window) -> NDArray[np.float64]:
        """Weighted means of a volume, given on the map's grid, that is 0 outside of a part of it."""
        values = torch.from_numpy(volume[window.voxels])
        to_z, to_y, to_x = self._windows(window, window.size)
        return torch.einsum("Zz,zYX->ZYX", to_z, to_y @ (values @ to_x.T)).double().numpy()

    def products(
        self, grid: BandGrid, weight: torch.Tensor, band: Band, last: float, pairs: list[tuple[int, int]]
    ) -> NDArray[np.float64]:
        """Sums of products of pairs of band-passed maps under a weight on their grid, `(pairs, z, y, x)`."""
        to_z, to_y, to_x = self._windows(grid.window, grid.box_size)
        total = torch.zeros(len(pairs), *(len(axis) for axis in self._positions), dtype=torch.float64)
        for planes, values in grid.planes(band, last):
            weighted = values * weight[planes]
            # One pair at a time: its product of a few planes stays in the cache.
            for sums, (a, b) in zip(total, pairs, strict=True):
                along_y = to_y @ ((weighted[a] * values[b]) @ to_x.T)  # (planes, Y, X)
                sums += torch.tensordot(to_z[:, planes], along_y, dims=1).double()
        return total.numpy()

    def _windows(self, window: Window, box_size: int) -> list[torch.Tensor]:
        """Weights `(points, voxels)` along z, y, x; a row over all voxels of the box would sum to 1."""
        scale = box_size / window.size
        matrices = []
        for axis, (start, stop) in zip(self._positions, (window.z, window.y, window.x), strict=True):
            distance = axis[:, None] - np.arange(start, stop) * scale
            gaussian = np.exp(-(distance**2) / (2 * self._sigma**2))
            gaussian *= scale / (np.sqrt(2 * np.pi) * self._sigma)
            matrices.append(torch.from_numpy(gaussian.astype(np.float32)))
        return matrices


def values_in_window(resolution_A: float, window_A: float, pixel_size_A: float) -> float:
    """Independent complex values of white noise in a band under a whole window.

    n = 1 / (2 <p(r)^2>), p the correlation of the noise at a lag r, averaged over the window's autocorrelation, a
    Gaussian of twice its variance (`gem3d.assess.band_pass.effective_number`).

    Parameters
    ----------
    resolution_A: at the centre of the band.
    window_A: full width at half maximum of the window, kernel of the bands included.
    pixel_size_A: A per voxel.
    """
    own, band_sigma = _widths(window_A, pixel_size_A)
    frequency = pixel_size_A / resolution_A
    q = np.clip(frequency + band_sigma * np.linspace(-BAND_CUTOFF_SIGMAS, BAND_CUTOFF_SIGMAS, 61), 0, None)
    power = np.exp(-(((q - frequency) / band_sigma) ** 2)) * q**2
    r = np.linspace(0, 8 * own, 1600)
    p = np.sinc(2 * np.outer(r, q)) @ power / power.sum()
    lag = np.exp(-(r**2) / (4 * own**2)) * r**2
    return float(lag.sum() / (2 * (lag @ p**2)))


def _widths(window_A: float, pixel_size_A: float) -> tuple[float, float]:
    """Standard deviation of the window's own Gaussian in voxels, and of a band's amplitude in cycles per voxel."""
    sigma = window_A * SIGMA_PER_FWHM / pixel_size_A
    # In real space as in Fourier space, the power of a band has half the variance of its amplitude.
    reach = sigma * np.sqrt(2 * (1 - OWN_SHARE))
    return sigma * np.sqrt(OWN_SHARE), 1 / (2 * np.pi * reach)


def _points(start: int, stop: int, step: float) -> Curve:
    """Evenly spaced from the first to the last voxel, no further apart than `step`."""
    return np.linspace(start, stop - 1, max(2, int(np.ceil((stop - 1 - start) / step)) + 1))

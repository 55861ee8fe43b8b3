"""Maps band-passed to one radial band after another, in real space, where they are wanted.

What is wanted is a weighted sum of products of two band-passed maps, and the weight (a mask) is zero outside a part
of the box. So of the inverse transform only the voxels of that part are computed: one axis after the other, columns
in small groups that stay in the cache, and only the planes wanted of each.

A band that ends at K needs only a small grid. On a grid of n points a product of two fields, which reaches 2K, is
aliased beyond n - 2K; the weight has no power there once n >= 2K + Q, Q its bandwidth, and the sum is that of the
full grid. Bands too high for that use the full grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len

from gem3d.assess.mask import support_box
from gem3d.assess.shells import FloatVolume, as_tensor
from gem3d.kernels.pass_band import pass_band

# Share of a weight's power that may lie beyond its bandwidth Q. It leaves an error of some 1e-4 in a
# correlation, because what is aliased is the far end of the spectrum of a product of two noise-like fields.
BANDWIDTH_TAIL = 1e-3
# A weight sampled on a coarser grid reaches a little beyond its own voxels.
MARGIN_VOXELS = 2
GROUP_BYTES = 4 << 20

Band = Callable[[torch.Tensor], torch.Tensor]
"""Transfer of a band as a function of |q| in Fourier pixels."""


@dataclass(frozen=True)
class Window:
    """Voxels of a grid of `size` points a side: `[start, stop)` along z, y, x."""

    size: int
    z: tuple[int, int]
    y: tuple[int, int]
    x: tuple[int, int]

    @property
    def voxels(self) -> tuple[slice, slice, slice]:
        """Index of the voxels in a volume of the grid."""
        return slice(*self.z), slice(*self.y), slice(*self.x)

    def on(self, size: int) -> Window:
        """The voxels of a coarser grid over the same box that hold this window."""
        if size == self.size:
            return self
        scale = size / self.size

        def part(start: int, stop: int) -> tuple[int, int]:
            low, high = int(start * scale) - MARGIN_VOXELS, int(stop * scale) + 1 + MARGIN_VOXELS
            return max(low, 0), min(high, size)

        return Window(size, part(*self.z), part(*self.y), part(*self.x))

    @classmethod
    def whole(cls, size: int) -> Window:
        """Every voxel of a grid."""
        return cls(size, (0, size), (0, size), (0, size))

    @classmethod
    def around(cls, weight: FloatVolume) -> Window:
        """The smallest one that holds every positive voxel of a weight."""
        if not np.any(weight > 0):
            return cls(len(weight), (0, 1), (0, 1), (0, 1))
        z, y, x = ((start, start + n) for start, n in zip(*support_box(weight, 0), strict=True))
        return cls(len(weight), z, y, x)


class BandFields:
    """Some maps, ready to be band-passed.

    Parameters
    ----------
    maps: `(D, D, D)` each.
    window: where the fields are wanted.
    bandwidth: Q of the weights that products of fields are summed under.
    full_grid: use no smaller grid.
    """

    def __init__(
        self, maps: Sequence[FloatVolume], window: Window, bandwidth: int, *, full_grid: bool = False
    ) -> None:
        self.box_size = window.size
        self._window, self._bandwidth, self._full_grid = window, bandwidth, full_grid
        n = self.box_size
        self._spectra = torch.empty(n // 2 + 1, len(maps), n, n, dtype=torch.complex64)
        for i, volume in enumerate(maps):
            self._spectra[:, i] = spectrum_of(volume).permute(2, 1, 0)

    def grid_size(self, last: float) -> int:
        """Points a side that a band ending at `last` needs, see the top of this file."""
        needed = 2 * int(-(-last // 1)) + self._bandwidth + 1
        fast = int(next_fast_len(needed + needed % 2, real=True))
        return self.box_size if self._full_grid else min(fast, self.box_size)

    def grid(self, size: int) -> BandGrid:
        """The grid of `size` points a side, for the bands that need it; each thread needs its own."""
        return BandGrid(self._spectra, self._window.on(size))

    def by_grid(self, lasts: Sequence[float]) -> list[tuple[int, list[int]]]:
        """Grid sizes, the largest first, each with the indices of the bands ending at `lasts` that need it."""
        sizes = [self.grid_size(last) for last in lasts]
        return [
            (size, [i for i, needed in enumerate(sizes) if needed == size])
            for size in sorted(set(sizes), reverse=True)
        ]


class BandGrid:
    """Inverse transforms on one grid, and their memory: fresh memory for every band would cost as much as they do.

    window: where the fields are computed.
    box_size: points a side of the maps' own grid.
    """

    def __init__(self, spectra: torch.Tensor, window: Window) -> None:
        self.window, self.box_size, self._spectra = window, spectra.shape[2], spectra
        n, n_maps = window.size, spectra.shape[1]
        n_z, n_y = window.z[1] - window.z[0], window.y[1] - window.y[0]
        self._columns = max(1, GROUP_BYTES // (8 * n_maps * n * n))
        self._filtered = torch.empty(self._columns * n_maps * n * n, dtype=torch.complex64)
        self._turned = torch.empty(self._columns, n_maps, n_z, n, dtype=torch.complex64)
        self._lines = torch.empty(n // 2 + 1, n_maps, n_z, n_y, dtype=torch.complex64)

    def planes(self, band: Band, last: float) -> Iterator[tuple[slice, torch.Tensor]]:
        """The band-passed maps, some planes z at a time.

        Parameters
        ----------
        band: transfer; taken to be 0 beyond `last`.
        last: in Fourier pixels.

        Yields
        ------
        planes, fields: which planes of the window, and `(n_maps, planes, y, x)` there.
        """
        n, window = self.window.size, self.window
        n_maps = self._spectra.shape[1]
        z, y = slice(*window.z), slice(*window.y)
        columns = min(int(last), n // 2) + 1
        # |q|^2 is a whole number, and so is the square of the last one in the band.
        transfer = band(torch.arange(int(last**2) + 1).float().sqrt_()).float()

        turned, lines = self._turned, self._lines
        lines[columns:] = 0
        empty_from = n // 2 + 1
        for first in range(0, columns, self._columns):
            part = range(first, min(first + self._columns, columns))
            count = len(part)
            # Rows y beyond the band's sphere are empty.
            rows = int(max(last**2 - first**2, 0) ** 0.5)
            turned[:, :, :, rows + 1 : empty_from] = 0
            turned[:, :, :, n - empty_from + 1 : n - rows] = 0
            empty_from = rows + 1
            for some in _rows_within(rows, n):
                shape = (count, n_maps, len(some), n)
                filtered = self._filtered[: math.prod(shape)].view(shape)
                pass_band(self._spectra, transfer, part, some, out=filtered)
                along_z = torch.fft.ifft(filtered, dim=3, norm="forward")
                at = slice(some.start % n, some.start % n + len(some))
                turned[:count, :, :, at] = along_z[..., z].transpose(2, 3)
            lines[part.start : part.stop] = torch.fft.ifft(turned[:count], dim=3, norm="forward")[..., y]
        n_z = z.stop - z.start
        depth = max(1, GROUP_BYTES // (4 * n_maps * (y.stop - y.start) * n))
        for first in range(0, n_z, depth):
            planes = slice(first, min(first + depth, n_z))
            along_x = lines[:, :, planes].movedim(0, -1).contiguous()
            fields = torch.fft.irfft(along_x, n=n, dim=3, norm="forward")
            yield planes, fields[..., slice(*window.x)]


def _rows_within(radius: int, size: int) -> list[range]:
    """Frequencies of a grid up to `radius`, first the positive ones and then the negative, as they are stored."""
    parts = range(min(radius, (size - 1) // 2) + 1), range(-min(radius, size // 2), 0)
    return [part for part in parts if len(part) > 0]


def spectrum_of(volume: FloatVolume) -> torch.Tensor:
    """Half spectrum of a map over its number of voxels, so that an inverse transform is a plain sum."""
    spectrum: torch.Tensor = torch.fft.rfftn(as_tensor(volume)).div_(volume.size)
    return spectrum


def inverse_of(half_spectrum: torch.Tensor, size: int) -> torch.Tensor:
    """Sum over frequencies of a half spectrum times exp(2 pi i q.r / size), no 1/N."""
    values = half_spectrum.to(torch.complex64)
    field: torch.Tensor = torch.fft.irfftn(values, s=(size, size, size), norm="forward")
    return field


def sampled(volume: FloatVolume, half_spectrum: torch.Tensor, window: Window) -> torch.Tensor:
    """A volume, whose half spectrum is given, at the voxels of a window, which may be of a coarser grid."""
    box_size, n = len(volume), window.size
    if n == box_size:
        return torch.from_numpy(np.ascontiguousarray(volume[window.voxels]))
    z, y, x = window.voxels
    # Of each axis only what is wanted goes on to the next.
    along_z = torch.fft.ifft(crop(half_spectrum, box_size, n), dim=0, norm="forward")[z]
    along_y = torch.fft.ifft(along_z, dim=1, norm="forward")[:, y]
    along_x: torch.Tensor = torch.fft.irfft(along_y, n=n, dim=2, norm="forward")
    return along_x[..., x].contiguous()


def crop(half_spectrum: torch.Tensor, box_size: int, size: int) -> torch.Tensor:
    """Half spectrum on a smaller grid: frequencies up to (size - 1) // 2, an even grid's Nyquist plane empty.

    Parameters
    ----------
    size: points a side, 3 at least.
    """
    if size == box_size:
        return half_spectrum
    m = (size - 1) // 2
    cropped = half_spectrum.new_zeros(size, size, size // 2 + 1)
    ends = slice(m + 1), slice(-m, None)
    for z, y in itertools.product(ends, ends):
        cropped[z, y, : m + 1] = half_spectrum[z, y, : m + 1]
    return cropped


def bandwidth(half_spectrum: torch.Tensor, box_size: int) -> int:
    """Smallest Q such that max(|qx|, |qy|, |qz|) > Q holds less than `BANDWIDTH_TAIL` of the power."""
    power = half_spectrum.abs().double() ** 2
    full = torch.fft.fftfreq(box_size, 1.0 / box_size).abs().long()
    largest = torch.maximum(full[:, None], full)[:, :, None].maximum(torch.arange(box_size // 2 + 1))
    per_frequency = torch.bincount(largest.flatten(), weights=power.flatten())
    beyond = per_frequency.flip(0).cumsum(0).flip(0)
    return int((beyond > BANDWIDTH_TAIL * beyond[0]).sum()) - 1

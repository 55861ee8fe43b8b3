"""What all images of a set say about the volume: the normal equations of the least-squares fit.

For known poses and CTFs the data term is quadratic in the volume V. With Y_i the transform of image i, C_i its CTF,
t_i its shift and sigma^2 the noise power of its shell, two Fourier volumes hold all of it:

    N(k) = sum_i conj(C_i) Y_i exp(+2 pi i k.t_i) / sigma^2        (right side)
    W(k) = sum_i |C_i|^2 / sigma^2                                 (weight)

    loss(V) = sum_i |Y_i - C_i P_i V|^2 / sigma^2 = <V, K * V> - 2 <V, b> + power
    b = IFFT(N) / sinc^2(r / M),   K = IFFT(W) / sinc^2(lag / M)

on a grid padded to M = 2 D. The division undoes the blur of trilinear insertion, in position for b and in the lag
for K.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gem3d.errors import MapError
from gem3d.kernels.insert_slices import PADDING, accumulator_shape

# A Fourier voxel that fewer than this share of its shell's mean weight has reached is left at zero.
WEIGHT_FLOOR = 0.01


@dataclass(frozen=True)
class NormalEquations:
    """Normal equations of one set of images; equations of disjoint sets add.

    Attributes
    ----------
    accumulator: `accumulator_shape(radius)` float32: real and imaginary part of N and W over the half space x >= 0,
        the plane x = 0 with each sample once.
    box_size_px: D, of the images.
    pixel_size_A: of the images.
    n_particles: images inserted.
    power: sum of |Y|^2 / sigma^2 over the images, the loss of the empty volume.
    """

    accumulator: torch.Tensor
    box_size_px: int
    pixel_size_A: float
    n_particles: int
    power: float

    @classmethod
    def zeros(cls, box_size_px: int, pixel_size_A: float, radius: int | None = None) -> NormalEquations:
        """Equations of no image; `radius` is the last Fourier shell, by default the last before Nyquist."""
        shape = accumulator_shape((box_size_px - 1) // 2 if radius is None else radius)
        return cls(torch.zeros(shape), box_size_px, pixel_size_A, 0, 0.0)

    @property
    def radius(self) -> int:
        """Last Fourier shell, in Fourier pixels of the box."""
        return (self.accumulator.shape[2] - 2) // PADDING

    def __add__(self, other: NormalEquations) -> NormalEquations:
        mine = (self.box_size_px, self.pixel_size_A, self.radius)
        theirs = (other.box_size_px, other.pixel_size_A, other.radius)
        if mine != theirs:
            raise MapError(
                f"normal equations of unlike grids do not add: (box px, pixel size A, last shell) {mine} and {theirs}"
            )
        return NormalEquations(
            self.accumulator + other.accumulator,
            self.box_size_px,
            self.pixel_size_A,
            self.n_particles + other.n_particles,
            self.power + other.power,
        )

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        metadata = {
            "box_size_px": repr(self.box_size_px),
            "pixel_size_A": repr(self.pixel_size_A),
            "n_particles": repr(self.n_particles),
            "power": repr(self.power),
        }
        save_file({"accumulator": self.accumulator}, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> NormalEquations:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            m = file.metadata()
            accumulator = file.get_tensor("accumulator")
        return cls(
            accumulator,
            int(m["box_size_px"]),
            float(m["pixel_size_A"]),
            int(m["n_particles"]),
            float(m["power"]),
        )

    def right_side(self, box_size: int | None = None) -> torch.Tensor:
        """Right side b on the grid of the box, or on a coarser one of `box_size` voxels over the same width.

        Returns `(box, box, box)` float32 [z, y, x], centre at box//2.
        """
        box = box_size or self.box_size_px
        spectrum = torch.complex(*self._padded_spectrum(box, 2))
        values = torch.fft.irfftn(spectrum, s=(PADDING * box,) * 3, norm="forward")
        first = PADDING * box // 2 - box // 2
        correction = sinc_squared(torch.arange(box) - box // 2, PADDING * box)
        b = torch.fft.fftshift(values)[(slice(first, first + box),) * 3].clone()
        return _divide_per_axis(b, (correction,) * 3)

    def kernel(self, lags: tuple[int, int, int], box_size: int | None = None) -> torch.Tensor:
        """K at lags -n+1 to n-1 along each axis, n from `lags` (z, y, x); see `right_side` for `box_size`.

        Returns `(2 nz - 1, 2 ny - 1, 2 nx - 1)` float32, lag 0 in the middle.
        """
        box = box_size or self.box_size_px
        (weight,) = self._padded_spectrum(box, 1)
        padded = PADDING * box
        values = torch.fft.fftshift(torch.fft.irfftn(weight + 0j, s=(padded,) * 3, norm="forward"))
        middle = padded // 2
        cropped = values[tuple(slice(middle - n + 1, middle + n) for n in lags)].clone()
        return _divide_per_axis(cropped, tuple(sinc_squared(torch.arange(-n + 1, n), padded) for n in lags))

    def linear_map(self) -> torch.Tensor:
        """Reconstruction without any prior, IFFT(N / W), zero where W is below `WEIGHT_FLOOR` of its shell's mean.

        Returns `(D, D, D)` float32 [z, y, x].
        """
        box = self.box_size_px
        re, im, weight = *self._padded_spectrum(box, 2), *self._padded_spectrum(box, 1)
        shell = _padded_shells(PADDING * box)
        n_shells = int(shell.max()) + 1
        total = torch.zeros(n_shells, dtype=torch.float64).index_add_(
            0, shell.flatten(), weight.double().flatten()
        )
        mean = total / torch.bincount(shell.flatten(), minlength=n_shells)
        reached = weight > (WEIGHT_FLOOR * mean).float()[shell]
        inverse = torch.where(reached, 1 / torch.where(reached, weight, 1.0), 0.0)
        values = torch.fft.fftshift(
            torch.fft.irfftn(
                torch.complex(re * inverse, im * inverse), s=(PADDING * box,) * 3, norm="forward"
            )
        )
        first = PADDING * box // 2 - box // 2
        correction = sinc_squared(torch.arange(box) - box // 2, PADDING * box)
        linear = values[(slice(first, first + box),) * 3] / (PADDING * box) ** 3
        return _divide_per_axis(linear, (correction,) * 3)

    def _padded_spectrum(self, box: int, channels: int) -> tuple[torch.Tensor, ...]:
        """N as (real, imaginary), or (W,), in rfft layout on the grid padded to `PADDING * box`, zero elsewhere."""
        wanted = (0, 1) if channels == 2 else (2,)
        extent = min(self.accumulator.shape[2] - 1, PADDING * box // 2 - 1)
        middle = self.accumulator.shape[2] - 1
        window = slice(middle - extent, middle + extent + 1)
        part = self.accumulator[window, window, : extent + 1]
        padded = PADDING * box
        # -extent..extent -> positions in the transform's order
        position = torch.arange(-extent, extent + 1) % padded
        parts = []
        for channel in wanted:
            values = part[..., channel].clone()
            # The plane x = 0 receives each sample's complex conjugate from the other half space.
            mirrored = values[:, :, 0].flip(0, 1)
            values[:, :, 0] += -mirrored if channel == 1 else mirrored
            spectrum = torch.zeros(padded, padded, padded // 2 + 1)
            spectrum[position[:, None], position, : extent + 1] = values
            parts.append(spectrum)
        return tuple(parts)


def sinc_squared(position: torch.Tensor, padded_size: int) -> torch.Tensor:
    """Transform of the trilinear kernel along one axis, at `position` voxels from the centre."""
    return torch.sinc(position.double() / padded_size) ** 2


def _divide_per_axis(values: torch.Tensor, factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    z, y, x = ((1 / f).float() for f in factors)
    return values * z[:, None, None] * y[:, None] * x


def _padded_shells(padded: int) -> torch.Tensor:
    """Nearest shell of every voxel of a padded transform in rfft layout, `(M, M, M//2 + 1)` int64."""
    k = torch.from_numpy(np.fft.fftfreq(padded, 1 / padded)).float()
    kx = torch.arange(padded // 2 + 1).float()
    return (k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2).sqrt().round().long()

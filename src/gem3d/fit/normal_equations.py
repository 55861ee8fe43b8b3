"""What all images of a set say about the volume: the normal equations of the least-squares fit.

For known poses and CTFs the data term is quadratic in the volume V. With Y_i the transform of image i, C_i its CTF,
t_i its shift and sigma^2 the noise power of its shell, two Fourier volumes hold all of it:

    N(k) = sum_i conj(C_i) Y_i exp(+2 pi i k.t_i) / sigma^2        (right side)
    W(k) = sum_i |C_i|^2 / sigma^2                                 (weight)

    loss(V) = sum_i |Y_i - C_i P_i V|^2 / sigma^2 = <V, K * V> - 2 <V, b> + constant
    b = IFFT(N) / sinc^2(r / M),   K = IFFT(W) / sinc^2(lag / M)

on a grid padded to M = 2 D. The division undoes the blur of trilinear insertion, in position for b and in the lag
for K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from gem3d.atomic import replacing
from gem3d.errors import MapError
from gem3d.fit.half_space import Positions, columns, inverse_transform, shells, sums_by_shell
from gem3d.kernels.insert_slices import PADDING, accumulator_shape

# A Fourier voxel that fewer than this share of its shell's mean weight has reached is left at zero.
WEIGHT_FLOOR = 0.01


@dataclass(frozen=True)
class LinearMap:
    """A reconstruction without a prior.

    Attributes
    ----------
    values: `(D, D, D)` float32 [z, y, x].
    coverage: `(radius + 1,)` share of each shell's Fourier voxels that the images reach; the others are zero.
    """

    values: NDArray[np.float32]
    coverage: NDArray[np.float64]


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
    """

    accumulator: torch.Tensor
    box_size_px: int
    pixel_size_A: float
    n_particles: int

    @classmethod
    def zeros(
        cls,
        box_size_px: int,
        pixel_size_A: float,
        radius: int | None = None,
        device: torch.device | str = "cpu",
    ) -> NormalEquations:
        """Equations of no image; `radius` is the last Fourier shell, by default the last before Nyquist."""
        shape = accumulator_shape((box_size_px - 1) // 2 if radius is None else radius)
        return cls(torch.zeros(shape, device=device), box_size_px, pixel_size_A, 0)

    @property
    def radius(self) -> int:
        """Last Fourier shell, in Fourier pixels of the box."""
        return (self.accumulator.shape[2] - 2) // PADDING

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return self._with(self.accumulator + self._fitting(other), other)

    def __iadd__(self, other: NormalEquations) -> NormalEquations:
        """The sum in the memory of the left side, whose earlier value is lost."""
        return self._with(self.accumulator.add_(self._fitting(other)), other)

    def _with(self, accumulator: torch.Tensor, other: NormalEquations) -> NormalEquations:
        return replace(
            self,
            accumulator=accumulator,
            n_particles=self.n_particles + other.n_particles,
        )

    def _fitting(self, other: NormalEquations) -> torch.Tensor:
        """The other's accumulator, if it is of the same grid."""
        mine = (self.box_size_px, self.pixel_size_A, self.radius)
        theirs = (other.box_size_px, other.pixel_size_A, other.radius)
        if mine != theirs:
            raise MapError(
                f"normal equations of unlike grids do not add: (box px, pixel size A, last shell) {mine} and {theirs}"
            )
        return other.accumulator

    def to(self, device: torch.device | str) -> NormalEquations:
        """The same on a device."""
        return replace(self, accumulator=self.accumulator.to(device))

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        metadata = {
            "box_size_px": repr(self.box_size_px),
            "pixel_size_A": repr(self.pixel_size_A),
            "n_particles": repr(self.n_particles),
        }
        with replacing(path) as temporary:
            save_file({"accumulator": self.accumulator}, temporary, metadata)

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
        )

    def right_side(self, box_size: int, positions: Positions) -> torch.Tensor:
        """Right side b at some voxels of the grid of the images, or of a coarser one over the same width.

        Parameters
        ----------
        box_size: voxels along the whole box on that grid.
        positions: of the voxels wanted along z, y, x, counted from the box centre.

        Returns
        -------
        `(len(z), len(y), len(x))` float32.
        """
        data = ((x, torch.complex(group[..., 0], group[..., 1])) for x, group in self._columns(box_size))
        return _gridded(inverse_transform(data, PADDING * box_size, positions), PADDING * box_size, positions)

    def kernel(self, box_size: int, lags: Positions) -> torch.Tensor:
        """K at some lags along z, y, x; parameters and result as for `right_side`."""
        weight = ((x, group[..., 2]) for x, group in self._columns(box_size))
        return _gridded(inverse_transform(weight, PADDING * box_size, lags), PADDING * box_size, lags)

    def linear_map(self, other: NormalEquations | None = None) -> LinearMap:
        """Reconstruction without any prior, IFFT(N / W), zero where W is below `WEIGHT_FLOOR` of its shell's mean.

        Parameters
        ----------
        other: equations of further images, which count as well; the sum is never held as a whole.
        """
        box, padded = self.box_size_px, PADDING * self.box_size_px
        extent = self._extent_on(box)
        there = self.accumulator.device
        total, count, reached_count = torch.zeros(3, 2 * extent, dtype=torch.float64, device=there)
        for x, group in self._columns_with(other):
            shell = shells(extent, x, group.shape[2], there).flatten()
            total += sums_by_shell(shell, group[..., 2].flatten(), 2 * extent)
            count += sums_by_shell(shell, torch.ones_like(shell), 2 * extent)
        floor = (WEIGHT_FLOOR * total / count.clamp(min=1)).float()

        def regular() -> Iterator[tuple[int, torch.Tensor]]:
            for x, group in self._columns_with(other):
                shell, weight = shells(extent, x, group.shape[2], there), group[..., 2]
                reached = weight > floor[shell]
                reached_count.add_(sums_by_shell(shell.flatten(), reached.flatten(), 2 * extent))
                inverse = reached / torch.where(reached, weight, 1.0) / padded**3
                yield x, torch.complex(group[..., 0] * inverse, group[..., 1] * inverse)

        along = torch.arange(box) - box // 2
        values = _gridded(inverse_transform(regular(), padded, (along,) * 3), padded, (along,) * 3)
        # Shells of the padded grid are half as wide.
        pairs = (n[1 : 2 * self.radius + 1].view(-1, 2).sum(1) for n in (reached_count, count))
        reached_pairs, all_pairs = pairs
        coverage = torch.cat([(reached_count / count)[:1], reached_pairs / all_pairs])
        return LinearMap(values.cpu().numpy(), coverage.cpu().numpy())

    def _columns_with(self, other: NormalEquations | None) -> Iterator[tuple[int, torch.Tensor]]:
        """Columns of the sum of both."""
        mine = self._columns(self.box_size_px)
        if other is None:
            yield from mine
            return
        self._fitting(other)
        for (x, group), (_, more) in zip(mine, other._columns(self.box_size_px), strict=True):
            yield x, group + more

    def _columns(self, box_size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Columns of the accumulator up to the last frequency of a grid of `box_size` voxels."""
        return columns(self.accumulator, self._extent_on(box_size))

    def _extent_on(self, box_size: int) -> int:
        """Last padded frequency that a grid of `box_size` voxels has along each axis; an odd one lacks our last."""
        return min(self.accumulator.shape[2] - 1, PADDING * box_size // 2 - 1)


def sinc_squared(position: torch.Tensor, padded_size: int) -> torch.Tensor:
    """Transform of the trilinear kernel along one axis, at `position` voxels from the centre."""
    return torch.sinc(position.double() / padded_size) ** 2


def _gridded(values: torch.Tensor, padded_size: int, positions: Positions) -> torch.Tensor:
    """Undo the blur of trilinear insertion at voxels or lags along z, y, x; in place."""
    for axis, position in enumerate(positions):
        factor = (1 / sinc_squared(position, padded_size)).float()
        values *= factor.to(values.device).view([-1 if a == axis else 1 for a in range(3)])
    return values

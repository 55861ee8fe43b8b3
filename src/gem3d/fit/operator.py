"""The quadratic loss of a volume inside a support box, through FFTs of twice the box."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len

from gem3d.fit.normal_equations import NormalEquations


@dataclass(frozen=True)
class Grid:
    """A support box on a (possibly coarser) grid over the box of the images.

    Attributes
    ----------
    box_size: voxels along the whole box on this grid.
    pixel_size_A: of the images.
    voxel_size_A: spacing.
    start, shape: the support box within it, (z, y, x).
    """

    box_size: int
    pixel_size_A: float
    voxel_size_A: float
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """Index of the support box in an array of the whole box."""
        z, y, x = (slice(s, s + n) for s, n in zip(self.start, self.shape, strict=True))
        return z, y, x

    def index_coordinates(self, centres_A: torch.Tensor) -> torch.Tensor:
        """`(n, 3)` x y z in A from the box centre -> index coordinates in the support box."""
        origin = torch.tensor([self.box_size // 2 - s for s in self.start[::-1]], dtype=centres_A.dtype)
        return centres_A / self.voxel_size_A + origin

    @classmethod
    def around(
        cls,
        box_size_px: int,
        pixel_size_A: float,
        coarse_box: int,
        half_widths_A: tuple[tuple[float, float], ...],
    ) -> Grid:
        """Grid of `coarse_box` voxels over the whole box, with the support given as (low, high) A for z, y, x."""
        voxel = pixel_size_A * box_size_px / coarse_box
        start, shape = [], []
        for low_A, high_A in half_widths_A:
            first = max(0, int(low_A // voxel) + coarse_box // 2)
            last = min(coarse_box - 1, int(-(-high_A // voxel)) + coarse_box // 2)
            start.append(first)
            shape.append(last - first + 1)
        return cls(
            coarse_box, pixel_size_A, voxel, (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])
        )


class NormalOperator:
    """loss(V) = <V, K * V> - 2 <V, b> for volumes inside the support of a grid."""

    def __init__(self, equations: NormalEquations, grid: Grid) -> None:
        self.grid = grid
        self.n_particles = equations.n_particles
        self.b = equations.right_side(grid.box_size)[grid.crop].contiguous()
        kernel = equations.kernel(grid.shape, grid.box_size)
        nz, ny, nx = (next_fast_len(2 * n - 1, real=True) for n in grid.shape)
        self.fft_shape = (nz, ny, nx)
        wrapped = torch.zeros(self.fft_shape)
        z, y, x = (torch.arange(-n + 1, n) % m for n, m in zip(grid.shape, self.fft_shape, strict=True))
        wrapped[z[:, None, None], y[:, None], x] = kernel
        # K is even, so its transform is real.
        self.k_hat = torch.fft.rfftn(wrapped).real.contiguous()
        self._multiplicity = torch.full((nx // 2 + 1,), 2.0)
        self._multiplicity[0] = 1
        if nx % 2 == 0:
            self._multiplicity[-1] = 1

    def __add__(self, other: NormalOperator) -> NormalOperator:
        """Operator of both sets of images, on the same grid."""
        if self.grid != other.grid:
            raise ValueError("operators of different grids do not add")
        both = copy(self)
        both.n_particles = self.n_particles + other.n_particles
        both.b = self.b + other.b
        both.k_hat = self.k_hat + other.k_hat
        return both

    def transform(self, volume: torch.Tensor) -> torch.Tensor:
        """Padded transform of a volume of the support's shape."""
        v_hat: torch.Tensor = torch.fft.rfftn(volume, s=self.fft_shape)
        return v_hat

    def loss_and_gradient(self, volume: torch.Tensor, v_hat: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Loss and its gradient 2 (K * V - b), given the volume and its `transform` (overwritten)."""
        product = v_hat.mul_(self.k_hat)
        nz, ny, nx = self.grid.shape
        kv = torch.fft.irfftn(product, s=self.fft_shape)[:nz, :ny, :nx]
        loss = torch.sum(volume * (kv - 2 * self.b), dtype=torch.float64)
        return float(loss), 2 * (kv - self.b)

    def loss(self, volume: torch.Tensor, v_hat: torch.Tensor) -> float:
        """Loss alone, without an inverse transform (Parseval)."""
        spectrum = torch.view_as_real(v_hat).square().sum(-1)
        quadratic = torch.sum(
            torch.sum(spectrum * self.k_hat, dim=(0, 1), dtype=torch.float64) * self._multiplicity
        )
        nz, ny, nx = self.fft_shape
        return float(quadratic / (nz * ny * nx) - 2 * torch.sum(volume * self.b, dtype=torch.float64))

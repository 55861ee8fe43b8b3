"""The quadratic loss of a volume inside a support box, through FFTs of twice the box."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len

from gem3d.assess.shells import Curve, hermitian_multiplicity
from gem3d.fit.half_space import Positions, sums_by_shell
from gem3d.fit.normal_equations import NormalEquations
from gem3d.gaussians import Gaussians
from gem3d.kernels.backend import uses_triton
from gem3d.kernels.voxelize import voxelize

# Columns of the padded transform are worked on in groups of this size, small enough for a processor's cache.
LARGEST_GROUP_BYTES = 4 << 20


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
    def positions(self) -> Positions:
        """Voxels of the support box along z, y, x, counted from the box centre."""
        z, y, x = (
            torch.arange(s, s + n) - self.box_size // 2 for s, n in zip(self.start, self.shape, strict=True)
        )
        return z, y, x

    def index_coordinates(self, centres_A: torch.Tensor) -> torch.Tensor:
        """`(n, 3)` x y z in A from the box centre -> index coordinates in the support box."""
        # One axis after the other: a tensor of the three would come from the host, which a GPU waits for.
        axes = zip(centres_A.unbind(1), self.start[::-1], strict=True)
        return torch.stack([x / self.voxel_size_A + (self.box_size // 2 - s) for x, s in axes], dim=1)

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
    """loss(V) = <V, K * V> - 2 <V, b> for volumes inside the support of a grid.

    The convolution needs FFTs of twice the support. The columns kx of the padded transform are independent of one
    another in between the transforms along x, so they are computed a few at a time, without ever holding the whole:
    along y and z, times K, and back, inside the cache.
    """

    def __init__(self, equations: NormalEquations, grid: Grid) -> None:
        self.grid = grid
        self.n_particles = equations.n_particles
        self.last_shell = equations.radius
        self.image_box_px = equations.box_size_px
        self.b = equations.right_side(grid.box_size, grid.positions)
        nz, ny, nx = (next_fast_len(2 * n - 1, real=True) for n in grid.shape)
        self.fft_shape = (nz, ny, nx)
        # Lags in the order of the transform; those between n - 1 and -(n - 1) meet only voxels of the padding.
        lag_y, lag_x = (((torch.arange(m) + m // 2) % m - m // 2) for m in (ny, nx))
        # K is even: its lags z >= 0 hold all, and its transform is real. Order x, y, z, as the columns are visited.
        kernel = equations.kernel(grid.box_size, (torch.arange(nz // 2 + 1), lag_y, lag_x))
        k_hat = torch.fft.hfft(torch.fft.rfft2(kernel), n=nz, dim=0)
        self.k_hat = k_hat.permute(2, 1, 0).contiguous()
        self._multiplicity = torch.from_numpy(hermitian_multiplicity(nx)).float().to(self.b.device)

    def to(self, device: torch.device | str) -> NormalOperator:
        """The same on a device."""
        there = copy(self)
        there.b, there.k_hat = self.b.to(device), self.k_hat.to(device)
        there._multiplicity = self._multiplicity.to(device)
        return there

    @property
    def _columns_at_once(self) -> int:
        """Of the padded transform; all of them on a GPU, whose work is shared out over the whole."""
        n_columns, padded_y, padded_z = self.k_hat.shape
        if uses_triton(self.b):
            return int(n_columns)
        return max(1, LARGEST_GROUP_BYTES // int(8 * padded_y * padded_z))

    def __add__(self, other: NormalOperator) -> NormalOperator:
        """Operator of both sets of images, on the same grid."""
        if self.grid != other.grid:
            raise ValueError("operators of different grids do not add")
        both = copy(self)
        both.n_particles = self.n_particles + other.n_particles
        both.b = self.b + other.b
        both.k_hat = self.k_hat + other.k_hat
        return both

    def loss_and_gradient(
        self, volume: torch.Tensor, judge: NormalOperator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, its gradient 2 (K * V - b), and the loss under another operator of the same grid.

        The losses are float64 scalars where the volume is: whoever reads one waits for the device.

        Parameters
        ----------
        volume: of the support's shape.
        judge: shares the transform of the volume, so that its loss costs little; without one that loss is 0.
        """
        nz, ny, nx = self.grid.shape
        padded_z, padded_y, padded_x = self.fft_shape
        lines = torch.fft.rfft(volume, n=padded_x).permute(2, 1, 0).contiguous()
        group = self._columns_at_once
        judged = torch.zeros((), dtype=torch.float64, device=volume.device)
        for first in range(0, len(lines), group):
            part = slice(first, first + group)
            v_hat = torch.fft.fft(torch.fft.fft(lines[part], n=padded_y, dim=1), n=padded_z, dim=2)
            if judge is not None:
                # Parseval: no inverse transform is needed.
                power = v_hat.real.square().addcmul_(v_hat.imag, v_hat.imag).mul_(judge.k_hat[part])
                judged += (power.sum((1, 2)) * self._multiplicity[part]).sum(dtype=torch.float64)
            v_hat.mul_(self.k_hat[part])
            lines[part] = torch.fft.ifft(torch.fft.ifft(v_hat, dim=2)[:, :, :nz], dim=1)[:, :ny]
        kv = torch.fft.irfft(lines.permute(2, 1, 0), n=padded_x)[..., :nx]
        loss = torch.sum(volume * (kv - 2 * self.b), dtype=torch.float64)
        judge_loss = torch.zeros_like(loss)
        if judge is not None:
            quadratic = judged / (padded_z * padded_y * padded_x)
            judge_loss = quadratic - 2 * torch.sum(volume * judge.b, dtype=torch.float64)
        return loss, 2 * (kv - self.b), judge_loss

    def loss_by_shell(self, volume: torch.Tensor) -> Curve:
        """The loss, split over the Fourier shells of the images' box.

        By Parseval it is a sum over the padded grid's frequencies, of k_hat |v_hat|^2 - 2 Re conj(v_hat) b_hat. Those
        beyond the last shell are counted with it. A grid of 2d voxels tells frequencies apart that lie D / 2d shells
        apart: in the lowest three or four shells, where the transform is steepest, neighbours share what is theirs.

        Parameters
        ----------
        volume: of the support's shape.

        Returns
        -------
        `(2, last_shell + 1)`: the loss, and of it what does not depend on the images, k_hat |v_hat|^2.
        """
        padded_z, padded_y, padded_x = self.fft_shape
        v_lines, b_lines = (
            torch.fft.rfft(values, n=padded_x).permute(2, 1, 0).contiguous() for values in (volume, self.b)
        )
        # In Fourier pixels of the images' box.
        there = volume.device
        z, y, x = (
            torch.fft.fftfreq(n, 1 / self.grid.box_size, device=there).square() for n in self.fft_shape
        )
        group = self._columns_at_once
        total = torch.zeros(2, self.last_shell + 1, dtype=torch.float64, device=there)
        for first in range(0, len(v_lines), group):
            part = slice(first, first + group)
            v_hat, b_hat = (
                torch.fft.fft(torch.fft.fft(lines[part], n=padded_y, dim=1), n=padded_z, dim=2)
                for lines in (v_lines, b_lines)
            )
            power = v_hat.abs().square_().mul_(self.k_hat[part])
            cross = (torch.view_as_real(v_hat) * torch.view_as_real(b_hat)).sum(-1)
            multiplicity = self._multiplicity[part, None, None]
            shell = (x[: len(v_lines)][part, None, None] + y[:, None] + z).sqrt_().round_()
            shell = shell.long().clamp_(max=self.last_shell)
            for row, losses in zip(total, (power - 2 * cross, power), strict=True):
                losses = (losses * multiplicity).flatten().double()
                row += sums_by_shell(shell.flatten(), losses, len(row))
        by_shell: Curve = (total / (padded_z * padded_y * padded_x)).cpu().numpy()
        return by_shell


def voxelize_on(gaussians: Gaussians, grid: Grid) -> torch.Tensor:
    """What the images see of the Gaussians on a support box, in units of one voxel of the images; differentiable."""
    return voxelize(
        gaussians.masses / grid.pixel_size_A**3,
        grid.index_coordinates(gaussians.centres_A),
        gaussians.covariances_A2() / grid.voxel_size_A**2,
        grid.shape,
    )

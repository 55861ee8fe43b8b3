"""From the half space x >= 0 of a centred Fourier volume to the voxels that are wanted of its inverse transform.

The volume is transformed on a grid padded to M voxels a side, of which a fit needs the support box and a map the
middle. Transforming one axis after the other and keeping only the planes wanted of it takes a third of the work of
the whole transform and never holds M^3 voxels; the columns x come in small groups that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Columns of x transformed at once.
COLUMNS = 16

Positions = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Whole numbers along z, y, x."""


def columns(accumulator: torch.Tensor, extent: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Groups of columns x of an accumulator, up to `extent` along every axis, the plane x = 0 completed.

    Yields (first x, `(2 extent + 1, 2 extent + 1, n, 3)`): real and imaginary part of the data and the weight.
    """
    middle = accumulator.shape[2] - 1
    window = slice(middle - extent, middle + extent + 1)
    for first in range(0, extent + 1, COLUMNS):
        group = accumulator[window, window, first : min(first + COLUMNS, extent + 1)]
        if first == 0:
            group = group.clone()
            # The plane x = 0 receives each sample's complex conjugate from the other half space.
            group[:, :, 0] += group[:, :, 0].flip(0, 1) * group.new_tensor([1.0, -1.0, 1.0])
        yield first, group


def inverse_transform(
    groups: Iterator[tuple[int, torch.Tensor]], padded_size: int, positions: Positions
) -> torch.Tensor:
    """Sum over frequencies f of F(f) exp(2 pi i f.r / M) at the voxels r wanted, no 1/M^3.

    Parameters
    ----------
    groups: (first x, `(2e + 1, 2e + 1, n)`) columns of F for z and y from -e to e, in rising order of x from 0 on.
        Real ones stand for a real F.
    padded_size: M.
    positions: of the voxels wanted along z, y, x, counted from the centre.

    Returns
    -------
    `(len(z), len(y), len(x))` float32, where the columns are.
    """
    z, y, x = (position % padded_size for position in positions)
    lines = []
    for _, group in groups:
        z, y, x = (position.to(group.device) for position in (z, y, x))
        planes = _inverse_along(group.to(torch.complex64), 0, padded_size).index_select(0, z)
        lines.append(_inverse_along(planes, 1, padded_size).index_select(1, y))
    values: torch.Tensor = torch.fft.irfft(torch.cat(lines, dim=2), n=padded_size, dim=2, norm="forward")
    return values.index_select(2, x)


def shells(extent: int, first: int, n: int, device: torch.device) -> torch.Tensor:
    """Nearest shell of the voxels of `n` columns from x = `first` on, `(2 extent + 1, 2 extent + 1, n)` int64."""
    squared = torch.arange(-extent, extent + 1, device=device).float() ** 2
    x = torch.arange(first, first + n, device=device).float()
    return (squared[:, None, None] + squared[:, None] + x**2).sqrt_().round_().long()


def sums_by_shell(shell: torch.Tensor, values: torch.Tensor, n: int) -> torch.Tensor:
    """`(n,)` sums of `values`, `(m,)`, whose shells `(m,)` are alike."""
    if values.device.type == "cpu":
        return torch.bincount(shell, values, minlength=n)
    # CUDA's bincount waits for the device, and adds in any order.
    return values.new_zeros(n, dtype=torch.float64).index_add_(0, shell, values.double())


def _inverse_along(values: torch.Tensor, axis: int, padded_size: int) -> torch.Tensor:
    """Inverse transform along one centred axis, padded to M; the origin comes first."""
    extent = values.shape[axis] // 2
    shape = list(values.shape)
    shape[axis] = padded_size
    padded = torch.zeros(shape, dtype=torch.complex64, device=values.device)
    padded.narrow(axis, 0, extent + 1).copy_(values.narrow(axis, extent, extent + 1))
    padded.narrow(axis, padded_size - extent, extent).copy_(values.narrow(axis, 0, extent))
    transformed: torch.Tensor = torch.fft.ifft(padded, dim=axis, norm="forward")
    return transformed

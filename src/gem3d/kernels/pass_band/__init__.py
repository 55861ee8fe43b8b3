"""Half spectra multiplied by a radial band, some columns and rows at a time, on a grid that may be coarser."""

from __future__ import annotations

import torch

from gem3d.kernels.pass_band import cpu

__all__ = ["pass_band"]


def pass_band(
    spectra: torch.Tensor, transfer: torch.Tensor, columns: range, rows: range, out: torch.Tensor
) -> None:
    """Multiply by a function of |q|^2, and bring to the order of the frequencies of another grid.

    Parameters
    ----------
    spectra: `(D//2 + 1, n_maps, D, D)` complex64, frequencies x, y, z of the half spectra of real maps.
    transfer: `(n,)` float32, the factor at |q|^2 = 0, 1, ..., n - 1 in Fourier pixels; zero beyond.
    columns, rows: the x and the y wanted; step 1, and y may be negative.
    out: `(len(columns), n_maps, len(rows), size)` complex64, z in the order of a transform of `size` points, up to
        D of them: filled.
    """
    size, box_size = out.shape[3], spectra.shape[2]
    if out.shape != (len(columns), spectra.shape[1], len(rows), size) or size > box_size:
        raise ValueError(f"out {tuple(out.shape)} does not fit {columns}, {rows} of {tuple(spectra.shape)}")
    cpu.pass_band(spectra.numpy(), transfer.numpy(), columns.start, rows.start, out.numpy())

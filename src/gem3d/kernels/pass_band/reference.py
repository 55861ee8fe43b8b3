"""Part of some half spectra, each frequency multiplied by a function of its radius: the formula, in plain torch."""

from __future__ import annotations

import torch


def pass_band(
    spectra: torch.Tensor, transfer: torch.Tensor, columns: range, rows: range, size: int
) -> torch.Tensor:
    """See `gem3d.kernels.pass_band.pass_band`."""
    box_size = spectra.shape[2]
    x, y = torch.tensor(columns), torch.tensor(rows)
    z = torch.fft.fftfreq(size, 1.0 / size).round().long()
    square = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2
    factor = transfer[square.clamp(max=len(transfer) - 1)] * (square < len(transfer))
    chosen = spectra[x][:, :, y % box_size][..., z % box_size]
    passed: torch.Tensor = chosen * factor[:, None]
    return passed

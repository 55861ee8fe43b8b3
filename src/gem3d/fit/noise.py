"""Noise power per shell, from the pixels outside the particle."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d import ranks
from gem3d.particles.resample import Resampler

SAMPLE_SIZE = 1000
SOFT_EDGE_PX = 3.0
LEAST_POWER = 1e-6


class NoiseSpectrum:
    """Mean power of the background of normalised images.

    The window w keeps the pixels outside the particle; the power of w Y is that of the noise times mean(w^2), as the
    noise spectrum is smooth on the scale of the window's transform. At the end of the band that resampled images hold
    it is not: there the window mixes in frequencies without noise. What it leaves of white noise n is
    E |FFT(w n)|^2 = FFT(a c), with a the autocorrelation of the window and c that of the noise.

    Parameters
    ----------
    resampler: what brought the images to their grid; None where they were stored on it.
    device: where the images are.
    """

    def __init__(
        self,
        box_size_px: int,
        particle_radius_px: float,
        resampler: Resampler | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        pixel = torch.arange(box_size_px) - box_size_px // 2
        distance = (pixel[:, None] ** 2 + pixel**2).float().sqrt()
        self._window = ((distance - particle_radius_px) / SOFT_EDGE_PX).clamp(0, 1)
        if resampler is not None:
            self._window *= torch.from_numpy(resampler.covered[:, None] & resampler.covered)
        radius = (box_size_px - 1) // 2
        self._last_shell = radius if resampler is None else resampler.last_shell
        self._correlation = None if resampler is None else torch.from_numpy(resampler.correlation)
        k = torch.fft.fftfreq(box_size_px, 1 / box_size_px)
        kx = torch.arange(box_size_px // 2 + 1)
        shell = (k[:, None] ** 2 + kx**2).sqrt().round().long()
        self._shell = shell.clamp(max=radius + 1).flatten()
        self._window_there, self._shell_there = self._window.to(device), self._shell.to(device)
        self._total = torch.zeros(radius + 2, dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, images: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Add `(b, D, D)` images whose background has mean 0.

        Parameters
        ----------
        weight: `(b,)`, 0 for images that are zero and are not to be counted, else 1; None for all 1.
        """
        power = torch.fft.rfft2(images * self._window_there).abs().square().sum(0).double().flatten()
        self._total.index_add_(0, self._shell_there, power)
        self._count += len(images) if weight is None else weight.sum()

    def add_up(self) -> None:
        """Take in the images of all ranks."""
        ranks.sum_everywhere(self._total)
        ranks.sum_everywhere(self._count)

    def power(self) -> torch.Tensor:
        """`(radius + 1,)` float32 on the host, expected |FFT|^2 of the noise per Fourier pixel of a whole image.

        Infinite in shells that the images hold nothing of, and where there are no images. Where images do not reach
        the whole box, it is what the noise would be if they did: Fourier pixels are then finer than the images tell
        apart, and all together must not count for more than there are independent ones.
        """
        count, total = int(self._count), self._total.cpu()
        samples = torch.bincount(self._shell, minlength=len(total)) * max(count, 1)
        power = (total / samples / self._share())[:-1].float().clamp(min=LEAST_POWER)
        power[self._last_shell + 1 if count else 0 :] = math.inf
        return power

    def _share(self) -> torch.Tensor:
        """What the window leaves of the power of white noise, in all shells or in each."""
        window = self._window.double()
        if self._correlation is None:
            return window.square().mean()
        twice = (2 * len(window),) * 2  # so that pixels at opposite edges are no neighbours
        a = torch.fft.ifft2(torch.fft.fft2(window, s=twice).abs().square())
        power = torch.fft.fft2(a * self._correlation[:, None] * self._correlation).real
        share = power[::2, : 2 * (len(window) // 2) + 1 : 2] / window.numel()
        return torch.bincount(self._shell, share.flatten()) / torch.bincount(self._shell)


def sample_rows(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most `SAMPLE_SIZE` of the rows, the same ones for the same seed, in file order."""
    if len(rows) <= SAMPLE_SIZE:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_SIZE, replace=False))

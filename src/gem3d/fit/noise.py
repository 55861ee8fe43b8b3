"""Noise power per shell, from the pixels outside the particle."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

SAMPLE_SIZE = 1000
SOFT_EDGE_PX = 3.0
LEAST_POWER = 1e-6


class NoiseSpectrum:
    """Mean power of the background of normalised images.

    The window w keeps the pixels outside the particle; the power of w Y is that of the noise times mean(w^2), as the
    noise spectrum is smooth on the scale of the window's transform.

    Parameters
    ----------
    covered: `(D,)` pixels along an axis that the images reach; beyond them they are zero. None for all.
    last_shell: that they hold something of; None for all.
    """

    def __init__(
        self,
        box_size_px: int,
        particle_radius_px: float,
        covered: NDArray[np.bool_] | None = None,
        last_shell: int | None = None,
    ) -> None:
        pixel = torch.arange(box_size_px) - box_size_px // 2
        distance = (pixel[:, None] ** 2 + pixel**2).float().sqrt()
        self._window = ((distance - particle_radius_px) / SOFT_EDGE_PX).clamp(0, 1)
        if covered is not None:
            self._window *= torch.from_numpy(covered[:, None] & covered)
        radius = (box_size_px - 1) // 2
        self._last_shell = radius if last_shell is None else last_shell
        k = torch.fft.fftfreq(box_size_px, 1 / box_size_px)
        kx = torch.arange(box_size_px // 2 + 1)
        shell = (k[:, None] ** 2 + kx**2).sqrt().round().long()
        self._shell = shell.clamp(max=radius + 1).flatten()
        self._total = torch.zeros(radius + 2, dtype=torch.float64)
        self._count = 0

    def add(self, images: torch.Tensor) -> None:
        """Add `(b, D, D)` images whose background has mean 0."""
        power = torch.fft.rfft2(images * self._window).abs().square().sum(0).double().flatten()
        self._total.index_add_(0, self._shell, power)
        self._count += len(images)

    def power(self) -> torch.Tensor:
        """`(radius + 1,)` float32, expected |FFT|^2 of the noise per Fourier pixel of a whole image.

        Infinite in shells that the images hold nothing of, and where there are no images. Where images do not reach
        the whole box, it is what the noise would be if they did: Fourier pixels are then finer than the images tell
        apart, and all together must not count for more than there are independent ones.
        """
        samples = torch.bincount(self._shell, minlength=len(self._total)) * max(self._count, 1)
        share = self._window.double().square().mean()
        power = (self._total / samples / share)[:-1].float().clamp(min=LEAST_POWER)
        power[self._last_shell + 1 if self._count else 0 :] = math.inf
        return power


def sample_rows(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most `SAMPLE_SIZE` of the rows, the same ones for the same seed, in file order."""
    if len(rows) <= SAMPLE_SIZE:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_SIZE, replace=False))

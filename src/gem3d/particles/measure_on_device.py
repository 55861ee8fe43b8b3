"""`measure_images` for a device: the same definitions and the same arithmetic, in torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gem3d.particles.preprocess import (
    CONSTANT,
    CONSTANT_BACKGROUND,
    GOOD,
    HOT_PIXEL,
    NOT_FINITE,
    ImageStatistics,
    fewest_pixels_with_power,
    particle_circle,
)

_PIXELS_AT_ONCE = 1 << 21
"""In double precision, 16 MB each of a handful of arrays."""
_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class DeviceStatistics:
    """`ImageStatistics` on a device.

    Attributes
    ----------
    columns: `(b, 4)` float64: status, mean and standard deviation of the background, power.
    """

    columns: torch.Tensor

    @property
    def status(self) -> torch.Tensor:
        """`(b,)` float64."""
        return self.columns[:, 0]

    @property
    def power(self) -> torch.Tensor:
        """`(b,)` float64."""
        return self.columns[:, 3]

    @staticmethod
    def on_host(columns: torch.Tensor) -> ImageStatistics:
        """Those of columns that have come to the host."""
        status, mean, sd, power = columns.numpy().T
        return ImageStatistics(status.astype(np.uint8), mean, sd, power)


class DevicePreparation:
    """Makes float32 images of stored ones, looks at every pixel, and normalises the background if asked to.

    Parameters
    ----------
    box_size_px: side of the images.
    radius_px: radius of the circle that holds the particle, pixels.
    normalise: give each image's background mean 0 and standard deviation 1.
    invert: take images times -1.
    device: where they are.

    Raises
    ------
    SettingsError: the circle leaves no background.
    """

    def __init__(
        self, box_size_px: int, radius_px: float, *, normalise: bool, invert: bool, device: torch.device
    ) -> None:
        inside = particle_circle(box_size_px, radius_px).ravel()
        self._n_background = int(np.count_nonzero(~inside))
        self._inside = torch.from_numpy(inside).to(device)
        self._fewest = fewest_pixels_with_power(box_size_px)
        self._normalise, self._invert = normalise, invert

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, DeviceStatistics]:
        """Images `(b, D, D)` float32 as `measure_images` leaves them, but zero where not good, and what they say.

        Parameters
        ----------
        pixels: `(b, D, D)` of any real type, on the device; they are left alone.
        """
        images = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        columns = torch.empty((len(pixels), 4), dtype=torch.float64, device=pixels.device)
        step = max(1, _PIXELS_AT_ONCE // len(self._inside))
        for begin in range(0, len(pixels), step):
            some = slice(begin, begin + step)
            self._prepare(pixels[some].flatten(1), images[some].flatten(1), columns[some])
        return images, DeviceStatistics(columns)

    def _prepare(self, pixels: torch.Tensor, out: torch.Tensor, columns: torch.Tensor) -> None:
        x = pixels.double()
        if self._invert:
            x = -x
        # From an origin inside the data: see `gem3d.particles.preprocess`. Without torch.where, which copies scalars
        # to the device and waits until they are there.
        origin = x[:, :1]
        d = (x - origin).masked_fill(self._inside, 0.0)
        mean_d = d.sum(1, keepdim=True) / self._n_background
        sum_d2 = d.square().sum(1, keepdim=True)
        variance = sum_d2 / self._n_background - mean_d.square()
        sum_inside = x.masked_fill(~self._inside, 0.0).sum(1, keepdim=True)
        infinite = ~((sum_d2 <= _LARGEST) & (sum_inside.abs() <= _LARGEST))
        mean = origin + mean_d
        if self._normalise:
            left = (x - mean).float() * (1 / variance.sqrt()).float()
            square = left.double().square()
            flat = ~(variance > 0)
        else:
            left = x.float()
            square = (x - mean).square()
            flat = torch.zeros_like(infinite)
        sum_2, sum_4 = square.sum(1, keepdim=True), square.square().sum(1, keepdim=True)
        status = torch.zeros_like(sum_2)  # GOOD, or the last reason that holds
        status.masked_fill_(~(sum_2.square() >= self._fewest * sum_4), HOT_PIXEL)
        status.masked_fill_(sum_2 == 0, CONSTANT)
        status.masked_fill_(flat, CONSTANT_BACKGROUND)
        status.masked_fill_(infinite, NOT_FINITE)
        out.copy_(left.masked_fill(status != GOOD, 0.0))
        columns[:, :1] = status
        columns[:, 1:2] = mean.masked_fill(infinite, 0.0)
        columns[:, 2:3] = variance.clamp(min=0).sqrt().masked_fill(infinite, 0.0)
        columns[:, 3:] = (sum_2 / pixels.shape[1]).masked_fill(infinite | flat, 0.0)

"""Particle images on a device as a fit meets them, bad ones masked at once and put down later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.particles import ExcludedImages, ImageSource
from gem3d.particles.copy_lane import Done, fetch
from gem3d.particles.device_images import DeviceFeed, StoredBatch
from gem3d.particles.excluded import MOST_POWER
from gem3d.particles.measure_on_device import DevicePreparation, DeviceStatistics
from gem3d.particles.preprocess import GOOD

# Batches whose statistics may be on their way to the host: those of the one before the last have come when the next
# is asked for, so that the host need not wait.
_UNJUDGED = 2


@dataclass(frozen=True)
class DeviceBatch:
    """Some images, good and bad.

    Attributes
    ----------
    rows: `(b,)`, the particles, on the host.
    images: `(b, D, D)` float32 on the device, normalised if they are to be, on the common grid; zero where an image
        cannot be used.
    weight: `(b,)` float32 on the device, 1 for images that can be used, 0 for others.
    """

    rows: NDArray[np.int64]
    images: torch.Tensor
    weight: torch.Tensor

    @property
    def n_read(self) -> int:
        """Images that this batch stands for on the way through the whole order."""
        return len(self.rows)


class DeviceBatches(Iterator[DeviceBatch]):
    """A pass over images on a device.

    The device masks what cannot be used; the host never waits for it, and hears a batch or two later which images
    those are. Once the pass has ended, or after `judge`, all are put down in `excluded`. A pass that is left early
    forgets the last two batches' verdicts: they are found again when the images are read again.

    Parameters
    ----------
    source: of the images.
    excluded: where images of no use are put down.
    particle_radius_px: in pixels of the common grid.
    normalise: give each image's background mean 0 and standard deviation 1.
    rows, batch_size: as of `ImageSource.batches`.

    Raises
    ------
    ImageStackError: on iteration; too many images cannot be used, or a stack has gone.
    """

    def __init__(
        self,
        source: ImageSource,
        excluded: ExcludedImages,
        particle_radius_px: float,
        *,
        normalise: bool,
        rows: NDArray[np.int64],
        batch_size: int | Sequence[int],
        device: torch.device,
    ) -> None:
        self._source, self._excluded, self._device = source, excluded, device
        self._preparations = [
            DevicePreparation(
                grid.box_size_px,
                particle_radius_px * (source.pixel_size_A / grid.pixel_size_A),
                normalise=normalise,
                invert=source.invert,
                device=device,
            )
            for grid in source.grids
        ]
        self._resamplings = [
            None if resampler is None else resampler.on(device) for resampler in source.resamplers
        ]
        self._unjudged: deque[tuple[NDArray[np.int64], torch.Tensor, Done]] = deque()
        self._stored = DeviceFeed(source, device).batches(rows, batch_size)

    def __next__(self) -> DeviceBatch:
        try:
            stored = next(self._stored, None)
            if stored is None:
                self.judge()
                raise StopIteration
            images, statistics = self._on_common_grid(stored)
            self._unjudged.append((stored.rows, *fetch(statistics.columns)))
            self.judge(but=_UNJUDGED)
        except BaseException:
            self.close()
            raise
        good = statistics.status == GOOD
        if self._excluded.usual_power is not None:
            good &= ~(statistics.power > MOST_POWER * self._excluded.usual_power)
            images = images.masked_fill(~good[:, None, None], 0.0)
        return DeviceBatch(stored.rows, images, good.float())

    def judge(self, but: int = 0) -> None:
        """Put down what is of no use in the batches delivered so far, `but` the last few; waits for the device.

        To be called before what was accumulated so far is written to a checkpoint, with the images excluded.

        Raises
        ------
        ImageStackError: too many images cannot be used.
        """
        while len(self._unjudged) > but:
            rows, columns, arrived = self._unjudged.popleft()
            arrived.wait()
            self._excluded.judge(rows, DeviceStatistics.on_host(columns), self._source.particles)

    def close(self) -> None:
        """End the pass, and the thread that reads for it."""
        self._stored.close()

    def _on_common_grid(self, stored: StoredBatch) -> tuple[torch.Tensor, DeviceStatistics]:
        box = self._source.box_size_px
        images = torch.empty((len(stored.rows), box, box), device=self._device)
        columns = torch.empty((len(stored.rows), 4), dtype=torch.float64, device=self._device)
        for part in stored.parts:
            prepared, statistics = self._preparations[part.grid](part.pixels)
            resampling = self._resamplings[part.grid]
            if resampling is not None:
                prepared = resampling(prepared)
            if part.places is None:
                return prepared, statistics
            images[part.places] = prepared
            columns[part.places] = statistics.columns
        return images, DeviceStatistics(columns)

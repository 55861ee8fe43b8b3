"""Particle images where they are computed on, whichever way they come there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.fit.observations import Observations
from gem3d.kernels.backend import interprets_triton


@dataclass(frozen=True)
class Arrived:
    """Some images.

    Attributes
    ----------
    rows: `(b,)`, the particles, on the host.
    images: `(b, D, D)` float32, normalised if they are to be.
    weight: `(b,)`, 0 for images that are zero, as they cannot be used, else 1; None where there are none of these.
    n_read: images that these stand for on the way through all.
    """

    rows: NDArray[np.int64]
    images: torch.Tensor
    weight: torch.Tensor | None
    n_read: int


class Arrivals(Iterator[Arrived]):
    """A pass over images.

    On the CPU, images that cannot be used are left out; on a GPU they come as zeros, and the host hears of them a
    little later, so that it need not wait.

    Raises
    ------
    ImageStackError: on iteration; too many images cannot be used, or a stack has gone.
    """

    def __init__(
        self,
        observations: Observations,
        rows: NDArray[np.int64],
        batch_size: int | Sequence[int],
        device: torch.device,
    ) -> None:
        self._on_device = None
        if device.type == "cpu" and not interprets_triton():
            self._batches = observations.batches(rows, batch_size)
        else:
            self._on_device = observations.device_batches(rows, batch_size, device)

    def __next__(self) -> Arrived:
        if self._on_device is None:
            batch = next(self._batches)
            return Arrived(batch.rows, torch.from_numpy(batch.images), None, batch.n_read)
        there = next(self._on_device)
        return Arrived(there.rows, there.images, there.weight, there.n_read)

    def judge(self) -> None:
        """See to it that all images of no use among those that have arrived are put down."""
        if self._on_device is not None:
            self._on_device.judge()

"""Images on their way to a device: read ahead as they are stored, copied while the device computes.

The reading thread fills one of three buffers of pinned host memory and starts its copy into one of two buffers of the
device; the device makes float32 images of that, and the buffer is free again. Reading, copying and computing go on
at a time. None gets far ahead of the others: the reading thread waits until the copy out of a host buffer is done,
which waits for the device to be done with what was in the buffer before. A pass holds three batches of the host's and
two of the device's memory, as they are stored, whatever the speed of each, besides what the caller makes of them.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.particles.copy_lane import CopyLane, Done
from gem3d.particles.image_source import ImageSource
from gem3d.particles.parallel_reader import ParallelReader

READING_THREADS = 4
HOST_BUFFERS, DEVICE_BUFFERS = 3, 2


@dataclass(frozen=True)
class StoredImages:
    """Images of a batch that are stored on one grid.

    Attributes
    ----------
    grid: its index in `ImageSource.grids`.
    places: `(n,)` int64 on the device, theirs in the batch; None where they are all of it.
    pixels: `(n, D, D)` on the device, of the stacks' type; float32 where the batch has several.
    """

    grid: int
    places: torch.Tensor | None
    pixels: torch.Tensor


@dataclass(frozen=True)
class StoredBatch:
    """Images as they are stored, without a change of sign; valid on the device until the next batch is asked for.

    Attributes
    ----------
    rows: `(b,)`, the particles.
    """

    rows: NDArray[np.int64]
    parts: tuple[StoredImages, ...]


@dataclass(frozen=True)
class _Part:
    """Where `StoredImages` lie in a buffer: from `begin` on, if they are not all their places, then their pixels."""

    grid: int
    places: NDArray[np.int64] | None
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    begin: int

    @property
    def pixels_begin(self) -> int:
        return self.begin + (0 if self.places is None else self.places.nbytes)

    @property
    def end(self) -> int:
        bytes_of_pixels = int(np.prod(self.shape)) * self.dtype.itemsize
        return self.pixels_begin + -(-bytes_of_pixels // 8) * 8  # where int64 may begin

    def pixels(self, memory: torch.Tensor) -> torch.Tensor:
        """`(n, D, D)`, in a buffer."""
        dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype
        n_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        return memory[self.pixels_begin : self.pixels_begin + n_bytes].view(dtype).view(self.shape)

    def stored(self, memory: torch.Tensor) -> StoredImages:
        """What lies in a buffer of the device."""
        places = None if self.places is None else memory[self.begin : self.pixels_begin].view(torch.int64)
        return StoredImages(self.grid, places, self.pixels(memory))


@dataclass(frozen=True)
class _Copied:
    """A batch in a buffer of the device, once `done`."""

    rows: NDArray[np.int64]
    parts: list[_Part]
    memory: torch.Tensor
    done: Done


class DeviceFeed:
    """Brings the images of a source to a device.

    Parameters
    ----------
    source: of the images.
    device: where they are to be; the CPU, where tests have no other.
    n_threads: that read.
    """

    def __init__(self, source: ImageSource, device: torch.device, n_threads: int = READING_THREADS) -> None:
        self._source, self._device, self._n_threads = source, device, n_threads
        self._dtypes = {stack: header.dtype.newbyteorder("=") for stack, header in source.stacks.items()}

    def batches(self, order: NDArray[np.int64], batch_size: int | Sequence[int]) -> Generator[StoredBatch]:
        """Images in the given order; parameters and errors as of `ImageSource.batches`."""
        return self._batches(*self._source.cut(order, batch_size))

    def _batches(self, order: NDArray[np.int64], edges: list[int]) -> Generator[StoredBatch]:
        lane, n_batches = self._lane(), len(edges) - 1
        size = self._most_bytes(order, edges)
        on_host = [lane.host_memory(size) for _ in range(min(HOST_BUFFERS, n_batches))]
        free: SimpleQueue[tuple[torch.Tensor, Done] | None] = SimpleQueue()
        for _ in range(min(DEVICE_BUFFERS, n_batches)):
            # What held this memory before may still be in use there.
            free.put((torch.empty(size, dtype=torch.uint8, device=self._device), lane.computed()))
        ready: SimpleQueue[_Copied | Exception | None] = SimpleQueue()
        stop = threading.Event()

        def read_ahead() -> None:
            left = [lane.computed() for _ in on_host]  # until the copy from each host buffer is done
            try:
                with ParallelReader(self._source.stacks, self._n_threads) as reader:
                    for number, (begin, end) in enumerate(pairwise(edges)):
                        turn = number % len(on_host)
                        left[turn].wait()
                        if stop.is_set():
                            return
                        rows = order[begin:end]
                        parts = self._read(reader, rows, on_host[turn])
                        slot = free.get()
                        if slot is None:
                            return
                        memory, unused = slot
                        filled = slice(0, parts[-1].end)
                        left[turn] = lane.copy(memory[filled], on_host[turn][filled], unused)
                        ready.put(_Copied(rows, parts, memory, left[turn]))
                ready.put(None)
            except Exception as error:  # raised again in the caller's thread
                ready.put(error)

        thread = threading.Thread(target=read_ahead, name="gem3d-read-ahead", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                lane.compute_after(item.done)
                yield StoredBatch(item.rows, tuple(part.stored(item.memory) for part in item.parts))
                free.put((item.memory, lane.computed()))
        finally:
            stop.set()
            free.put(None)  # wakes a thread that waits for memory
            thread.join()
            # Copies that nobody asked for any more end before the memory is anyone else's.
            while not ready.empty():
                if isinstance(item := ready.get(), _Copied):
                    lane.compute_after(item.done)

    def _lane(self) -> CopyLane:
        return CopyLane(self._device)

    def _most_bytes(self, order: NDArray[np.int64], edges: list[int]) -> int:
        """Of a batch in a buffer."""
        batches = list(pairwise(edges))
        if len(self._source.grids) == len(set(self._dtypes.values())) == 1:
            batches = [max(batches, key=lambda batch: batch[1] - batch[0])] if len(order) else []
        return max((self._parts(order[a:b])[-1].end for a, b in batches if a < b), default=0)

    def _parts(self, rows: NDArray[np.int64]) -> list[_Part]:
        """How a batch lies in a buffer."""
        source = self._source
        types = {self._dtypes[stack] for stack in np.unique(source.particles.stack_index[rows]).tolist()}
        dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        grid_index, parts, begin = source.grid_index[rows], [], 0
        for grid in np.unique(grid_index).tolist():
            places = np.flatnonzero(grid_index == grid)
            box = source.grids[grid].box_size_px
            some = places if len(places) < len(rows) else None
            parts.append(_Part(grid, some, (len(places), box, box), dtype, begin))
            begin = parts[-1].end
        return parts

    def _read(self, reader: ParallelReader, rows: NDArray[np.int64], memory: torch.Tensor) -> list[_Part]:
        parts, particles = self._parts(rows), self._source.particles
        for part in parts:
            mine = rows if part.places is None else rows[part.places]
            if part.places is not None:
                memory[part.begin : part.pixels_begin].view(torch.int64).numpy()[:] = part.places
            pixels = part.pixels(memory).numpy()
            reader.read(particles.stack_index[mine], particles.image_index[mine], pixels)
        return parts

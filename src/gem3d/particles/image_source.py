"""The images of a particle set, read from their stacks when needed, ahead of the caller, all on one grid."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from gem3d.particles.image_grids import ImageGrid, box_sizes, common_grid, find_grids, resampler_to
from gem3d.particles.open_stacks import open_stacks
from gem3d.particles.particles import Particles
from gem3d.particles.preprocess import ImageStatistics
from gem3d.particles.resample import Resampler
from gem3d.particles.stack_reader import StackReader

_BUFFERS = 3  # one with the caller, one ready, one being filled

Preparation = Callable[[NDArray[np.float32], ImageGrid], ImageStatistics]
"""Looks at images of one grid, `(b, D, D)`, as they are stored, and may change them."""


@dataclass(frozen=True)
class ImageBatch:
    """Some images.

    Attributes
    ----------
    rows: `(b,)` int64, the particles.
    images: `(b, D, D)` float32, as stored, or times -1, prepared, on the common grid; the caller may change them.
        Valid until the next batch is asked for.
    statistics: what the preparation found; None without one.
    n_left_out: images that were read since the batch before and are left out, as they cannot be used.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.float32]
    statistics: ImageStatistics | None = None
    n_left_out: int = 0

    @property
    def n_read(self) -> int:
        """Images that this batch stands for on the way through the whole order."""
        return len(self.rows) + self.n_left_out


@dataclass(frozen=True)
class _Stored:
    """Images of a batch that are stored on one grid, and their places in it."""

    grid: int
    places: NDArray[np.int64]
    images: NDArray[np.float32]


class ImageSource:
    """Opens every stack's header, checks that each particle's image is there, and reads images in batches.

    Parameters
    ----------
    particles: the set.
    invert: give every image times -1.
    datadir: folder that relative stack paths begin in. Stacks are looked for, in this order: at an absolute
        path as it is, under `datadir`, beside the particle file, in the working directory, and by their bare
        name under `datadir`.
    binning: make the pixels of the common grid so many times as large.

    Attributes
    ----------
    particles: the same set, the box size of every optics group that has particles filled in.
    stacks: the headers of those in use, by stack index.
    invert: as given.
    grids: those that the images are stored on.
    grid_index: `(n,)` int16, of each particle's, into `grids`.
    grid: the common one, that of most particles, binned: what images come on.

    Raises
    ------
    ImageStackError: a stack is missing, unreadable or truncated, lacks an image that a particle refers to, or
        has another box size than others of its optics group or than the particle file says.
    SettingsError: binning leaves too few pixels.
    """

    def __init__(
        self,
        particles: Particles,
        datadir: Path | str | None = None,
        *,
        invert: bool = False,
        binning: float = 1.0,
    ) -> None:
        self.invert = invert
        self.stacks = open_stacks(particles, None if datadir is None else Path(datadir))
        boxes = box_sizes(particles, self.stacks)
        groups = zip(particles.optics, boxes, strict=True)
        self.particles = replace(
            particles, optics=tuple(replace(group, box_size_px=box) for group, box in groups)
        )
        self.grids, self.grid_index = find_grids(self.particles)
        self.grid = common_grid(self.grids, self.grid_index, binning)

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def box_size_px(self) -> int:
        """Side of the images."""
        return self.grid.box_size_px

    @property
    def pixel_size_A(self) -> float:
        """Of the images."""
        return self.grid.pixel_size_A

    @property
    def narrowest_grid(self) -> ImageGrid:
        """The one with the narrowest box: what is said of all images must fit into it."""
        return min((self.grid, *self.grids), key=lambda grid: grid.width_A)

    @cached_property
    def resamplers(self) -> tuple[Resampler | None, ...]:
        """What takes the images of each grid to the common one; None where they are on it already."""
        return tuple(resampler_to(self.grid, grid) for grid in self.grids)

    @property
    def last_shells(self) -> tuple[int, ...]:
        """Last Fourier shell of the common grid that images of each grid hold something of."""
        whole = (self.box_size_px - 1) // 2
        return tuple(whole if resampler is None else resampler.last_shell for resampler in self.resamplers)

    def stack_files(self) -> dict[int, Path]:
        """Where each stack that is used was found, by its index."""
        return {stack: header.path for stack, header in self.stacks.items()}

    def image_ids(self) -> NDArray[np.int64]:
        """`(n,)`, alike for particles that refer to one image, by whatever name of its file."""
        files: dict[str, int] = {}
        file_of_stack = np.zeros(len(self.particles.stacks), np.int64)
        for stack, header in self.stacks.items():
            file_of_stack[stack] = files.setdefault(os.path.realpath(header.path), len(files))
        file = file_of_stack[self.particles.stack_index]
        ids: NDArray[np.int64] = (file << 32) + self.particles.image_index
        return ids

    def batches(
        self,
        order: NDArray[np.int64],
        batch_size: int | Sequence[int],
        prepare: Preparation | None = None,
    ) -> Iterator[ImageBatch]:
        """Images in the given order, on the common grid.

        A background thread reads ahead into reused memory, so a batch is valid only until the next is asked
        for. Reading is fastest when each batch holds neighbouring images: see `file_order`.

        Parameters
        ----------
        order: `(m,)` particle rows, in any order, repeats allowed.
        batch_size: images a batch, the last perhaps smaller; or those of each batch, which add up to `m`.
        prepare: called, in the caller's thread, with the images of each grid before they are resampled.

        Raises
        ------
        ImageStackError: on iteration, when a stack has gone or become shorter since it was opened.
        """
        return self._batches(*self.cut(order, batch_size), prepare)

    def cut(
        self, order: NDArray[np.int64], batch_size: int | Sequence[int]
    ) -> tuple[NDArray[np.int64], list[int]]:
        """The order, checked, and where its batches begin, and where the last ends; parameters as of `batches`."""
        order = np.asarray(order, dtype=np.int64)
        if order.ndim != 1:
            raise ValueError(f"need a 1-d order, got {order.shape}")
        edges = _edges(order.size, batch_size)
        if order.size and (order.min() < 0 or order.max() >= len(self)):
            raise IndexError(f"order holds rows outside 0..{len(self) - 1}")
        return order, edges

    def _batches(
        self, order: NDArray[np.int64], edges: list[int], prepare: Preparation | None
    ) -> Iterator[ImageBatch]:
        free: SimpleQueue[NDArray[np.float32]] = SimpleQueue()
        ready: SimpleQueue[tuple[NDArray[np.int64], list[_Stored]] | Exception | None] = SimpleQueue()
        stop = threading.Event()
        pixels = self._most_pixels(order, edges)
        buffers = [np.empty(pixels, np.float32) for _ in range(min(_BUFFERS, len(edges) - 1))]
        for buffer in buffers:
            free.put(buffer)
        resampled = np.empty((0, 0, 0), np.float32)
        if any(resampler is not None for resampler in self.resamplers):
            resampled = np.empty((max(np.diff(edges), default=0), *[self.box_size_px] * 2), np.float32)

        def read_ahead() -> None:
            try:
                with StackReader(self.stacks) as reader:
                    for start, end in pairwise(edges):
                        memory = free.get()
                        if stop.is_set():
                            return
                        rows = order[start:end]
                        ready.put((rows, self._read(reader, rows, memory)))
                ready.put(None)
            except Exception as error:  # raised again in the caller's thread
                ready.put(error)

        thread = threading.Thread(target=read_ahead, name="gem3d-read-ahead", daemon=True)
        thread.start()
        try:
            delivered = 0
            while (item := ready.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield self._on_common_grid(*item, prepare, resampled)
                free.put(buffers[delivered % len(buffers)])  # they come round in turn
                delivered += 1
        finally:
            stop.set()
            free.put(np.empty(0, np.float32))  # wakes a thread that waits for memory
            thread.join()

    def _most_pixels(self, order: NDArray[np.int64], edges: list[int]) -> int:
        """Of a batch as it is stored."""
        if len(self.grids) == 1:
            return int(max(np.diff(edges), default=0)) * self.grids[0].box_size_px ** 2
        pixels = np.array([grid.box_size_px**2 for grid in self.grids])
        return max(
            (int(pixels[self.grid_index[order[start:end]]].sum()) for start, end in pairwise(edges)),
            default=0,
        )

    def _read(
        self, reader: StackReader, rows: NDArray[np.int64], memory: NDArray[np.float32]
    ) -> list[_Stored]:
        stored = []
        grid_index = self.grid_index[rows]
        for grid in np.unique(grid_index).tolist():
            places, box = np.flatnonzero(grid_index == grid), self.grids[grid].box_size_px
            size = len(places) * box**2
            images, memory = memory[:size].reshape(len(places), box, box), memory[size:]
            mine = rows[places]
            reader.read(self.particles.stack_index[mine], self.particles.image_index[mine], images)
            if self.invert:
                np.negative(images, out=images)
            stored.append(_Stored(grid, places, images))
        return stored

    def _on_common_grid(
        self,
        rows: NDArray[np.int64],
        stored: list[_Stored],
        prepare: Preparation | None,
        resampled: NDArray[np.float32],
    ) -> ImageBatch:
        """A batch of what was read; `resampled` is memory for it, where it is not as it was stored."""
        statistics = None
        if prepare is not None:
            found = [prepare(part.images, self.grids[part.grid]) for part in stored]
            places = np.concatenate([part.places for part in stored])
            statistics = found[0] if len(found) == 1 else ImageStatistics.joined(found).at(np.argsort(places))
        if len(stored) == 1 and self.resamplers[stored[0].grid] is None:
            return ImageBatch(rows, stored[0].images, statistics)
        images = resampled[: len(rows)]
        for part in stored:
            resampler = self.resamplers[part.grid]
            if resampler is None:
                images[part.places] = part.images
            else:
                resampler.resample(part.images, images, part.places)
        return ImageBatch(rows, images, statistics)


def _edges(n: int, batch_size: int | Sequence[int]) -> list[int]:
    """Where batches of `n` images begin, and where the last ends."""
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    if min(sizes, default=1) < 1:
        raise ValueError(f"need a positive batch size, got {batch_size}")
    if isinstance(batch_size, int):
        return [*range(0, n, batch_size), n]
    if sum(sizes) != n:
        raise ValueError(f"batch sizes add up to {sum(sizes)}, not to the {n} images")
    return [0, *accumulate(sizes)]


def file_order(particles: Particles) -> NDArray[np.int64]:
    """Rows sorted by stack, then by image: the order in which reading is fastest, `(n,)`."""
    return np.lexsort((particles.image_index, particles.stack_index)).astype(np.int64)


def fill_box_size(particles: Particles, datadir: Path | str | None = None) -> Particles:
    """The same particles, their box size taken from the stacks, with all the checks of `ImageSource`."""
    return ImageSource(particles, datadir).particles

"""The images of a particle set, read from their stacks when needed, ahead of the caller."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ImageStackError
from gem3d.particles.image_names import describe_particle
from gem3d.particles.mrc_stack import MrcStack, read_stack_header
from gem3d.particles.particles import Particles
from gem3d.particles.stack_paths import find_stack
from gem3d.particles.stack_reader import StackReader

_BUFFERS = 3  # one with the caller, one ready, one being filled


@dataclass(frozen=True)
class ImageBatch:
    """Some images.

    Attributes
    ----------
    rows: `(b,)` int64, the particles.
    images: `(b, D, D)` float32, as stored, or times -1; the caller may change them. Valid until the next batch is
        asked for.
    n_left_out: images that were read since the batch before and are left out, as they cannot be used.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.float32]
    n_left_out: int = 0

    @property
    def n_read(self) -> int:
        """Images that this batch stands for on the way through the whole order."""
        return len(self.rows) + self.n_left_out


class ImageSource:
    """Opens every stack's header, checks that each particle's image is there, and reads images in batches.

    Parameters
    ----------
    particles: the set.
    invert: give every image times -1.
    datadir: folder that relative stack paths begin in. Stacks are looked for, in this order: at an absolute
        path as it is, under `datadir`, beside the particle file, in the working directory, and by their bare
        name under `datadir`.

    Attributes
    ----------
    particles: the same set, every optics group's box size filled in.
    box_size_px: side of the images.

    Raises
    ------
    ImageStackError: a stack is missing, unreadable or truncated, lacks an image that a particle refers to, or
        has another box size than the others or than the particle file says.
    """

    def __init__(
        self, particles: Particles, datadir: Path | str | None = None, *, invert: bool = False
    ) -> None:
        self._invert = invert
        self._stacks = _open_stacks(particles, None if datadir is None else Path(datadir))
        self.box_size_px = next(iter(self._stacks.values())).box_size_px
        groups = tuple(replace(group, box_size_px=self.box_size_px) for group in particles.optics)
        self.particles = replace(particles, optics=groups)

    def __len__(self) -> int:
        return len(self.particles)

    def stack_files(self) -> dict[int, Path]:
        """Where each stack that is used was found, by its index."""
        return {stack: header.path for stack, header in self._stacks.items()}

    def image_ids(self) -> NDArray[np.int64]:
        """`(n,)`, alike for particles that refer to one image, by whatever name of its file."""
        files: dict[str, int] = {}
        file_of_stack = np.zeros(len(self.particles.stacks), np.int64)
        for stack, header in self._stacks.items():
            file_of_stack[stack] = files.setdefault(os.path.realpath(header.path), len(files))
        file = file_of_stack[self.particles.stack_index]
        ids: NDArray[np.int64] = (file << 32) + self.particles.image_index
        return ids

    def batches(self, order: NDArray[np.int64], batch_size: int | Sequence[int]) -> Iterator[ImageBatch]:
        """Images in the given order.

        A background thread reads ahead into reused memory, so a batch is valid only until the next is asked
        for. Reading is fastest when each batch holds neighbouring images: see `file_order`.

        Parameters
        ----------
        order: `(m,)` particle rows, in any order, repeats allowed.
        batch_size: images a batch, the last perhaps smaller; or those of each batch, which add up to `m`.

        Raises
        ------
        ImageStackError: on iteration, when a stack has gone or become shorter since it was opened.
        """
        order = np.asarray(order, dtype=np.int64)
        if order.ndim != 1:
            raise ValueError(f"need a 1-d order, got {order.shape}")
        edges = _edges(order.size, batch_size)
        if order.size and (order.min() < 0 or order.max() >= len(self)):
            raise IndexError(f"order holds rows outside 0..{len(self) - 1}")
        return self._batches(order, edges)

    def _batches(self, order: NDArray[np.int64], edges: list[int]) -> Iterator[ImageBatch]:
        free: SimpleQueue[NDArray[np.float32]] = SimpleQueue()
        ready: SimpleQueue[ImageBatch | Exception | None] = SimpleQueue()
        stop = threading.Event()
        most = max(np.diff(edges), default=0)
        shape = (most, self.box_size_px, self.box_size_px)
        buffers = [np.empty(shape, np.float32) for _ in range(min(_BUFFERS, len(edges) - 1))]
        for buffer in buffers:
            free.put(buffer)

        def read_ahead() -> None:
            try:
                with StackReader(self._stacks) as reader:
                    for start, end in pairwise(edges):
                        rows = order[start:end]
                        images = free.get()[: rows.size]
                        if stop.is_set():
                            return
                        stack_index = self.particles.stack_index[rows]
                        reader.read(stack_index, self.particles.image_index[rows], images)
                        if self._invert:
                            np.negative(images, out=images)
                        ready.put(ImageBatch(rows, images))
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
                yield item
                free.put(buffers[delivered % len(buffers)])  # they come round in turn
                delivered += 1
        finally:
            stop.set()
            free.put(np.empty((0, 0, 0), np.float32))  # wakes a thread that waits for memory
            thread.join()


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


def _open_stacks(particles: Particles, datadir: Path | None) -> dict[int, MrcStack]:
    used, first_row = np.unique(particles.stack_index, return_index=True)
    if used.size == 0:
        raise ImageStackError(f"{particles.source}: no particles, so no images to read.")
    last_image = np.full(len(particles.stacks), -1, np.int64)
    np.maximum.at(last_image, particles.stack_index, particles.image_index)

    stacks: dict[int, MrcStack] = {}
    for stack, row in zip(used.tolist(), first_row.tolist(), strict=True):
        where = f"{describe_particle(particles, row)}, column {particles.image_column}"
        path = find_stack(particles.stacks[stack], particles.source, where, datadir)
        try:
            header = read_stack_header(path)
        except ImageStackError as error:
            raise ImageStackError(f"{error} (First used by {describe_particle(particles, row)}.)") from None
        if last_image[stack] >= header.n_images:
            beyond = (particles.stack_index == stack) & (particles.image_index >= header.n_images)
            who = describe_particle(particles, int(np.argmax(beyond)))
            raise ImageStackError(
                f"{particles.source}: {who}, column {particles.image_column}: {path} "
                f"holds only {header.n_images} images; is it the stack this file was made from?"
            )
        stacks[stack] = header
    _check_box_sizes(particles, stacks, first_row.tolist())
    return stacks


def _check_box_sizes(particles: Particles, stacks: dict[int, MrcStack], first_row: list[int]) -> None:
    first = next(iter(stacks.values()))
    for header, row in zip(stacks.values(), first_row, strict=True):
        if header.box_size_px != first.box_size_px:
            raise ImageStackError(
                f"{header.path}: box size {header.box_size_px} px, but {first.path} has {first.box_size_px}; "
                "rescale the images to one box size, or split the particle file. (First used by "
                f"{describe_particle(particles, row)}.)"
            )
    for group in particles.optics:
        if group.box_size_px not in (0, first.box_size_px):
            raise ImageStackError(
                f"{particles.source}: optics group {group.name!r}: the box size is {group.box_size_px} px, but "
                f"the images of {first.path} have {first.box_size_px} px; are these the stacks that this "
                "file was made from?"
            )

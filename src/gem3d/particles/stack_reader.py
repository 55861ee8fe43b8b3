"""Positional reads of images from many stacks, into the caller's memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ImageStackError
from gem3d.input_file import READ_FLAGS
from gem3d.particles.mrc_stack import MrcStack

MAX_OPEN_FILES = 64
_MAX_IMAGES_PER_READ = 1024  # the system's limit on the buffers of one call, IOV_MAX
_MAX_READ_BYTES = 64 << 20


class StackReader:
    """Reads images, with a bounded number of open files. One thread at a time.

    Parameters
    ----------
    stacks: by stack index.
    most_open: files at a time.
    """

    def __init__(self, stacks: Mapping[int, MrcStack], most_open: int = MAX_OPEN_FILES) -> None:
        self._stacks = stacks
        self._most_open = most_open
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._scratch = np.empty(0, np.uint8)

    def __enter__(self) -> StackReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read(self, stack_index: NDArray[np.int32], image_index: NDArray[np.int32], out: NDArray[Any]) -> None:
        """Fill `out[i]` with image `image_index[i]` of stack `stack_index[i]`.

        Parameters
        ----------
        stack_index, image_index: `(b,)`, of stacks of one box size.
        out: `(b, D, D)`, C-contiguous, of float32 or of the pixels' own type, in native byte order.

        Raises
        ------
        ImageStackError: a file has gone or become shorter since its header was read.
        """
        # In file order, and neighbouring images with one call, whatever order they were asked for in.
        order = np.lexsort((image_index, stack_index))
        stack, image = stack_index[order], image_index[order]
        new_run = (np.diff(stack) != 0) | (np.diff(image) != 1)
        edges = [0, *(np.flatnonzero(new_run) + 1).tolist(), len(order)]
        for begin, end in pairwise(edges):
            header = self._stacks[int(stack[begin])]
            step = min(_MAX_IMAGES_PER_READ, max(1, _MAX_READ_BYTES // header.image_bytes))
            for first in range(begin, end, step):
                self._read_run(
                    int(stack[first]), int(image[first]), order[first : min(first + step, end)], out
                )

    def _read_run(self, stack: int, image: int, slots: NDArray[np.intp], out: NDArray[Any]) -> None:
        header = self._stacks[stack]
        offset = header.data_offset + image * header.image_bytes
        neighbours = bool((np.diff(slots) == 1).all())
        target = out[slots[0] : slots[-1] + 1] if neighbours else None
        if header.dtype == out.dtype:  # byte order included; the file's bytes are the answer
            buffers = [target] if target is not None else [out[slot] for slot in slots]
            self._fill(stack, [buffer.reshape(-1).view(np.uint8).data for buffer in buffers], offset)
            return
        raw = self._raw_bytes(len(slots) * header.image_bytes)
        self._fill(stack, [raw.data], offset)
        pixels = raw.view(header.dtype).reshape(len(slots), *out.shape[1:])
        if target is not None:
            target[...] = pixels
        else:
            out[slots] = pixels

    def _fill(self, stack: int, buffers: Sequence[memoryview], offset: int) -> None:
        path = self._stacks[stack].path
        try:
            fd = self._descriptor(stack)
            while buffers:
                got = os.preadv(fd, buffers, offset)
                if got == 0:
                    raise ImageStackError(
                        f"{path}: ends at byte {os.fstat(fd).st_size}, where there were images when this run "
                        "began; put the whole file back and run again."
                    )
                offset += got
                buffers = _without_first(buffers, got)
        except OSError as error:
            raise ImageStackError(
                f"{path}: can no longer be read ({error.strerror}), though it could when this run began; "
                "put the file back and run again."
            ) from None

    def _descriptor(self, stack: int) -> int:
        if stack in self._descriptors:
            self._descriptors.move_to_end(stack)
            return self._descriptors[stack]
        if len(self._descriptors) >= self._most_open:
            os.close(self._descriptors.popitem(last=False)[1])
        fd = os.open(self._stacks[stack].path, READ_FLAGS)
        self._descriptors[stack] = fd
        return fd

    def _raw_bytes(self, size: int) -> NDArray[np.uint8]:
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size]


def _without_first(buffers: Sequence[memoryview], n_bytes: int) -> list[memoryview]:
    """What is left to fill after a read of `n_bytes`, which may stop anywhere."""
    rest = []
    for buffer in buffers:
        if n_bytes < len(buffer):
            rest.append(buffer[n_bytes:])
        n_bytes = max(0, n_bytes - len(buffer))
    return rest

"""Reads of one batch shared out among threads: one thread copies from the page cache less than a GPU takes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.particles.mrc_stack import MrcStack
from gem3d.particles.stack_reader import MAX_OPEN_FILES, StackReader


class ParallelReader:
    """A `StackReader` for each of several threads, which hold no more open files than one.

    Parameters
    ----------
    stacks: by stack index.
    n_threads: that read at a time.
    """

    def __init__(self, stacks: Mapping[int, MrcStack], n_threads: int) -> None:
        most_open = max(1, MAX_OPEN_FILES // n_threads)
        self._readers = [StackReader(stacks, most_open) for _ in range(n_threads)]
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="gem3d-read")

    def __enter__(self) -> ParallelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        with ExitStack() as files:
            for reader in self._readers:
                files.push(reader)

    def read(self, stack_index: NDArray[np.int32], image_index: NDArray[np.int32], out: NDArray[Any]) -> None:
        """Fill `out`; parameters and errors as of `StackReader.read`."""
        edges = np.linspace(0, len(out), len(self._readers) + 1).round().astype(int).tolist()
        shares = [
            self._threads.submit(reader.read, stack_index[begin:end], image_index[begin:end], out[begin:end])
            for reader, (begin, end) in zip(self._readers, pairwise(edges), strict=True)
            if begin < end
        ]
        wait(shares)  # none may write into the caller's memory once this has returned or raised
        for share in shares:
            share.result()

"""The threads that compute: torch's, and those of our own kernels.

The kernels are compiled without numba's `prange`. It compiles a loop twice, for the process at hand and, optimised
further, for the cache on disk: the first run of a new installation would differ from all later ones in its last
digits, and a killed one could not go on to the same bits. A helper that is not inlined (`forceinline`) would do the
same. Here a kernel is one compiled function of a range, which releases Python's lock, and plain threads share the
range out.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

# Shares of a range for each thread: enough that none waits long for another, few enough that handing them out costs
# nothing.
SHARES_PER_THREAD = 8


def available_threads() -> int:
    """Number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    """Helpers of the calling thread, started when first needed."""

    def __init__(self) -> None:
        self.n_threads = available_threads()
        self._executor: ThreadPoolExecutor | None = None

    def resize(self, n_threads: int) -> None:
        if n_threads != self.n_threads:
            if self._executor is not None:
                self._executor.shutdown()
            self.n_threads, self._executor = n_threads, None

    def run(self, work: Callable[[], None]) -> None:
        """Call `work` on every thread, this one included, and return once all calls have."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.n_threads - 1, thread_name_prefix="gem3d-kernel")
        others = [self._executor.submit(work) for _ in range(self.n_threads - 1)]
        try:
            work()
        finally:
            wait(others)  # they write into the caller's arrays
        for other in others:
            other.result()


_POOL = _Pool()


def set_threads(n_threads: int) -> None:
    """Bound the threads of both torch and our kernels; the two never compute at the same time."""
    import torch

    torch.set_num_threads(n_threads)
    _POOL.resize(n_threads)


def in_shares(kernel: Callable[..., None], n: int, *arguments: Any) -> None:
    """Call `kernel(begin, end, *arguments)` for shares of `range(n)`, on all threads, until all is done.

    Parameters
    ----------
    kernel: releases Python's lock, and gives the same result however the range is cut.
    """
    n_shares = min(n, SHARES_PER_THREAD * _POOL.n_threads)
    if _POOL.n_threads == 1 or n_shares < 2:
        if n > 0:
            kernel(0, n, *arguments)
        return
    edges = [n * share // n_shares for share in range(n_shares + 1)]
    todo = deque(pairwise(edges))

    def work() -> None:
        while True:
            try:
                share = todo.popleft()
            except IndexError:
                return
            try:
                kernel(*share, *arguments)
            except BaseException:
                todo.clear()
                raise

    _POOL.run(work)

"""The threads that compute: torch's, and those of our own kernels.

The kernels are compiled without numba's `prange`. It compiles a loop twice, for the process at hand and, optimised
further, for the cache on disk: the first run of a new installation would differ from all later ones in its last
digits, and a killed one could not go on to the same bits. A helper that is not inlined (`forceinline`) would do the
same. Here a kernel is one compiled function of a range, which releases Python's lock, and plain threads share the
range out.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any, TypeVar

# Shares of a range for each thread: enough that none waits long for another, few enough that handing them out costs
# nothing.
SHARES_PER_THREAD = 8
_HERE = threading.local()
T = TypeVar("T")


def available_threads() -> int:
    """Number of cores this process may run on; its part of them where torchrun has started several here."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


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
    if _POOL.n_threads == 1 or n_shares < 2 or getattr(_HERE, "in_pair", False):
        if n > 0:
            kernel(0, n, *arguments)
        return
    edges = [n * share // n_shares for share in range(n_shares + 1)]
    todo = deque(pairwise(edges))
    _POOL.run(lambda: _do_all(todo, lambda share: kernel(*share, *arguments)))


def two_at_a_time(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call `work(item)` for every item, on two threads where there are so many, in the order given.

    For work that is made of many small steps: torch would share out each of them, and wait at its end. Inside, torch
    has half the threads and a kernel one. More than two at a time would need the more memory.

    Parameters
    ----------
    work: gives the same result in whatever order the items are done.
    """
    import torch

    todo, n_threads = deque(items), _POOL.n_threads
    if n_threads == 1 or len(todo) < 2:
        _do_all(todo, work)
        return

    def one_of_two() -> None:
        _HERE.in_pair = True
        try:
            _do_all(todo, work)
        finally:
            _HERE.in_pair = False

    torch.set_num_threads(n_threads // 2)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="gem3d-pair") as executor:
            other = executor.submit(one_of_two)
            one_of_two()
        other.result()
    finally:
        torch.set_num_threads(n_threads)


class Steps:
    """Counts work that several threads do, and says how much of it is done.

    Parameters
    ----------
    progress: called with (work done, work in all), by one thread at a time.
    total: work in all.
    """

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._done, self._lock = 0, threading.Lock()

    def done(self, work: int) -> None:
        """So much more of it."""
        with self._lock:
            self._done += work
            if self._progress is not None:
                self._progress(self._done, self._total)


def _do_all(todo: deque[T], work: Callable[[T], None]) -> None:
    """Work off what is to be done, which others may do as well; where something fails, nothing more is begun."""
    while True:
        try:
            item = todo.popleft()
        except IndexError:
            return
        try:
            work(item)
        except BaseException:
            todo.clear()
            raise

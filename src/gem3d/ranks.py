"""Several processes at one job: torchrun starts them, the first leads, the others help.

The first rank runs the job as if it were alone: it alone reads particle files, decides, writes and speaks. What many
can do at once it hands out with `together`: every rank then calls the same function with the same arguments, takes
its share of the work, and what the shares come to is put together by the collectives below. In between the others
wait for the next call. Alone, all of this costs nothing and does nothing.

A rank that fails says why and ends. The connections of the others break, and they end too.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from gem3d.errors import Gem3dError
from gem3d.threads import available_threads, set_threads

T = TypeVar("T")

# How long a rank waits for the others before it takes them for lost: helpers wait while the first fits or writes.
PATIENCE = timedelta(days=2)
# While a rank waits it looks now and then, so that signals reach it: at once for so long, then less often.
BUSY_S, NAP_S, LONG_NAP_S = 2e-3, 2e-4, 5e-3

seconds_of_sums = 0.0
"""What this process has spent in sums over all ranks, waiting for the others included."""

# Names of the calls that the first rank has handed out and that have not come to their end.
_calls: list[str] = []


class RankError(Gem3dError):
    """Another process of the job has gone."""


def is_launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def n_ranks() -> int:
    """Number of processes at the job."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


def is_first() -> bool:
    """Whether this process leads."""
    return rank() == 0


def name_of_process() -> str:
    """What this process calls itself when it complains."""
    number = os.environ.get("RANK", "0") if is_launched() else "0"
    return "gem3d" if number == "0" else f"gem3d, rank {number}"


@contextmanager
def joined() -> Iterator[bool]:
    """Join the other processes, if torchrun has started several; yields whether this one leads.

    The others then `help_first` until the block ends on the first.
    """
    if not is_launched():
        yield True
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"the processes of this job do not find one another ({error}); see docs/cluster.md for how to start them"
        ) from error
    try:
        yield is_first()
    finally:
        # In the middle of a call the others do not listen: they end as they lose this one.
        if is_first() and not _calls:
            _broadcast(None, 0)
        dist.destroy_process_group()


def help_first() -> None:
    """Do what the first rank hands out, until it has nothing more.

    Raises
    ------
    RankError: the first rank has gone.
    """
    set_threads(available_threads())
    while True:
        call: Any = _broadcast(None, 0)
        if call is None:
            return
        function, arguments, options = call
        function(*arguments, **options)


def together(
    function: Callable[..., T], *arguments: Any, only_here: dict[str, Any] | None = None, **options: Any
) -> T:
    """Call a function on every rank, with the same arguments, and return what it returns here, on the first.

    Parameters
    ----------
    function: of a module's top level, as are the classes of what it is given: they are pickled. Tensors lie on the
        CPU.
    only_here: further keyword arguments of the first rank; the others have the function's defaults.
    """
    _calls.append(function.__name__)
    if n_ranks() > 1:
        _broadcast((function, arguments, options), 0)
    result = function(*arguments, **options, **(only_here or {}))
    _calls.pop()
    return result


def each(
    function: Callable[..., T], tasks: Sequence[tuple[Any, ...]], only_here: dict[str, Any] | None = None
) -> list[T]:
    """`[function(*task) for task in tasks]`, different tasks on different ranks; all are done when it returns.

    Parameters are those of `together`; `only_here` goes to the tasks that the first rank does.
    """
    return together(_each, function, tasks, only_here={"only_here": only_here})


def _each(
    function: Callable[..., T], tasks: Sequence[tuple[Any, ...]], only_here: dict[str, Any] | None = None
) -> list[T]:
    mine = range(rank(), len(tasks), n_ranks())
    done = {i: function(*tasks[i], **(only_here or {})) for i in mine}
    for part in gather(done):
        done |= part
    return [done[i] for i in range(len(tasks))]


def share_of(n: int, multiple: int = 1) -> range:
    """The contiguous block of `range(n)` that is this rank's, cut at multiples of a number."""
    return shares(n, multiple)[rank()]


def shares(n: int, multiple: int = 1) -> list[range]:
    """The block of every rank."""
    pieces, size = -(-n // multiple), n_ranks()
    edges = [min(n, pieces * r // size * multiple) for r in range(size + 1)]
    return [range(edges[r], edges[r + 1]) for r in range(size)]


def sum_on_first(tensors: Sequence[torch.Tensor]) -> None:
    """Add up each of some tensors over all ranks, in the memory of the first; the others' values are lost."""
    if n_ranks() > 1:
        # All at once: while one is added another is on its way.
        _add_up(lambda: [dist.reduce(tensor, dst=0, async_op=True) for tensor in tensors])


def sum_everywhere(tensor: torch.Tensor) -> None:
    """Add up a tensor over all ranks, in place, to the same bits on each."""
    if n_ranks() > 1:
        _add_up(lambda: [dist.all_reduce(tensor, async_op=True)])


def largest_everywhere(tensor: torch.Tensor) -> None:
    """The largest value over all ranks, element by element, in place."""
    if n_ranks() > 1:
        _finish(dist.all_reduce(tensor, op=dist.ReduceOp.MAX, async_op=True))


def from_first(value: T) -> T:
    """What the first rank has under this name; it is pickled."""
    return value if n_ranks() == 1 else _broadcast(value, 0)


def gather(value: T) -> list[T]:
    """What every rank has, in their order, on all of them. It is pickled."""
    if n_ranks() == 1:
        return [value]
    return [_broadcast(value, source) for source in range(n_ranks())]


def _broadcast(value: T, source: int) -> T:
    """The value that the source has, on every rank."""
    mine = rank() == source
    data = _pickled(value) if mine else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([data.numel()])
    _finish(dist.broadcast(size, source, async_op=True))
    if not mine:
        data = torch.empty(int(size), dtype=torch.uint8)
    _finish(dist.broadcast(data, source, async_op=True))
    if mine:
        return value
    received: T = pickle.loads(data.numpy().data)
    return received


def _pickled(value: object) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(pickle.dumps(value, protocol=5)), np.uint8))


def _add_up(begin: Callable[[], Sequence[Any]]) -> None:
    global seconds_of_sums
    begun_s = time.perf_counter()
    for work in begin():
        _finish(work)
    seconds_of_sums += time.perf_counter() - begun_s


def _finish(work: Any) -> None:
    """Wait for a collective, awake enough to be stopped by a signal."""
    begun_s = time.monotonic()
    try:
        while not work.is_completed():
            waited_s = time.monotonic() - begun_s
            if waited_s > BUSY_S:
                time.sleep(NAP_S if waited_s < 1 else LONG_NAP_S)
        work.wait()
    except RuntimeError as error:
        raise RankError(
            "another process of this job has failed or was killed, so this one ends too; see what the others said"
        ) from error

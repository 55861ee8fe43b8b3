"""Work that a GPU is given again and again: recorded as a CUDA graph, then replayed.

A step of a fit is more than a hundred small kernels. The host takes some microseconds to launch each, longer than
most of them run; a graph of all is one launch. It does the same operations on the same memory every time. So work to
be recorded reads and writes tensors that stay where they are, takes everything that changes from tensors, and never
lets the host see a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gem3d.errors import warn

# Times that work is done before it is recorded: compiling kernels and planning transforms cannot be recorded.
WARM_UPS = 2
# Each recording holds the memory of its input; shapes that come after so many others are not recorded.
MOST_RECORDINGS = 4

Replay = Callable[[], None]


class Repeated:
    """Work, recorded for each set of input shapes once it has been done a few times; on the CPU it is just done.

    Parameters
    ----------
    work: called with tensors; writes its results into tensors that stay, and keeps no count on the host.
    device: where it is done.
    """

    def __init__(self, work: Callable[..., None], device: torch.device) -> None:
        self._work, self._records = work, records_on(device)
        self._done: Counter[Any] = Counter()
        self._recorded: dict[Any, tuple[Replay, list[torch.Tensor]]] = {}

    def __call__(self, *inputs: torch.Tensor) -> None:
        """Do the work, or have it done as soon as the device gets to it."""
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        if shapes in self._recorded:
            self._replay(shapes, inputs)
        elif not self._records or (shapes not in self._done and len(self._done) == MOST_RECORDINGS):
            self._work(*inputs)
        elif self._done[shapes] < WARM_UPS:
            self._done[shapes] += 1
            warm_up(partial(self._work, *inputs))
        else:
            self._record(shapes, inputs)

    def _replay(self, shapes: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        replay, lasting = self._recorded[shapes]
        for own, given in zip(lasting, inputs, strict=True):
            own.copy_(given)
        replay()

    def _record(self, shapes: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        lasting = [each.clone() for each in inputs]
        try:
            self._recorded[shapes] = record(partial(self._work, *lasting)), lasting
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warn(f"kernels are launched one by one, as CUDA cannot record them as a graph: {error}")
            self._records = False
            self._work(*inputs)
        else:
            self._replay(shapes, inputs)


def records_on(device: torch.device) -> bool:
    """Whether work on this device can be recorded."""
    return device.type == "cuda"


def warm_up(work: Callable[[], None]) -> None:
    """Do work as it will be recorded: beside the stream of all else, which waits for it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def record(work: Callable[[], None]) -> Replay:
    """Record work without doing it.

    Raises
    ------
    RuntimeError: some of it cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # Threads that read images go on to allocate pinned memory, which only the recording thread may not.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay

"""Copies between the host and a device that go on while both compute."""

from __future__ import annotations

import torch


class Done:
    """A point in the work of a device, which has been reached or will be."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._event = None if stream is None else stream.record_event()

    def wait(self) -> None:
        """Let the host wait."""
        if self._event is not None:
            self._event.synchronize()

    def holds_back(self, stream: torch.cuda.Stream | None) -> None:
        """Let a stream wait; the host goes on."""
        if self._event is not None and stream is not None:
            stream.wait_event(self._event)


class CopyLane:
    """A CUDA stream of copies beside the one that computes; on the CPU all is done at once, in order.

    The computing stream is torch's current one, in the thread that made the lane.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._computing = torch.cuda.current_stream(device) if cuda else None
        self._copying = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._pinned = cuda

    def host_memory(self, n_bytes: int) -> torch.Tensor:
        """Host memory that copies run from or to on their own, `(n_bytes,)` uint8."""
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=self._pinned)

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Done) -> Done:
        """Copy host memory to the device once `after` is reached; returns at once."""
        if self._copying is None:
            target.copy_(source)
            return Done(None)
        after.holds_back(self._copying)
        with torch.cuda.stream(self._copying):
            target.copy_(source, non_blocking=True)
        return Done(self._copying)

    def compute_after(self, copied: Done) -> None:
        """Let all that is computed from now on wait for a copy."""
        copied.holds_back(self._computing)

    def computed(self) -> Done:
        """What has been asked of the computing stream so far."""
        return Done(self._computing)


def fetch(tensor: torch.Tensor) -> tuple[torch.Tensor, Done]:
    """A tensor on its way to the host, and when it will be there; the host does not wait."""
    if tensor.device.type != "cuda":
        return tensor, Done(None)
    on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    on_host.copy_(tensor, non_blocking=True)
    return on_host, Done(torch.cuda.current_stream(tensor.device))


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor of the host on the device; the host does not wait."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

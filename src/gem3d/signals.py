"""Being told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """Somebody else than the user has asked the program to stop: a batch system, or a machine that shuts down."""


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the block on SIGTERM, so that files under way are removed and the log tells of it.

    Batch systems send it some seconds before they kill.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated("stopped from outside (SIGTERM)")

    if threading.current_thread() is not threading.main_thread():  # signals come to the main one only
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

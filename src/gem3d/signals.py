"""Being told to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# `timeout` and some batch systems send the signal twice: the second must not cut short the cleaning up after the
# first. A later one counts again, as what it raises may be swallowed, such as in a destructor.
DEAF_FOR_S = 5.0


class Terminated(KeyboardInterrupt):
    """Somebody else than the user has asked the program to stop: a batch system, or a machine that shuts down."""


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the block on SIGTERM, so that files under way are removed and the log tells of it.

    Batch systems send it some seconds before they kill. Where it is ignored by request, it stays ignored.
    """
    before = signal.getsignal(signal.SIGTERM)
    # Signals come to the main thread only.
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    last_s = -DEAF_FOR_S

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= DEAF_FOR_S:
            last_s = time.monotonic()
            raise Terminated("stopped from outside (SIGTERM)")

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

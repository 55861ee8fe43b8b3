"""run.log: what happened, when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from gem3d.atomic import advice, refusing, why


class RunLog:
    """Lines with time stamps, kept in memory until there is a file for them, then written as they come.

    A file that can no longer be written ends nothing: the lines wait in memory, and each new one tries again.

    Parameters
    ----------
    complain: called with a message the first time that a line cannot be written.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._waiting = b""
        self._path: Path | None = None
        self._complain, self._complained = complain, False

    def write(self, message: str) -> None:
        """Add a message; further lines of it are indented."""
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        line = f"{stamp}  {message.rstrip()}\n".replace("\n", "\n    ").rstrip(" ")
        self._waiting += line.encode(errors="backslashreplace")
        self._write_out()

    def open(self, path: Path, *, append: bool = False) -> None:
        """Write to this file from now on, beginning with what has been said so far.

        Raises
        ------
        RunDirectoryError: there can be no such file.
        """
        with refusing(path):
            path.open("ab" if append else "wb").close()
        self._path = path
        self._write_out()

    def close(self) -> None:
        """Leave the file."""
        self._path = None

    def _write_out(self) -> None:
        """Write what waits; each time the file is opened anew, so that one that is gone is noticed."""
        if self._path is None:
            return
        try:
            with self._path.open("ab", buffering=0) as file:
                while self._waiting:
                    # The last write before a disk is full takes a part.
                    self._waiting = self._waiting[file.write(self._waiting) :]
        except OSError as reason:
            if not self._complained:
                self._complained = True
                self._complain(
                    f"{self._path}: cannot be written ({why(reason)}); the work goes on and its lines wait. So that "
                    f"they and the results can be written, {advice(reason)}"
                )

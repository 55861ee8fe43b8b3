"""run.log: what happened, when."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TextIO

from gem3d.errors import RunDirectoryError


class RunLog:
    """Lines with time stamps, kept in memory until there is a file for them, then written as they come.

    Attributes
    ----------
    lost: why lines could not be written, as on a full disk: no reason to end the work that they tell of.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._file: TextIO | None = None
        self.lost: OSError | None = None

    def write(self, message: str) -> None:
        """Add a message; further lines of it are indented."""
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        line = f"{stamp}  {message.rstrip()}\n".replace("\n", "\n    ").rstrip(" ")
        if self._file is None:
            self._lines.append(line)
        else:
            self._write(line)

    def open(self, path: Path, *, append: bool = False) -> None:
        """Write to this file from now on, beginning with what has been said so far."""
        try:
            self._file = path.open("a" if append else "w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be written ({error.strerror})") from error
        self._write("".join(self._lines))
        self._lines.clear()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self.lost = error
            self._file = None

    def _write(self, text: str) -> None:
        assert self._file is not None
        try:
            self._file.write(text)
        except OSError as error:
            self.lost = error

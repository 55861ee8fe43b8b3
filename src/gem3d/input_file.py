"""Opening what the user names as input: a plain file, and nothing that would be waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from gem3d.errors import Gem3dError

READ_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""To open a file with: a pipe that has taken its place is not waited for."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path, error: type[Gem3dError]) -> int:
    """A descriptor of a file to read from, which the caller closes.

    Raises
    ------
    `error`: there is no plain file, or it must not be read.
    """
    fault = _fault(path)
    if fault is None:
        try:
            return os.open(path, READ_FLAGS)
        except OSError as reason:
            fault = f"cannot be read ({reason.strerror})"
    raise error(f"{path}: {fault}.")


def refuse_unless_file(path: Path, error: type[Gem3dError]) -> None:
    """Refuse what is no plain file that can be read; for libraries that open files themselves.

    Raises
    ------
    `error`
    """
    os.close(open_file(path, error))


def why_not_a_file(path: Path) -> str | None:
    """Why what is at this path cannot be read: "is a folder, not a file"; None where it can, or nothing is there."""
    fault = _fault(path)
    return None if fault == _NONE else fault


_NONE = "no such file"


def _fault(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        try:
            return f"is a link to {path.readlink()}, which is not there"
        except OSError:
            return _NONE
    except OSError as reason:
        return _NONE if reason.errno == errno.ENAMETOOLONG else f"cannot be read ({reason.strerror})"
    except ValueError:  # a NUL
        return _NONE
    if stat.S_ISREG(mode):
        return None if os.access(path, os.R_OK) else "cannot be read (Permission denied)"
    return next((f"is {kind}, not a file" for is_kind, kind in _KINDS if is_kind(mode)), "is not a file")

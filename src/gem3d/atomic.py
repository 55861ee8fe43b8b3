"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from gem3d.errors import Gem3dError, RunDirectoryError

UNTOUCHED_S = 86400.0
"""A temporary file that may be another machine's is taken for left behind when it has not changed for so long."""

# A name of its own, not one made of the file's: that may be as long as file systems allow.
_TEMPORARY = re.compile(r"\.gem3d\.(?P<machine>[\w-]+)\.(?P<process>\d+)\.\d+\.tmp")
_PROBE_BYTES = 1 << 16
_counter = itertools.count()
_in_use: set[str] = set()
_ADVICE = {
    errno.ENOSPC: "make room on the disk, or choose another place",
    errno.EDQUOT: "your quota there is used up: make room, or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EACCES: "ask for the permission to write there, or choose another place",
    errno.EPERM: "ask for the permission to write there, or choose another place",
    errno.EEXIST: "remove what is there, or choose another place",
    errno.ENOENT: "make its folder, which has gone or never was there",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "see whether the disk is in order",
    errno.ESTALE: "see whether the file server is in order",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "end other programs: too many files are open on this machine",
}


@contextmanager
def replacing(path: str | Path, error: type[Gem3dError] = RunDirectoryError) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; the file written there takes its place at the end.

    A reader sees the old file or the whole new one. When the block fails, the old file stays as it was. Temporary
    files that killed processes have left in the folder are removed.

    Parameters
    ----------
    error: raised, with the path, the reason and what to do, where the file system refuses.
    """
    path = Path(path)
    with refusing(path, error), _temporary(path.parent) as temporary:
        yield temporary
        _force_to_disk(temporary)
        temporary.replace(path)


def check_writable(folder: Path) -> None:
    """See that the folder takes files, and that there is some room on the disk.

    Raises
    ------
    RunDirectoryError
    """
    with refusing(folder), _temporary(folder) as temporary:
        temporary.write_bytes(bytes(_PROBE_BYTES))
        _force_to_disk(temporary)


@contextmanager
def refusing(path: Path, error: type[Gem3dError] = RunDirectoryError) -> Iterator[None]:
    """Name the file or folder, the reason and what to do where the file system refuses what is asked of it."""
    try:
        yield
    except (OSError, SafetensorError) as reason:
        raise error(f"{path}: cannot be written ({why(reason)}); {advice(reason)}") from reason


def why(reason: Exception) -> str:
    """What the file system has to say, in its words."""
    number = _errno(reason)
    return os.strerror(number) if number else str(reason)


def advice(reason: Exception) -> str:
    """What the user can do about it."""
    return _ADVICE.get(_errno(reason), "choose another place")


def reserve(path: Path) -> None:
    """Claim the room that a file is to fill.

    A file that is filled through a mapping begins as a hole, and a full disk would kill the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def is_temporary(path: Path) -> bool:
    """Whether a file's name is one that `replacing` gives until the file is whole."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder; those that may be of living ones stay."""
    with suppress(OSError):  # nothing depends on it
        for path in list(folder.iterdir()):
            with suppress(OSError):
                if _is_left_behind(path):
                    path.unlink()


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A name in a folder that no other process gives; the file is gone at the end of the block."""
    remove_leftovers(folder)
    path = folder / f".gem3d.{_machine()}.{os.getpid()}.{next(_counter)}.tmp"
    _in_use.add(path.name)
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        _in_use.discard(path.name)


def _force_to_disk(path: Path) -> None:
    """Wait until the content is on the disk.

    A rename may reach the disk before what was written: after a power failure the file would have its name and no
    content. And file servers may tell only now that the disk or the quota is full.
    """
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system knows of it
                raise


def _errno(reason: Exception) -> int:
    """The system's number of an error, 0 where there is none; safetensors gives it in words only."""
    if isinstance(reason, OSError):
        return reason.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(reason))
    return int(found[1]) if found else 0


def _is_left_behind(path: Path) -> bool:
    name = _TEMPORARY.fullmatch(path.name)
    if name is None:
        return False
    if name["machine"] == _machine():
        process = int(name["process"])
        if process == os.getpid():  # an earlier one may have had the same number, as in a container
            return path.name not in _in_use
        if not _is_alive(process):
            return True
    return time.time() - path.stat().st_mtime > UNTOUCHED_S


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


@cache
def _machine() -> str:
    """Where process numbers are this process's: the host and, on Linux, the namespace, which containers have."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)[:48]
    try:
        return f"{host}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return host

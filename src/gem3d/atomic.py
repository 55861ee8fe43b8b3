"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gem3d.errors import Gem3dError, RunDirectoryError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.tmp")


@contextmanager
def replacing(path: str | Path, error: type[Gem3dError] = RunDirectoryError) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; the file written there takes its place at the end.

    A reader sees the old file or the whole new one. When the block fails, the old file stays as it was.

    Parameters
    ----------
    error: raised, with the path and the reason, where the file system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _force_to_disk(temporary)
        temporary.replace(path)
    except OSError as reason:
        raise error(refusal(path, reason)) from reason
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def refusal(path: Path, reason: OSError) -> str:
    """What to tell the user where `path` cannot be written."""
    remedy = "make room there, or choose another place" if reason.errno in NO_ROOM else "choose another place"
    return f"{path}: cannot be written ({reason.strerror or reason}); {remedy}"


def reserve(path: Path) -> None:
    """Claim the room that a file is to fill.

    A file that is filled through a mapping begins as a hole, and a full disk would kill the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


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


def is_leftover(path: Path, names: Collection[str]) -> bool:
    """Whether this is the temporary file of one of these names that a killed process has left.

    A process of the same number may run by now: the file is then kept, unless the number is our own.
    """
    found = _LEFTOVER.fullmatch(path.name)
    if found is None or found["name"] not in names:
        return False
    process = int(found["process"])
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


def remove_leftovers(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files of these names that killed processes have left."""
    with suppress(OSError):  # nothing depends on it
        for path in list(folder.iterdir()):
            if is_leftover(path, names):
                path.unlink(missing_ok=True)

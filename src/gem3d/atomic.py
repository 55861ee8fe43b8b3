"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gem3d.errors import Gem3dError, RunDirectoryError


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
        temporary.replace(path)
    except OSError as reason:
        raise error(
            f"{path}: cannot be written ({reason.strerror or reason}); choose another place"
        ) from reason
    finally:
        temporary.unlink(missing_ok=True)

"""What a run writes: one folder, every file whole or not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gem3d.errors import RunDirectoryError


def prepare(out: Path, *, overwrite: bool) -> None:
    """Make the output folder; one that holds files is refused unless `overwrite`."""
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise RunDirectoryError(f"{out}: the folder is not empty; choose another, or use --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".gem3d.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"{out}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, readable."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write rows under the given columns; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    write_text(path, buffer.getvalue())

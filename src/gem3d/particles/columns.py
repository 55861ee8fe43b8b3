"""The columns of a particle file under its own names, for choosing particles by them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.cs_file import CsFile, open_cs
from gem3d.particles.relion_optics import JoinedOptics
from gem3d.particles.star_table import StarTable, find_tables, read_star

_MOST_NAMES = 60


class Columns(Protocol):
    """What can be asked of a particle file's columns; `names` are those that it has, in its order."""

    names: list[str]

    def values(self, name: str) -> NDArray[Any]:
        """`(rows,)` numbers (of kinds b, i, u, f) or texts."""


def open_columns(path: Path, passthrough: Sequence[Path] = ()) -> Columns:
    """The columns of a particle file that has been read, with the same passthrough files.

    Raises
    ------
    ParticleFileError: the file cannot be read, or is of a format without named columns.
    """
    if path.suffix.lower() == ".star":
        return _StarColumns(path)
    if path.suffix.lower() == ".cs":
        return _CryosparcColumns([path, *passthrough])
    raise ParticleFileError(
        f"{path}: has no named columns to --select by; list the particles in a file and give it with --ind"
    )


def find_column(columns: Columns, name: str, path: Path) -> str:
    """The name as the file has it, with or without RELION's leading underscore.

    Raises
    ------
    ParticleFileError: there is none; the message names what comes close.
    """
    for candidate in (name, name.removeprefix("_")):
        if candidate in columns.names:
            return candidate
    by_lower = {known.lower(): known for known in columns.names}
    close = [by_lower[known] for known in difflib.get_close_matches(name.lower(), by_lower)]
    if close:
        raise ParticleFileError(f"{path}: --select: there is no column {name}; close: {', '.join(close)}")
    known = ", ".join(columns.names[:_MOST_NAMES])
    raise ParticleFileError(f"{path}: --select: there is no column {name}; those there are: {known}")


class _StarColumns:
    """Those of the particles, and those of `data_optics` through rlnOpticsGroup; a particle's own goes first."""

    def __init__(self, path: Path) -> None:
        self._table, self._optics = find_tables(read_star(path), path)
        self._optics_row = JoinedOptics(self._table, self._optics).optics_row
        of_optics = [] if self._optics is None else self._optics.columns
        self.names = list(dict.fromkeys([*self._table.columns, *of_optics]))

    def values(self, name: str) -> NDArray[Any]:
        if name in self._table or self._optics is None:
            return _numbers_or_texts(self._table, name)
        return _numbers_or_texts(self._optics, name)[self._optics_row]


def _numbers_or_texts(table: StarTable, column: str) -> NDArray[Any]:
    try:
        return np.fromiter(map(float, table.raw(column)), np.float64, count=len(table))
    except ValueError:
        # Each text is kept once: a million rows name a few thousand micrographs.
        once: dict[str, str] = {}
        texts = (once.setdefault(text, text) for text in table.text(column))
        return np.fromiter(texts, np.dtype(object), count=len(table))


class _CryosparcColumns:
    """Fields of a cryoSPARC file, and those that only its passthrough files have."""

    def __init__(self, paths: Sequence[Path]) -> None:
        files = [open_cs(path) for path in paths]
        self._first = files[0]
        self._file = {name: file for file in reversed(files) for name in file.dtype.names or ()}
        self.names = list(dict.fromkeys(name for file in files for name in file.dtype.names or ()))

    def values(self, name: str) -> NDArray[Any]:
        file = self._file[name]
        if file.dtype[name].shape:
            raise ParticleFileError(
                f"{file.path}: --select: {name} holds several values a particle; only columns of one can be compared"
            )
        values = self._in_file(file, name)
        if file is self._first:
            return values
        uid, wanted = (self._in_file(each, "uid") for each in (file, self._first))
        order = np.argsort(uid)
        return values[order[np.searchsorted(uid[order], wanted)]]

    def _in_file(self, file: CsFile, name: str) -> NDArray[Any]:
        columns, texts = file.read(lambda block: {name: block[name]})
        if name not in texts:
            return columns[name]
        return np.array(texts[name], dtype=object)[columns[name]]

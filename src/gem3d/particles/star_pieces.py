"""Long STAR tables read a piece at a time.

gemmi keeps 32 bytes and more of each value, which is 30 times the file where values are short, and a million
particles have 30 million. So it is given the file without the rows of long tables, then those in pieces; what it
finds is kept as text, a column together.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError

PIECE_BYTES = 1 << 18
LARGEST_AT_ONCE_BYTES = 64 << 20
"""Files beyond it must have one row a line, as every program writes them."""
_ENDS_TABLE = re.compile(rb"\s*(_|loop_|data_|save_|global_|stop_)", re.IGNORECASE)
_TAG_OR_NOTHING = re.compile(rb"\s*(_|#|$)")


class StarColumn:
    """The values of one column as the file writes them, quotes included; unpacked as they are asked for."""

    def __init__(self, first: gemmi.cif.Column, more: Sequence[bytes]) -> None:
        self._first, self._more = first, more

    def __iter__(self) -> Iterator[str]:
        yield from self._first
        for packed in self._more:
            yield from packed.decode().split("\n")

    def at(self, rows: NDArray[np.integer]) -> Iterator[str]:
        """The values of some rows; those of rising ones are not gathered in memory first."""
        if (np.diff(rows) > 0).all():
            yield from self._at_rising(rows)
            return
        distinct, place = np.unique(rows, return_inverse=True)
        found = list(self._at_rising(distinct))
        yield from (found[i] for i in place.tolist())

    def _at_rising(self, rows: NDArray[np.integer]) -> Iterator[str]:
        wanted = iter(rows.tolist())
        row = next(wanted, None)
        for number, value in enumerate(self):
            if row is None:
                return
            if number == row:
                yield value
                row = next(wanted, None)


class LongTable:
    """A table of which only the first rows were left in the document.

    Attributes
    ----------
    columns: their names, each with an underscore.
    n_rows: those that are not in the document.
    packed: of each column, values of one piece after the other, separated by newlines.

    Parameters
    ----------
    header: `loop_` and the names of the columns, as the file has them.
    """

    def __init__(self, header: bytes) -> None:
        self._header = header
        loop = _only_loop(header)
        if loop.length() > 0:
            raise _IrregularError
        self.columns: list[str] = list(loop.tags)
        self.n_rows = 0
        self.packed: list[list[bytes]] = [[] for _ in self.columns]

    def add(self, rows: list[bytes]) -> None:
        """Pack some rows.

        Raises
        ------
        _IrregularError: they are not whole rows of this table, and nothing else.
        """
        loop = _only_loop(self._header + b"".join(rows))
        if list(loop.tags) != self.columns:
            raise _IrregularError
        if loop.length() == 0:  # comments and blank lines
            return
        values = loop.values
        n = len(self.columns)
        for column, packed in enumerate(self.packed):
            packed.append("\n".join(values[column::n]).encode())
        self.n_rows += loop.length()


class _IrregularError(Exception):
    """The text is not of a kind that can be taken to pieces."""


def read_document(path: Path) -> tuple[gemmi.cif.Document, dict[int, LongTable]]:
    """A STAR file, with the rows that its document lacks, by the number of the block.

    Raises
    ------
    OSError, ValueError, RuntimeError: what gemmi raises for files that are not well-formed.
    ParticleFileError: a large file whose rows are not one a line.
    """
    try:
        return _read_in_pieces(path)
    except (_IrregularError, ValueError, RuntimeError):
        # As a whole, for what is irregular but right, and for the line that gemmi names where it is not.
        if path.stat().st_size > LARGEST_AT_ONCE_BYTES:
            raise ParticleFileError(
                f"{path}: not a well-formed STAR file, or not one particle a line with a value for every column, "
                "which a file so large must have; was it cut short or edited by hand?"
            ) from None
    with path.open("rb") as file:
        return gemmi.cif.read_string(_without_mark(file.read())), {}


def _read_in_pieces(path: Path) -> tuple[gemmi.cif.Document, dict[int, LongTable]]:
    kept: list[bytes] = []
    tables: dict[int, LongTable] = {}
    with path.open("rb") as file:
        lines = iter(file)
        n_blocks, header = 0, b""
        line = _without_mark(next(lines, b""))
        while line:
            kept.append(line)
            _refuse_irregular(line)
            n_blocks += line[:5].lower() == b"data_"
            if header and _TAG_OR_NOTHING.match(line):
                header += line
            elif header and not _ENDS_TABLE.match(line):
                line = _read_rows(lines, kept, header, n_blocks - 1, tables)
                header = b""
                continue
            else:
                header = line if line.strip().lower() == b"loop_" else b""
            line = next(lines, b"")
    document = gemmi.cif.read_string(b"".join(kept))
    for number, table in tables.items():
        found = [] if number >= len(document) else [item.loop for item in document[number] if item.loop]
        if not found or list(found[0].tags) != table.columns:
            raise _IrregularError
    return document, tables


def _read_rows(
    lines: Iterator[bytes], kept: list[bytes], header: bytes, block: int, tables: dict[int, LongTable]
) -> bytes:
    """Read the rows of a table after its first line, up to the line that is returned."""
    room, table = PIECE_BYTES, None
    rows: list[bytes] = []
    size = 0
    for line in lines:
        if _ENDS_TABLE.match(line):
            break
        _refuse_irregular(line)
        if room > 0:
            room -= len(line)
            kept.append(line)
            continue
        if table is None:
            table = LongTable(header)
            if tables.setdefault(block, table) is not table:  # a second table of the block
                raise _IrregularError
        rows.append(line)
        size += len(line)
        if size >= PIECE_BYTES:
            table.add(rows)
            rows, size = [], 0
    else:
        line = b""
    if table is not None and rows:
        table.add(rows)
    return line


def _only_loop(text: bytes) -> Any:
    """The loop that makes up the text."""
    document = gemmi.cif.read_string(b"data_\n" + text)
    items: list[Any] = list(document[0])
    if len(document) != 1 or len(items) != 1 or items[0].loop is None:
        raise _IrregularError
    return items[0].loop


def _refuse_irregular(line: bytes) -> None:
    # A text of several lines may hold anything; a line that long is none of a table.
    if line.startswith(b";") or len(line) > PIECE_BYTES:
        raise _IrregularError


def _without_mark(text: bytes) -> bytes:
    """Editors on Windows begin files of text with a mark."""
    return text.removeprefix(codecs.BOM_UTF8)

"""cryoSPARC's particle files as columns: structured numpy arrays in `.npy` form, read without pickle.

The header says what each row holds. It is checked against the size of the file before anything of that size is
allocated, and the rows are read in blocks of which only the wanted columns are kept: a file of many classes is far
wider than what is needed of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.input_file import open_file

Block = NDArray[np.void]
Columns = dict[str, NDArray[Any]]

_NPY, _STREAM = b"\x93NUMPY", b"\x95CSDAT"
# Thousands of columns; files of 100 classes have 80,000 bytes.
_LONGEST_HEADER = 1 << 19
_BLOCK_BYTES = 1 << 24
# UnicodeError is a ValueError; numpy raises SystemError for numbers beyond Unicode.
_NO_TEXT = (ValueError, SystemError)
_HEADER = re.compile(
    r"\{'descr': \[(?P<columns>.*)\], 'fortran_order': (?:True|False), 'shape': \((?P<rows>\d{1,18})L?,\),? ?\}\s*"
)
_COLUMN = re.compile(
    r"\('(?P<name>[^'\\]+)', '(?P<format>[<>|=]?(?P<kind>[biufcSUVO])\d{0,9})'"
    r"(?:, \((?P<shape>[\d, L]+)\))?\)(?:, |$)"
)
_CONVERT = (
    "with Python's cryosparc-tools: from cryosparc.dataset import Dataset; "
    'Dataset.load("FILE.cs").save("NEW.cs")'
)


@dataclass(frozen=True)
class CsFile:
    """The header of a file.

    Attributes
    ----------
    path: the file.
    dtype: of a row.
    n_rows: particles.
    start: byte at which the rows begin.
    """

    path: Path
    dtype: np.dtype[np.void]
    n_rows: int
    start: int

    def __contains__(self, column: str) -> bool:
        return column in (self.dtype.names or ())

    def has_group(self, group: str) -> bool:
        """Whether there is a column of the group, `group/...`."""
        return any(name.startswith(f"{group}/") for name in self.dtype.names or ())

    def expect(self, column: str, kinds: str, shape: tuple[int, ...]) -> None:
        """Raise unless the column is there, of one of numpy's `kinds`, and of this shape in each row."""
        if column not in self:
            raise ParticleFileError(
                f"{self.path}: column {column} is missing; was the file edited? Give the one that cryoSPARC wrote."
            )
        found = self.dtype[column]
        if found.base.kind not in kinds or found.shape != shape:
            raise ParticleFileError(
                f"{self.path}: column {column} has type {found.base} and shape {found.shape} in each row, not "
                f"{'text' if 'S' in kinds else 'numbers'} and shape {shape}; give the file that cryoSPARC wrote."
            )

    def read(self, pick: Callable[[Block], Columns]) -> tuple[Columns, dict[str, tuple[str, ...]]]:
        """Read the whole file, block by block.

        Parameters
        ----------
        pick: from some rows to the columns wanted of them.

        Returns
        -------
        The columns, `(n, ...)`, and the texts of those columns that are text: in their place stand `(n,)` int32
        indices into the texts, which are in order of appearance.
        """
        columns: Columns = {}
        texts: dict[str, dict[bytes | str, int]] = {}
        rows = max(1, _BLOCK_BYTES // self.dtype.itemsize)
        with _open(self.path) as stream:
            stream.seek(self.start)
            for start in range(0, self.n_rows, rows):
                count = min(rows, self.n_rows - start)
                block = np.fromfile(stream, self.dtype, count)
                if len(block) < count:
                    raise ParticleFileError(f"{self.path}: has become shorter while it was read.")
                for name, values in pick(block).items():
                    if values.dtype.kind in "SU":
                        values = self._number_texts(name, values, start, texts.setdefault(name, {}))
                    if not start:
                        columns[name] = np.empty((self.n_rows, *values.shape[1:]), values.dtype)
                    columns[name][start : start + count] = values
        return columns, {name: tuple(map(_as_text, numbers)) for name, numbers in texts.items()}

    def _number_texts(
        self, name: str, values: NDArray[Any], first_row: int, numbers: dict[bytes | str, int]
    ) -> NDArray[np.int32]:
        known = len(numbers)
        try:
            codes = np.fromiter(
                (numbers.setdefault(text, len(numbers)) for text in values.tolist()), np.int32, len(values)
            )
            for text in list(numbers)[known:]:
                _as_text(text)
        except _NO_TEXT:
            for row in range(len(values)):
                try:
                    _as_text(values[row])
                except _NO_TEXT:
                    raise ParticleFileError(
                        f"{self.path}: particle {first_row + row + 1}, column {name}: is not text; is the file "
                        "damaged? Copy it again."
                    ) from None
            raise
        return codes


def open_cs(path: Path) -> CsFile:
    """Read the header of a file.

    Raises
    ------
    ParticleFileError: no such file, not a cryoSPARC particle file, truncated, or of a form that is not read.
    """
    with _open(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        magic = stream.read(8)
        if magic.startswith(_STREAM):
            raise ParticleFileError(
                f"{path}: is in cryoSPARC's compressed stream format, which this version does not read; save it as a "
                f"numpy array ({_CONVERT}), or give the job's exported .cs file."
            )
        if not magic.startswith(_NPY) or len(magic) < 8 or magic[6] not in (1, 2, 3):
            raise ParticleFileError(
                f"{path}: is not a cryoSPARC particle file (it begins with {magic[:6]!r}); give the .cs file of a "
                "refinement, not the .csg beside it."
            )
        length = int.from_bytes(stream.read(2 if magic[6] == 1 else 4), "little")
        start = stream.tell() + length
        if start > size:
            raise ParticleFileError(
                f"{path}: is truncated within its header, at {size} bytes; copy it again."
            )
        if length > _LONGEST_HEADER:
            raise ParticleFileError(
                f"{path}: has a header of {length} bytes, and {_LONGEST_HEADER} are the most that is read; save the "
                "particles with fewer classes."
            )
        # Not by numpy's own reader: it evaluates the text as Python, in hundreds of times its memory.
        dtype, n_rows = _parse_header(path, stream.read(length).decode("latin-1"))
    if n_rows == 0:
        raise ParticleFileError(f"{path}: holds no particles.")
    if n_rows * dtype.itemsize > size - start:
        raise ParticleFileError(
            f"{path}: is truncated: its header says {n_rows} particles of {dtype.itemsize} bytes, but only "
            f"{(size - start) // dtype.itemsize} are there; copy it again."
        )
    return CsFile(path, dtype, n_rows, start)


def _open(path: Path) -> BinaryIO:
    return os.fdopen(open_file(path, ParticleFileError), "rb")


def _parse_header(path: Path, text: str) -> tuple[np.dtype[np.void], int]:
    """Type of a row and number of rows, of the text `{'descr': [(NAME, TYPE, SHAPE), ...], ...}`."""
    malformed = ParticleFileError(
        f"{path}: is a numpy file, but not a table of particles (its header begins {text[:60]!r}); give the .cs file "
        "of a refinement."
    )
    header = _HEADER.fullmatch(text)
    if header is None:
        raise malformed
    columns, end = [], 0
    while end < len(header["columns"]):
        column = _COLUMN.match(header["columns"], end)
        if column is None:
            raise malformed
        if column["kind"] == "O":
            raise ParticleFileError(
                f"{path}: column {column['name']} holds Python objects, which are not read because they can run any "
                f"code; save the file anew as cryoSPARC does ({_CONVERT})."
            )
        shape = tuple(int(number) for number in re.findall(r"\d+", column["shape"] or ""))
        columns.append((column["name"], column["format"], shape))
        end = column.end()
    try:
        dtype = np.dtype(columns)
    except (TypeError, ValueError, OverflowError):  # no such type, a name twice, beyond the size of anything
        raise malformed from None
    if dtype.itemsize == 0:
        raise malformed
    return dtype, int(header["rows"])


def _as_text(raw: bytes | str) -> str:
    text = raw.decode() if isinstance(raw, bytes) else raw
    text.encode()  # refuses what a text column may hold but no file name
    if "\0" in text:
        raise ValueError("NUL in text")
    return text

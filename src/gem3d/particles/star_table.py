"""STAR text as tables of named columns, with errors that say where."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.foreign_files import packed_by, unpack_command
from gem3d.input_file import open_file
from gem3d.particles.star_pieces import LongTable, StarColumn, read_document

_LONGEST_LINE_SHOWN = 65_536
_CHUNK_BYTES = 1 << 16
_LARGEST_INTEGER = 2.0**53  # beyond it a float64 is no more exact


class StarTable:
    """One block of a STAR file, whether written as a loop or as pairs.

    Columns go without the leading underscore.

    Attributes
    ----------
    path: the file.
    name: the block's name, without `data_`.
    row_name: what messages call a row, "particle" or "data_optics row".
    columns: their names, in the file's order.
    """

    def __init__(
        self, path: Path, document: gemmi.cif.Document, index: int, more: LongTable | None = None
    ) -> None:
        block = document[index]
        self.path = path
        self._more = more
        self._length: int
        self._document = document  # owns the block
        self.name: str = block.name.strip()
        self.row_name = "particle"
        self._block = block
        items: list[Any] = list(block)
        loops = [item.loop for item in items if item.loop is not None]
        if loops:
            self._length = loops[0].length()
            tags = list(loops[0].tags)
        else:
            tags = [item.pair[0] for item in items if item.pair is not None]
            self._length = min(1, len(tags))
        self.columns = [tag.removeprefix("_") for tag in tags]
        if more is not None:
            self._length += more.n_rows

    def __len__(self) -> int:
        return self._length

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def raw(self, column: str) -> StarColumn:
        """The values as the file writes them, quotes included."""
        more = [] if self._more is None else self._more.packed[self.columns.index(column)]
        return StarColumn(self._block.find_values(f"_{column}"), more)

    def text(self, column: str) -> list[str]:
        """The values without their quotes."""
        return [gemmi.cif.as_string(value) for value in self.raw(column)]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """The values as finite numbers, `(rows,)`."""
        try:
            values = np.fromiter(map(float, self.raw(column)), np.float64, count=len(self))
        except ValueError:
            values = np.array([self._number(column, row, text) for row, text in enumerate(self.text(column))])
        self.refuse(column, ~np.isfinite(values), values, "is not a finite number; correct or remove the row")
        return values

    def integers(self, column: str) -> NDArray[np.int64]:
        """The values as whole numbers, `(rows,)`."""
        values = self.numbers(column)
        bad = (values != np.rint(values)) | (np.abs(values) > _LARGEST_INTEGER)
        self.refuse(column, bad, values, "is not a whole number; correct or remove the row")
        return values.astype(np.int64)

    def refuse(
        self, column: str, bad: NDArray[np.bool_], values: Sequence[object] | NDArray[np.generic], why: str
    ) -> None:
        """Raise for the first bad row, if there is one.

        Parameters
        ----------
        bad, values: `(rows,)`
        """
        if bad.any():
            row = int(np.argmax(bad))
            raise ParticleFileError(f"{self.where(column, row)}: {values[row]} {why}.")

    def where(self, column: str, row: int) -> str:
        """File, row (counted from 1) and column, to begin a message with."""
        return f"{self.path}: {self.row_name} {row + 1}, column {column}"

    def _number(self, column: str, row: int, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise ParticleFileError(
                f"{self.where(column, row)}: {text!r} is not a number; correct or remove the row."
            ) from None


def read_star(path: Path) -> list[StarTable]:
    """All blocks of a STAR file."""
    _refuse_foreign(path)
    try:
        _refuse_other_encodings(path)
        document, more = read_document(path)
    except OSError as error:
        raise ParticleFileError(f"{path}: cannot be read ({error}).") from None
    except (ValueError, RuntimeError) as error:
        raise ParticleFileError(_malformed(path, str(error))) from None
    tables = [StarTable(path, document, index, more.get(index)) for index in range(len(document))]
    if not any(table.columns for table in tables):
        raise ParticleFileError(
            f"{path}: the file is empty, or holds no STAR table; give a particle STAR file."
        )
    return tables


def find_tables(tables: list[StarTable], path: Path) -> tuple[StarTable, StarTable | None]:
    """The particle table, and the optics table where there is one; in either order."""
    optics = next((table for table in tables if table.name == "optics"), None)
    if optics is not None:
        optics.row_name = "data_optics row"
    others = [table for table in tables if table is not optics and table.columns]
    # Before RELION 3.1 the one block had any name: data_, data_images, data_model_class_1.
    named = [table for table in others if table.name == "particles"]
    with_images = [table for table in others if "rlnImageName" in table]
    candidates = named or with_images or others
    if len(candidates) != 1:
        found = ", ".join(f"data_{table.name}" for table in tables)
        raise ParticleFileError(
            f"{path}: no particle block (blocks: {found}); give the particles' STAR file (run_data.star)."
        )
    return candidates[0], optics


def write_star_table(
    file: TextIO, name: str, columns: dict[str, Iterable[str]], *, version: int | None
) -> None:
    """Write one block as a loop, in RELION's layout.

    Parameters
    ----------
    columns: name (without underscore) to values, of equal length.
    version: RELION's number of the layout; None for files older than 3.1, which have none.
    """
    if version is not None:
        file.write(f"\n# version {version}\n")
    file.write(f"\ndata_{name}\n\nloop_\n")
    file.writelines(f"_{column} #{number}\n" for number, column in enumerate(columns, start=1))
    file.writelines(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))


def format_numbers(values: NDArray[np.generic]) -> Iterator[str]:
    """The shortest text that reads back as the same numbers; minus zero as zero."""
    text: Callable[[object], str] = repr
    return map(text, np.add(values, values.dtype.type(0)).tolist())


def _refuse_foreign(path: Path) -> None:
    fd = open_file(path, ParticleFileError)
    try:
        begins = os.read(fd, 1024)
    except OSError as error:
        raise ParticleFileError(f"{path}: cannot be read ({error.strerror}).") from None
    finally:
        os.close(fd)
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ParticleFileError(f"{path}: is text in UTF-16; save it as plain text (ASCII or UTF-8).")
    packer = packed_by(begins)
    if packer is not None:
        raise ParticleFileError(
            f"{path}: is packed by {packer}; unpack it ({unpack_command(path, packer)}) and give the unpacked file."
        )


def _refuse_other_encodings(path: Path) -> None:
    """Raise unless all is UTF-8: gemmi reads any bytes, and the values fail one by one later."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise ParticleFileError(
                    f"{path}, line {line}: not a well-formed STAR file (byte {error.object[error.start]:#04x} is not "
                    "of text in UTF-8); save it in UTF-8, or copy it again if it is damaged."
                ) from None
            if not chunk:
                return
            line += chunk.count(b"\n")


def _malformed(path: Path, message: str) -> str:
    # gemmi writes "FILE:LINE:COLUMN(BYTE): what" or "FILE:LINE in data_x: what"; of bytes, "data" for the file.
    detail = message.removeprefix(str(path)).removeprefix("data")
    place = re.match(r":(\d+)(?::\d+\((\d+)\))?", detail)
    what = detail.split(": ", 1)[-1] if place else message
    where = f", line {place.group(1)}" if place else ""
    strange = _strange_character(path, int(place.group(2))) if place and place.group(2) else None
    if strange is not None:
        return (
            f"{path}{where}: not a well-formed STAR file ({strange}, where all is plain ASCII text); rename "
            "what is so named, or copy the file again if it is damaged."
        )
    if "number of values" in what:
        what += "; a value with a blank in it needs quotes"
    return f"{path}{where}: not a well-formed STAR file ({what}); was it cut short or edited by hand?"


def _strange_character(path: Path, first_byte: int) -> str | None:
    """The first character on a line that STAR files have not, if there is one."""
    try:
        with path.open("rb") as file:
            file.seek(first_byte)
            line = file.readline(_LONGEST_LINE_SHOWN).rstrip(b"\r\n")
    except OSError:
        return None
    strange = next((byte for byte in line if byte != 9 and not 32 <= byte < 127), None)
    if strange is None:
        return None
    if strange < 128:
        return f"a byte {strange:#04x}"
    text = line.decode("utf-8", "replace")
    return f"the character {next(character for character in text if ord(character) > 127)!r}"

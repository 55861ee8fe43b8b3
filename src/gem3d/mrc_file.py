"""MRC files opened by mrcfile, which believes their headers: here no more memory is taken than there is data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrcfile.bzip2mrcfile import Bzip2MrcFile
from mrcfile.gzipmrcfile import GzipMrcFile
from mrcfile.mrcfile import MrcFile

# The most that gzip can do; bzip2 can do more with zeros, but no map is that empty.
_LARGEST_RATIO = 1032
_MAP_WORD = slice(208, 212)


class _Bounded(MrcFile):  # type: ignore[misc]
    def _get_file_size(self) -> int:
        return Path(self._path).stat().st_size

    def _open_file(self, name: str) -> None:
        self._path = name
        super()._open_file(name)

    def _read_bytearray_from_stream(self, number_of_bytes: int) -> tuple[bytearray, int]:
        if not 0 <= number_of_bytes <= self._get_file_size():
            raise ValueError(f"its header claims {number_of_bytes} bytes, more than there are")
        found: tuple[bytearray, int] = super()._read_bytearray_from_stream(number_of_bytes)
        return found


class _Packed(_Bounded):
    def _get_file_size(self) -> int:
        """The most bytes that it can hold: to know how many there are it would have to be unpacked."""
        return _LARGEST_RATIO * super()._get_file_size()


class _Gzip(_Packed, GzipMrcFile):  # type: ignore[misc]
    pass


class _Bzip2(_Packed, Bzip2MrcFile):  # type: ignore[misc]
    pass


def open_mrc(path: Path) -> Any:
    """An `MrcFile` for reading, plain or packed by gzip or bzip2; odd headers are tolerated.

    Raises
    ------
    OSError, ValueError, EOFError, ArithmeticError, zlib.error: what mrcfile and the unpackers raise for bad files.
    """
    with path.open("rb") as file:
        begins = file.read(_MAP_WORD.stop)
    kind: type[Any] = {b"\x1f\x8b": _Gzip, b"BZ": _Bzip2}.get(begins[:2], _Bounded)
    if begins[_MAP_WORD] == b"MAP ":  # a plain map can begin like a packed one
        kind = _Bounded
    return kind(str(path), permissive=True)

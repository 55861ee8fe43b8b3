"""The header of an MRC file, of images or of a volume.

The format is CCP-EM's MRC2014 (https://www.ccpem.ac.uk/mrc_format/mrc2014.php). Files found in archives carry wrong
machine stamps and no "MAP" word, so the byte order is judged by whether the numbers make sense. Space groups and the
words that tell stacks from volumes are wrong as often, so nothing is read from them.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import Gem3dError
from gem3d.foreign_files import is_spider, name_foreign
from gem3d.input_file import open_file

HEADER_BYTES = 1024
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_UNSUPPORTED_MODES = {
    3: "complex 16-bit integers",
    4: "complex floats, as of a Fourier transform",
    101: "4-bit integers",
}
_LARGEST_SIDE_PX = 65_535
_LARGEST_EXTENDED_HEADER = 1 << 30
# IMOD's words in the header's spare room: its mark, and flags of which the first says that bytes are signed
# (https://bio3d.colorado.edu/imod/doc/mrc_format.txt). Bytes of all other programs are signed.
_IMOD_STAMP, _IMOD_STAMP_WORD, _IMOD_FLAGS_WORD, _IMOD_SIGNED_BYTES = 1_146_047_817, 38, 39, 1


@dataclass(frozen=True)
class MrcHeader:
    """What a header says, held against the size of its file.

    Attributes
    ----------
    shape: nz, ny, nx.
    dtype: of a value, byte order included.
    data_offset: bytes before the first value.
    found_bytes: size of the file; where it is packed, of what was unpacked so far.
    words, floats: `(256,)`, the header as integers and as floats of 32 bits.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    data_offset: int
    found_bytes: int
    words: NDArray[np.int32]
    floats: NDArray[np.float32]

    @property
    def data_bytes(self) -> int:
        """Bytes that the values take by the header's own word."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_truncated(self) -> bool:
        """Whether the file ends before its last value."""
        return self.found_bytes < self.data_offset + self.data_bytes

    @property
    def voxel_size_A(self) -> tuple[float, float, float]:
        """Along x, y and z: the cell over its samples; 0 where the header does not say."""
        sampled, cell_A = self.words[7:10].tolist(), self.floats[10:13]
        x, y, z = (
            float(width / np.float32(n)) if n > 0 and 0 < width < math.inf else 0.0
            for n, width in zip(sampled, cell_A, strict=True)
        )
        return x, y, z


def read_mrc_header(path: Path, what: str, error: type[Gem3dError]) -> MrcHeader:
    """Read the header of a file; modes 0, 1, 2, 6 and 12, either byte order.

    Parameters
    ----------
    what: what the file should be, for messages: "an MRC map".

    Raises
    ------
    `error`: there is no such file, it is something else, or of an unsupported mode. That it is shorter than its
        header says is left to the caller.
    """
    fd = open_file(path, error)
    try:
        begins = os.pread(fd, HEADER_BYTES, 0)
        status = os.fstat(fd)
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}).") from None
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: is not a file.")
    return parse_mrc_header(path, begins, status.st_size, what, error)


def parse_mrc_header(
    path: Path, begins: bytes, found_bytes: int, what: str, error: type[Gem3dError]
) -> MrcHeader:
    """The header of a file that begins with these bytes; see `read_mrc_header`."""
    # The first words of a SPIDER file, floats, may pass for sizes in the other byte order.
    order = None if is_spider(begins) else _byte_order(begins, least_nz=1)
    if order is None:
        raise error(f"{path}: {_what_else(path, begins, found_bytes, what)}.")
    words = np.frombuffer(begins, f"{order}i4")
    nx, ny, nz, mode = words[:4].tolist()
    if mode not in _DTYPES:
        raise error(
            f"{path}: MRC mode {mode} is not supported ({_UNSUPPORTED_MODES[mode]}; only "
            f"{', '.join(map(str, _DTYPES))}); convert the file to 32-bit floats, mode 2."
        )
    dtype = _DTYPES[mode]
    if (
        mode == 0
        and words[_IMOD_STAMP_WORD] == _IMOD_STAMP
        and not words[_IMOD_FLAGS_WORD] & _IMOD_SIGNED_BYTES
    ):
        dtype = "u1"
    extended = int(words[23])
    if not 0 <= extended <= _LARGEST_EXTENDED_HEADER:
        raise error(
            f"{path}: damaged: its header says that {extended} bytes of an extended header follow (word 24); set the "
            "word right, to 0 where there is none."
        )
    return MrcHeader(
        path=path,
        shape=(nz, ny, nx),
        dtype=np.dtype(f"{order}{dtype}"),
        data_offset=HEADER_BYTES + extended,
        found_bytes=found_bytes,
        words=words,
        floats=np.frombuffer(begins, f"{order}f4"),
    )


def _byte_order(begins: bytes, least_nz: int) -> str | None:
    if len(begins) < HEADER_BYTES:
        return None
    # The machine stamp first, the other order where the numbers make no sense with it.
    for order in "><" if begins[212:214] == b"\x11\x11" else "<>":
        nx, ny, nz, mode = np.frombuffer(begins, f"{order}i4", count=4).tolist()
        sized = 0 < nx <= _LARGEST_SIDE_PX and 0 < ny <= _LARGEST_SIDE_PX and nz >= least_nz
        if sized and (mode in _DTYPES or mode in _UNSUPPORTED_MODES):
            return order
    return None


def _what_else(path: Path, begins: bytes, found_bytes: int, what: str) -> str:
    if found_bytes == 0:
        return "is empty (0 bytes); copy the file again"
    foreign = name_foreign(path, begins)
    if foreign is not None:
        return foreign
    if len(begins) < HEADER_BYTES:
        return f"{len(begins)} bytes are fewer than an MRC header ({HEADER_BYTES}); copy the file again"
    if _byte_order(begins, least_nz=0) is not None:
        return "its header says that nothing is in it (nz is 0); was the program that wrote it stopped? Make it again"
    return (
        f"not {what} (size and mode make no sense in either byte order); give an MRC file (.mrcs, .mrc, .map)"
    )

"""The header of an MRC image stack.

The format is CCP-EM's MRC2014 (https://www.ccpem.ac.uk/mrc_format/mrc2014.php). Stacks found in archives
carry wrong machine stamps and no "MAP" word, so the byte order is judged by whether the numbers make sense.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gem3d.errors import ImageStackError

HEADER_BYTES = 1024
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_UNSUPPORTED_MODES = (3, 4, 101)  # complex, and 4-bit
_LARGEST_SIDE_PX = 65_535
_LARGEST_EXTENDED_HEADER = 1 << 30


@dataclass(frozen=True)
class MrcStack:
    """Where the images of one stack lie.

    Attributes
    ----------
    n_images: images in the file.
    box_size_px: side of the square images.
    dtype: of a pixel, byte order included.
    data_offset: bytes before the first image.
    pixel_size_A: as the header says, which is often wrong; 0 where it does not.
    """

    path: Path
    n_images: int
    box_size_px: int
    dtype: np.dtype[np.generic]
    data_offset: int
    pixel_size_A: float

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.box_size_px**2 * self.dtype.itemsize


def read_stack_header(path: Path) -> MrcStack:
    """Read and check the header of a stack of square images; modes 0, 1, 2, 6 and 12, either byte order.

    Raises
    ------
    ImageStackError: the file is missing, is not an MRC stack, is of an unsupported mode, has images that are
        not square, or is shorter than its header says.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise ImageStackError(f"{path}: cannot be opened ({error.strerror}).") from None
    try:
        header = os.pread(fd, HEADER_BYTES, 0)
        found_bytes = os.fstat(fd).st_size
    except OSError as error:
        raise ImageStackError(f"{path}: cannot be read ({error.strerror}).") from None
    finally:
        os.close(fd)
    return _parse(path, header, found_bytes)


def _parse(path: Path, header: bytes, found_bytes: int) -> MrcStack:
    if len(header) < HEADER_BYTES:
        raise ImageStackError(
            f"{path}: {len(header)} bytes are fewer than an MRC header ({HEADER_BYTES}); copy the file again."
        )
    # The machine stamp first, the other order where the numbers make no sense with it.
    stamped = ">" if header[212:214] == b"\x11\x11" else "<"
    orders = [stamped, "<" if stamped == ">" else ">"]
    order = next((order for order in orders if _plausible(header, order)), None)
    if order is None:
        raise ImageStackError(
            f"{path}: not an MRC image stack (size and mode make no sense in either byte order); "
            "give .mrcs or .mrc files."
        )
    words = np.frombuffer(header, dtype=f"{order}i4")
    nx, ny, nz, mode = (int(word) for word in words[:4])
    if mode not in _DTYPES:
        raise ImageStackError(
            f"{path}: MRC mode {mode} is not supported (only {', '.join(map(str, _DTYPES))}); "
            "convert the stack to 32-bit floats, mode 2."
        )
    if nx != ny:
        raise ImageStackError(f"{path}: images of {nx} x {ny} pixels; extract the particles in square boxes.")
    stack = MrcStack(
        path=path,
        n_images=nz,
        box_size_px=nx,
        dtype=np.dtype(f"{order}{_DTYPES[mode]}"),
        data_offset=HEADER_BYTES + int(words[23]),
        pixel_size_A=_pixel_size_A(int(words[7]), float(np.frombuffer(header, f"{order}f4")[10])),
    )
    expected_bytes = stack.data_offset + nz * stack.image_bytes
    if found_bytes < expected_bytes:
        complete = max(found_bytes - stack.data_offset, 0) // stack.image_bytes
        raise ImageStackError(
            f"{path}: truncated: its header promises {nz} images in {expected_bytes} bytes, the file has "
            f"{found_bytes} bytes, {complete} complete images; copy it again, or keep only the particles "
            "whose images are there and correct the header."
        )
    return stack


def _pixel_size_A(n_sampled: int, width_A: float) -> float:
    """Width of the cell over its samples along x, in as many digits as a float32 has."""
    return float(f"{width_A / n_sampled:.6g}") if n_sampled > 0 and 0 < width_A < math.inf else 0.0


def _plausible(header: bytes, order: str) -> bool:
    words = np.frombuffer(header, dtype=f"{order}i4")
    nx, ny, nz, mode = (int(word) for word in words[:4])
    return (
        0 < nx <= _LARGEST_SIDE_PX
        and 0 < ny <= _LARGEST_SIDE_PX
        and nz > 0
        and (mode in _DTYPES or mode in _UNSUPPORTED_MODES)
        and 0 <= int(words[23]) <= _LARGEST_EXTENDED_HEADER
    )

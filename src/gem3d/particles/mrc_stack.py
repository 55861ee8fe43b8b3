"""The header of an MRC image stack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gem3d.errors import ImageStackError
from gem3d.mrc_header import read_mrc_header


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
    header = read_mrc_header(path, "an MRC image stack", ImageStackError)
    n_images, ny, nx = header.shape
    if nx != ny:
        raise ImageStackError(f"{path}: images of {nx} x {ny} pixels; extract the particles in square boxes.")
    # In as many digits as a float32 has.
    pixel_size_A = float(f"{header.voxel_size_A[0]:.6g}")
    stack = MrcStack(path, n_images, nx, header.dtype, header.data_offset, pixel_size_A)
    if header.is_truncated:
        complete = max(header.found_bytes - stack.data_offset, 0) // stack.image_bytes
        expected_bytes = stack.data_offset + header.data_bytes
        raise ImageStackError(
            f"{path}: truncated: its header promises {n_images} images in {expected_bytes} bytes, the file has "
            f"{header.found_bytes} bytes, {complete} complete images; copy it again, or keep only the particles "
            "whose images are there and correct the header."
        )
    return stack

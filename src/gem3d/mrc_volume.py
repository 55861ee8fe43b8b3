"""The values of a volume in an MRC file, which may be packed; memory is taken only for what is there."""

from __future__ import annotations

import bz2
import gzip
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import MapError
from gem3d.foreign_files import packed_by
from gem3d.input_file import open_file
from gem3d.mrc_header import HEADER_BYTES, MrcHeader, parse_mrc_header

_UNPACKERS: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open}
_CHUNK_BYTES = 1 << 20
_VOLUME_STACKS = range(401, 631)  # space groups that mean several volumes
_WHAT = "an MRC map"


def read_mrc_volume(path: Path) -> tuple[MrcHeader, NDArray[Any]]:
    """Header and values `(nz, ny, nx)`, in the file's own type and order of axes; read-only.

    Raises
    ------
    MapError: the file is missing, not an MRC map, truncated, not one real volume, or packed by xz or zstd.
    """
    try:
        with os.fdopen(open_file(path, MapError), "rb") as file:
            begins = file.read(HEADER_BYTES)
            unpack = _UNPACKERS.get(packed_by(begins) or "")
            if unpack is not None:
                file.seek(0)
                return _read_packed(path, unpack(file))
            header = parse_mrc_header(path, begins, os.fstat(file.fileno()).st_size, _WHAT, MapError)
            _check(header)
            count, offset = math.prod(header.shape), header.data_offset - HEADER_BYTES
            values = np.fromfile(file, header.dtype, count, offset=offset)
            return header, values.reshape(header.shape)
    except (OSError, EOFError, zlib.error) as error:
        raise MapError(f"{path}: cannot be read ({error}); copy it again") from None


def _read_packed(path: Path, stream: IO[bytes]) -> tuple[MrcHeader, NDArray[Any]]:
    begins = stream.read(HEADER_BYTES)
    header = parse_mrc_header(path, begins, len(begins), _WHAT, MapError)
    content = bytearray(begins)
    end = header.data_offset + header.data_bytes
    # The header may claim anything: memory grows with what comes.
    while len(content) < end and (chunk := stream.read(min(_CHUNK_BYTES, end - len(content)))):
        content += chunk
    header = replace(header, found_bytes=len(content))
    _check(header)
    return header, np.frombuffer(content, header.dtype, offset=header.data_offset).reshape(header.shape)


def _check(header: MrcHeader) -> None:
    nz, ny, nx = header.shape
    space_group, sampled_z = int(header.words[22]), int(header.words[9])
    if nz == 1:
        raise MapError(f"{header.path}: holds one image of {nx} x {ny} px; a map must be a 3D volume")
    if space_group in _VOLUME_STACKS and 0 < sampled_z < nz:
        raise MapError(f"{header.path}: holds {nz // sampled_z} volumes; give a map of one")
    if header.is_truncated:
        expected_bytes = header.data_offset + header.data_bytes
        raise MapError(
            f"{header.path}: truncated: {nx} x {ny} x {nz} voxels by its header, {expected_bytes} bytes, but "
            f"{header.found_bytes} bytes are there; copy it again"
        )

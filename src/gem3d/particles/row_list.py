"""Lists of the particles to keep: cryoDRGN's pickles, numpy arrays, or text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.input_file import open_file
from gem3d.particles.restricted_pickle import load_arrays

_WHAT = "give 0-based rows of the particle file: a pickled array or list, a .npy file, or text of one number a line"


def read_row_list(path: Path, n_rows: int) -> NDArray[np.int64]:
    """Rows to keep, rising.

    Parameters
    ----------
    path: a pickled numpy array or list of whole numbers (as cryoDRGN writes them), a `.npy` file, or text with one
        whole number a line; counted from 0. An array or a list of `n_rows` booleans is taken as which to keep.
    n_rows: rows of the particle file.

    Raises
    ------
    ParticleFileError: the file cannot be read, holds something else, or names a row twice or one that is not there.
    """
    try:
        with os.fdopen(open_file(path, ParticleFileError), "rb") as file:
            begins = file.read(8)
    except OSError as error:
        raise ParticleFileError(f"{path}: cannot be read ({error.strerror})") from None
    if begins.startswith(b"\x93NUMPY"):
        found = _from_npy(path)
    elif begins.startswith(b"\x80") or path.suffix.lower() in (".pkl", ".pickle"):
        found = _from_pickle(path)
    else:
        found = _from_text(path)
    return _checked(found, path, n_rows)


def _from_npy(path: Path) -> NDArray[Any]:
    try:
        # Mapped, so that a header which claims more than the file holds is refused before memory is taken.
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises almost anything
        raise ParticleFileError(f"{path}: cannot be read as a .npy file ({error}); {_WHAT}") from None
    return found


def _from_pickle(path: Path) -> NDArray[Any]:
    arrays = load_arrays(path, _WHAT)
    if len(arrays) != 1:
        raise ParticleFileError(f"{path}: holds {len(arrays)} arrays, not a list of rows; {_WHAT}")
    return arrays[0]


def _from_text(path: Path) -> NDArray[np.int64]:
    try:
        with path.open(encoding="utf-8") as file:
            return np.fromiter(_numbers(file, path), np.int64)
    except UnicodeDecodeError:
        raise ParticleFileError(f"{path}: neither text nor a pickle nor a .npy file; {_WHAT}") from None
    except OverflowError:
        raise ParticleFileError(f"{path}: holds numbers beyond 64 bits; {_WHAT}") from None


def _numbers(lines: Iterator[str], path: Path) -> Iterator[int]:
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            yield int(text)
        except ValueError:
            raise ParticleFileError(
                f"{path}, line {number}: {text[:40]!r} is not a whole number; {_WHAT}"
            ) from None


def _checked(found: NDArray[Any], path: Path, n_rows: int) -> NDArray[np.int64]:
    if found.size == 0:
        raise ParticleFileError(f"{path}: lists no particle; {_WHAT}")
    if found.ndim != 1 or found.dtype.kind not in "biu":
        raise ParticleFileError(
            f"{path}: holds an array of shape {found.shape} and type {found.dtype}; {_WHAT}"
        )
    if found.dtype.kind == "b":
        if len(found) != n_rows:
            raise ParticleFileError(
                f"{path}: holds {len(found)} booleans, the particle file {n_rows} rows; is it of another file?"
            )
        return np.flatnonzero(found).astype(np.int64)
    outside = (found < 0) | (found >= n_rows)
    if outside.any():
        first = int(np.argmax(outside))
        raise ParticleFileError(
            f"{path}: entry {first + 1} is row {found[first]}, but the particle file has rows 0 to {n_rows - 1}, "
            "counted from 0; is it of another file?"
        )
    rows = np.sort(found.astype(np.int64))
    twice = rows[1:][rows[1:] == rows[:-1]]
    if len(twice):
        raise ParticleFileError(
            f"{path}: {len(twice)} row{' is' if len(twice) == 1 else 's are'} listed again, the first being row "
            f"{twice[0]}; list each once (zeros and ones that say which to keep must be of type bool)"
        )
    return rows

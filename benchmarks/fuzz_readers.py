"""The readers that are fuzzed: what is called with a file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fuzz_words
from fuzz_mutations import MRC, NPY, PICKLE, TEXT, Damage
from gem3d.errors import Gem3dError
from gem3d.maps import read_map, read_mask
from gem3d.optics import ctf_coefficients
from gem3d.particles import star_pieces
from gem3d.particles.cryodrgn_tables import read_cryodrgn_ctf, read_cryodrgn_poses
from gem3d.particles.cryosparc import read_cryosparc, read_cs_images
from gem3d.particles.mrc_stack import read_stack_header
from gem3d.particles.particles import Particles
from gem3d.particles.relion_star import read_relion_star
from gem3d.particles.restricted_pickle import load_arrays
from gem3d.particles.row_list import read_row_list
from gem3d.particles.stack_reader import StackReader

CORPUS = Path(__file__).parents[1] / "tests" / "fuzz_corpus"
_MOST_IMAGES = 8
# The files are small; half of them are read as long ones are.
_PIECE_BYTES, _SMALL_PIECE_BYTES = star_pieces.PIECE_BYTES, 64


class WrongResult(Exception):
    """A reader gave something that nothing after it can be asked to cope with."""


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes
    ----------
    what: as the table of results calls it.
    suffix: of the file.
    ways: in how many ways the file can be read.
    read: reads the file, in the way of this number.
    damage: kinds of damage that know the format.
    words: of the format.
    """

    what: str
    suffix: str
    ways: int
    read: Callable[[Path, int], object]
    damage: Sequence[Damage]
    words: Sequence[bytes]

    def run(self, path: Path, data: bytes) -> object:
        """Read the file that holds `data`, in a way that follows from it."""
        return self.read(path, zlib.crc32(data) % self.ways)


def _star(path: Path, way: int) -> None:
    star_pieces.PIECE_BYTES = _SMALL_PIECE_BYTES if way > 7 else _PIECE_BYTES
    _check(read_relion_star(path, ctf=way % 4 > 0, ignore_extras=way % 8 > 3))


def _cs(path: Path, way: int) -> None:
    if way == 0:
        read_cs_images(path)
        return
    # In itself a file finds all its uids.
    passthrough = [path] if way in (1, 9) else []
    _check(read_cryosparc(path, ctf=way % 4 > 0, ignore_extras=way > 7, passthrough=passthrough))


def _pickle(path: Path, way: int) -> None:
    load_arrays(path, "give another")
    reader = (read_cryodrgn_poses, read_cryodrgn_ctf, lambda path: read_row_list(path, 100))[way]
    reader(path)


def _stack(path: Path, way: int) -> None:
    stack = read_stack_header(path)
    n = min(_MOST_IMAGES, stack.n_images)
    # The last ones: where the file must be as long as its header says.
    order = np.arange(stack.n_images - n, stack.n_images, dtype=np.int32)
    with StackReader({0: stack}) as reader:
        reader.read(
            np.zeros(n, np.int32), order, np.empty((n, stack.box_size_px, stack.box_size_px), np.float32)
        )


def _map(path: Path, way: int) -> None:
    if way:
        read_mask(path, 4)
        return
    found = read_map(path)
    if not np.isfinite(found.values).all() or not np.isfinite([found.voxel_size_A, *found.origin_A]).all():
        raise WrongResult("numbers that are not finite")


def _check(particles: Particles) -> None:
    for name, values in vars(particles).items():
        if isinstance(values, np.ndarray):
            if len(values) != len(particles):
                raise WrongResult(f"{name} is of {len(values)} particles, not {len(particles)}")
            if not np.isfinite(values).all():
                raise WrongResult(f"{name} is not finite")
    for name, end in (("stack_index", len(particles.stacks)), ("optics_index", len(particles.optics))):
        index = getattr(particles, name)
        if index.min() < 0 or index.max() >= end:
            raise WrongResult(f"{name} points beyond")
    if particles.image_index.min() < 0:
        raise WrongResult("a negative image_index")
    if not np.isfinite(ctf_coefficients(particles)).all():
        raise WrongResult("a CTF that is not finite")


READERS = {
    "star": Reader("STAR", ".star", 16, _star, TEXT, fuzz_words.STAR),
    "cs": Reader(".cs", ".cs", 16, _cs, NPY, fuzz_words.CS),
    "pickle": Reader("pickle", ".pkl", 3, _pickle, PICKLE, fuzz_words.PICKLE),
    "stack": Reader("MRC stack", ".mrcs", 1, _stack, MRC, fuzz_words.MRC),
    "map": Reader("MRC map", ".mrc", 2, _map, MRC, fuzz_words.MRC),
}


def seeds(name: str) -> list[bytes]:
    """The files of a reader's corpus."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def is_refusal(error: BaseException) -> bool:
    """Whether an error is one that a user is meant to see."""
    return isinstance(error, Gem3dError)

"""Image references as RELION writes them, `000001@stack.mrcs`: 1-based number, then the stack's path."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.particles import Particles

_CHUNK = 65_536


def split_image_names(
    names: Iterable[str], source: Path
) -> tuple[NDArray[np.int32], NDArray[np.int32], tuple[str, ...]]:
    """Stack and image of every name.

    Parameters
    ----------
    names: `n` strings, quoted or not.
    source: the file they come from, for messages.

    Returns
    -------
    `(n,)` index into the stacks, `(n,)` 0-based image within the stack, and the stacks' paths in order of
    appearance.
    """
    iterator = iter(names)
    stacks: dict[str, int] = {}
    stack_index, image_index = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    first_row = 1
    # In chunks, because the parts of a million split names weigh more than everything else that is read.
    while chunk := list(islice(iterator, _CHUNK)):
        try:
            numbers, paths = _split(chunk)
        except (ValueError, OverflowError):  # quoted names, or malformed ones
            chunk = [gemmi.cif.as_string(name) for name in chunk]
            _refuse_malformed(chunk, first_row, source)
            numbers, paths = _split(chunk)
        stack_index.append(
            np.fromiter((stacks.setdefault(p, len(stacks)) for p in paths), np.int32, count=len(chunk))
        )
        image_index.append(numbers - np.int32(1))
        first_row += len(chunk)
    return np.concatenate(stack_index), np.concatenate(image_index), tuple(stacks)


def image_name(particles: Particles, row: int) -> str:
    """The name of one particle's image, `000001@stack.mrcs`."""
    stack = particles.stacks[particles.stack_index[row]]
    return f"{particles.image_index[row] + 1:06d}@{stack}"


def describe_particle(particles: Particles, row: int) -> str:
    """How messages name a particle: its 1-based row in the file and its image."""
    return f"particle {particles.source_row[row] + 1} ({image_name(particles, row)})"


def _split(names: list[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    numbers, _, paths = zip(*(name.partition("@") for name in names), strict=True)
    indices = np.fromiter(map(int, numbers), np.int64, count=len(numbers))
    if indices.min() < 1 or indices.max() > np.iinfo(np.int32).max or not all(paths):
        raise ValueError
    return indices.astype(np.int32), paths


def _refuse_malformed(names: list[str], first_row: int, source: Path) -> None:
    for row, name in enumerate(names, start=first_row):
        try:
            _split([name])
        except (ValueError, OverflowError):
            raise ParticleFileError(
                f"{source}: particle {row}, column rlnImageName: {name!r} is not an image name; it should "
                f"read like 000001@folder/stack.mrcs, counting images from 1.{_advice(name)}"
            ) from None


def _advice(name: str) -> str:
    # Read as its first image, a volume would give a map of slices.
    if "@" in name:
        return ""
    return " Put 000001@ before the name of a file of one image; volumes (subtomograms) are not read."

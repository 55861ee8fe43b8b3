"""Lists of images without poses, as cryoDRGN takes them: a stack, a text file of stacks, a STAR or a .cs file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.input_file import refuse_unless_file
from gem3d.particles.cryosparc import read_cs_images
from gem3d.particles.image_names import split_image_names
from gem3d.particles.mrc_stack import MrcStack, read_stack_header
from gem3d.particles.relion_optics import missing_column
from gem3d.particles.relion_star import half_sets, micrographs
from gem3d.particles.stack_paths import find_stack
from gem3d.particles.star_table import find_tables, read_star

_LONGEST_LINE = 8192


@dataclass(frozen=True)
class ImageList:
    """Where `n` images lie, and what their list says of them besides.

    Attributes
    ----------
    first_stack: the header of the stack of the first image, whose box size all have.
    image_column: what the list calls the images' names.
    sign: `(n,)`, -1 for images whose particles are dark, as far as the list says.
    stack_index, image_index, micrograph_index, half_set, stacks: as in `Particles`; images of a list that does not
        say their micrographs are of one in each stack.
    """

    stack_index: NDArray[np.int32]
    image_index: NDArray[np.int32]
    micrograph_index: NDArray[np.int32]
    half_set: NDArray[np.int8]
    stacks: tuple[str, ...]
    first_stack: MrcStack
    image_column: str
    sign: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image_index)


def is_image_list(path: Path) -> bool:
    """Whether a file of this name holds images only, whatever else is in it."""
    return path.suffix.lower() in _LISTS and path.suffix.lower() not in (".star", ".cs")


def read_image_list(path: Path, datadir: Path | None = None) -> ImageList:
    """Read a list of images, chosen by its suffix.

    Parameters
    ----------
    path: a stack (`.mrcs`, `.mrc`); a text file (`.txt`) of one stack a line, all of whose images are meant; or a
        STAR or a `.cs` file, of which the images' names are needed, and half sets and micrographs are taken where it
        has them.
    datadir: folder that relative stack paths begin in; see `ImageSource`.

    Raises
    ------
    ParticleFileError, ImageStackError: the list, or a stack that must be opened to count its images, is at fault.
    """
    try:
        read = _LISTS[path.suffix.lower()]
    except KeyError:
        raise ParticleFileError(
            f"{path}: {path.suffix or 'a file without suffix'} is not a list of images; give one of "
            f"{', '.join(_LISTS)} with --poses."
        ) from None
    return read(path, datadir)


def _one_stack(path: Path, datadir: Path | None) -> ImageList:
    # By its absolute path: the name is no name in a file, to be looked for.
    return _whole_stacks([str(path.absolute())], [read_stack_header(path)])


def _text(path: Path, datadir: Path | None) -> ImageList:
    names: list[str] = []
    stacks: list[MrcStack] = []
    for line, name in enumerate(_lines(path), start=1):
        if name:
            names.append(name)
            stacks.append(read_stack_header(find_stack(name, path, f"line {line}", datadir)))
            first = stacks[0]
            if stacks[-1].box_size_px != first.box_size_px:
                raise ParticleFileError(
                    f"{path}: line {line}: {stacks[-1].path} has images of {stacks[-1].box_size_px} px, {first.path} "
                    f"of {first.box_size_px} px; rescale them to one box size."
                )
    if not stacks:
        raise ParticleFileError(f"{path}: names no stacks; give a file with the path of one stack a line.")
    return _whole_stacks(names, stacks)


def _lines(path: Path) -> Iterator[str]:
    try:
        refuse_unless_file(path, ParticleFileError)
        with path.open(encoding="utf-8-sig") as file:
            while line := file.readline(_LONGEST_LINE):
                yield line.strip()
    except OSError as error:
        raise ParticleFileError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ParticleFileError(
            f"{path}: is not text; give a file with the path of one stack a line."
        ) from None


def _whole_stacks(names: list[str], stacks: list[MrcStack]) -> ImageList:
    counts = [stack.n_images for stack in stacks]
    stack_index = np.repeat(np.arange(len(stacks), dtype=np.int32), counts)
    return ImageList(
        stack_index=stack_index,
        image_index=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        micrograph_index=stack_index,
        half_set=np.zeros(len(stack_index), np.int8),
        stacks=tuple(names),
        first_stack=stacks[0],
        image_column="of stacks",
        sign=np.ones(len(stack_index)),
    )


def _star(path: Path, datadir: Path | None) -> ImageList:
    table, _ = find_tables(read_star(path), path)
    column = "rlnImageName"
    if column not in table:
        raise missing_column(table, column, "where the image lies")
    if len(table) == 0:
        raise ParticleFileError(f"{path}: block data_{table.name} holds no particles.")
    stack_index, image_index, stacks = split_image_names(table.raw(column), path)
    return ImageList(
        stack_index=stack_index,
        image_index=image_index,
        micrograph_index=micrographs(table, stack_index),
        half_set=half_sets(table),
        stacks=stacks,
        first_stack=read_stack_header(find_stack(stacks[0], path, f"particle 1, column {column}", datadir)),
        image_column=column,
        sign=np.ones(len(stack_index)),
    )


def _cs(path: Path, datadir: Path | None) -> ImageList:
    images = read_cs_images(path)
    where = "particle 1, column blob/path"
    return ImageList(
        stack_index=images.stack_index,
        image_index=images.image_index,
        micrograph_index=images.micrograph_index,
        half_set=images.half_set,
        stacks=images.stacks,
        first_stack=read_stack_header(find_stack(images.stacks[images.stack_index[0]], path, where, datadir)),
        image_column="blob/path",
        sign=images.sign,
    )


_LISTS: dict[str, Callable[[Path, Path | None], ImageList]] = {
    ".mrcs": _one_stack,
    ".mrc": _one_stack,
    ".txt": _text,
    ".star": _star,
    ".cs": _cs,
}

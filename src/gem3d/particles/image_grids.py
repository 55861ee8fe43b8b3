"""The grids of pixels that images come on, and the one that they are all taken to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ImageStackError, SettingsError
from gem3d.particles.image_names import describe_particle
from gem3d.particles.mrc_stack import MrcStack
from gem3d.particles.particles import Particles
from gem3d.particles.resample import Resampler

SMALLEST_BOX_PX = 16
# 1.06 A is 1.06000006 A in single precision. The edge of a box of 1,000 px moves by a two-hundredth of a pixel.
PIXEL_ROUNDING = 1e-5
_NAMES_AT_MOST = 3


@dataclass(frozen=True)
class ImageGrid:
    """Square images of `box_size_px` pixels each way, `pixel_size_A` wide each."""

    box_size_px: int
    pixel_size_A: float

    @property
    def width_A(self) -> float:
        """Of the box."""
        return self.box_size_px * self.pixel_size_A

    def is_like(self, other: ImageGrid) -> bool:
        """Whether both are the same, but for the rounding of pixel sizes."""
        near = math.isclose(self.pixel_size_A, other.pixel_size_A, rel_tol=PIXEL_ROUNDING)
        return self.box_size_px == other.box_size_px and near

    def binned(self, factor: float) -> ImageGrid:
        """A grid as wide, with an even number of pixels about `factor` times as large.

        Raises
        ------
        SettingsError: too few pixels would be left.
        """
        if factor == 1:
            return self
        box = 2 * round(self.box_size_px / factor / 2)
        if box < SMALLEST_BOX_PX:
            raise SettingsError(
                f"--bin {factor:g}: leaves {box} of {self.box_size_px} pixels; give at most "
                f"{self.box_size_px / SMALLEST_BOX_PX:g}, which leaves {SMALLEST_BOX_PX}"
            )
        return ImageGrid(box, self.pixel_size_A * self.box_size_px / box)

    def __str__(self) -> str:
        return f"box {self.box_size_px} px, {self.pixel_size_A:g} A/px"


def find_grids(particles: Particles) -> tuple[tuple[ImageGrid, ...], NDArray[np.int16]]:
    """The distinct grids of the optics groups that have particles, and the index of each particle's, `(n,)`.

    Pixel sizes that differ by no more than rounding are one, the first.
    """
    groups = particles.optics
    counts = np.bincount(particles.optics_index, minlength=len(groups))
    grids: list[ImageGrid] = []
    of_group = np.zeros(len(groups), np.int16)
    for number in np.flatnonzero(counts):
        grid = ImageGrid(groups[number].box_size_px, groups[number].pixel_size_A)
        of_group[number] = next((i for i, known in enumerate(grids) if grid.is_like(known)), len(grids))
        if of_group[number] == len(grids):
            grids.append(grid)
    return tuple(grids), of_group[particles.optics_index]


def common_grid(grids: Sequence[ImageGrid], grid_index: NDArray[np.int16], binning: float) -> ImageGrid:
    """The grid of most particles, the first such, binned."""
    return grids[int(np.argmax(np.bincount(grid_index, minlength=len(grids))))].binned(binning)


@dataclass(frozen=True)
class Resampled:
    """Particles whose images are stored on another grid than the common one.

    Attributes
    ----------
    grid: theirs.
    optics_groups: the names of theirs.
    """

    grid: ImageGrid
    n_particles: int
    optics_groups: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.optics_groups[:_NAMES_AT_MOST])
        more = ", ..." if len(self.optics_groups) > _NAMES_AT_MOST else ""
        plural = "s" if len(self.optics_groups) > 1 else ""
        return f"{self.n_particles} of {self.grid} (optics group{plural} {names}{more})"


def find_resampled(particles: Particles, common: ImageGrid) -> tuple[Resampled, ...]:
    """What has to be resampled to the common grid."""
    grids, grid_index = find_grids(particles)
    found = []
    for number, grid in enumerate(grids):
        if grid != common:
            mine = grid_index == number
            groups = np.unique(particles.optics_index[mine])
            names = tuple(particles.optics[group].name for group in groups)
            found.append(Resampled(grid, int(np.count_nonzero(mine)), names))
    return tuple(found)


def resampler_to(common: ImageGrid, grid: ImageGrid) -> Resampler | None:
    """What takes images from a grid to the common one; None where they are on it already.

    Noise of standard deviation s in pixels of width p has the power density s^2 p^2. Where the backgrounds are
    normalised to s = 1 the images are in units of the noise, so that of two groups of the same dose per area, the one
    with pixels twice as large has twice the signal. Times p' / p all have the power density p'^2 on the common grid
    and with it the same signal. Images that are not to be normalised are taken to be so already.
    """
    if grid == common:
        return None
    factor = common.pixel_size_A / grid.pixel_size_A
    return Resampler(
        grid.box_size_px, grid.pixel_size_A, common.box_size_px, common.pixel_size_A, factor=factor
    )


def box_sizes(particles: Particles, stacks: Mapping[int, MrcStack]) -> tuple[int, ...]:
    """Box size of each optics group, as its stacks have it; as the file says for one without particles.

    Parameters
    ----------
    stacks: by index, all that are used.

    Raises
    ------
    ImageStackError: the stacks of a group differ, or have another box size than the particle file says.
    """
    n_groups = len(particles.optics)
    pairs = particles.stack_index.astype(np.int64) * n_groups + particles.optics_index
    used, first_row = np.unique(pairs, return_index=True)
    first_stack: dict[int, MrcStack] = {}
    boxes = [group.box_size_px for group in particles.optics]
    for pair, row in zip(used.tolist(), first_row.tolist(), strict=True):
        stack, number = stacks[pair // n_groups], pair % n_groups
        group, first = particles.optics[number], first_stack.setdefault(number, stack)
        if stack.box_size_px != first.box_size_px:
            raise ImageStackError(
                f"{stack.path}: box size {stack.box_size_px} px, but {first.path} of the same optics group "
                f"{group.name!r} has {first.box_size_px}; give them optics groups of their own, with their pixel "
                f"sizes. (First used by {describe_particle(particles, row)}.)"
            )
        if group.box_size_px not in (0, stack.box_size_px):
            raise ImageStackError(
                f"{particles.source}: optics group {group.name!r}: the box size is {group.box_size_px} px, but "
                f"the images of {stack.path} have {stack.box_size_px} px; are these the stacks that this "
                "file was made from?"
            )
        boxes[number] = stack.box_size_px
    return tuple(boxes)

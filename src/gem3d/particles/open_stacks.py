"""The stacks of a particle set, found and held against what the set asks of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gem3d.errors import ImageStackError
from gem3d.particles.image_names import describe_particle
from gem3d.particles.mrc_stack import MrcStack, read_stack_header
from gem3d.particles.particles import Particles
from gem3d.particles.stack_paths import find_stack


def open_stacks(particles: Particles, datadir: Path | None) -> dict[int, MrcStack]:
    """Find and read the header of each stack that is used, and see that it holds every image asked of it.

    Returns
    -------
    Headers by the index of the stack.

    Raises
    ------
    ImageStackError: a stack is missing, unreadable or truncated, or lacks an image.
    """
    used, first_row = np.unique(particles.stack_index, return_index=True)
    if used.size == 0:
        raise ImageStackError(f"{particles.source}: no particles, so no images to read.")
    last_image = np.full(len(particles.stacks), -1, np.int64)
    np.maximum.at(last_image, particles.stack_index, particles.image_index)

    stacks: dict[int, MrcStack] = {}
    for stack, row in zip(used.tolist(), first_row.tolist(), strict=True):
        where = f"{describe_particle(particles, row)}, column {particles.image_column}"
        path = find_stack(particles.stacks[stack], particles.source, where, datadir)
        try:
            header = read_stack_header(path)
        except ImageStackError as error:
            raise ImageStackError(f"{error} (First used by {describe_particle(particles, row)}.)") from None
        if last_image[stack] >= header.n_images:
            beyond = (particles.stack_index == stack) & (particles.image_index >= header.n_images)
            who = describe_particle(particles, int(np.argmax(beyond)))
            raise ImageStackError(
                f"{particles.source}: {who}, column {particles.image_column}: {path} "
                f"holds only {header.n_images} images; is it the stack this file was made from?"
            )
        stacks[stack] = header
    return stacks

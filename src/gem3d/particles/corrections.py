"""Particles with something about them put right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gem3d.errors import ParticleFileError
from gem3d.particles.particles import Particles
from gem3d.particles.poses import mirror_poses


def with_pixel_size(particles: Particles, pixel_size_A: float) -> Particles:
    """The same particles where the file's pixel size is wrong.

    Shifts were measured in pixels, so in A they change with it. Defocus and aberrations stay as they are.

    Raises
    ------
    ParticleFileError: the optics groups have several pixel sizes.
    """
    sizes_A = sorted({group.pixel_size_A for group in particles.optics})
    if len(sizes_A) > 1:
        raise ParticleFileError(
            f"{particles.source}: --pixel-size {pixel_size_A:g}: the optics groups have several "
            f"({', '.join(f'{size:g}' for size in sizes_A)} A), which one value cannot replace; take those of one "
            "group (--select rlnOpticsGroup==1), or correct the file"
        )
    return replace(
        particles,
        optics=tuple(replace(group, pixel_size_A=pixel_size_A) for group in particles.optics),
        shifts_A=particles.shifts_A * (pixel_size_A / sizes_A[0]),
    )


def of_the_other_hand(particles: Particles) -> Particles:
    """The poses at which the mirrored map has the same images."""
    return replace(particles, rotations=mirror_poses(particles.rotations))


def without_unused_optics(particles: Particles) -> Particles:
    """Only the optics groups that the particles are of, in the same order."""
    used, index = np.unique(particles.optics_index, return_inverse=True)
    if len(used) == len(particles.optics):
        return particles
    groups = tuple(particles.optics[group] for group in used.tolist())
    return replace(particles, optics=groups, optics_index=index.reshape(-1).astype(np.int32))

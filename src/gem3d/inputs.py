"""The settings held against the data: what a reconstruction starts from, or why it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import FloatVolume
from gem3d.errors import ParticleFileError, SettingsError, warn
from gem3d.fit.half_sets import assign_halves
from gem3d.input_settings import InputSettings
from gem3d.maps import read_mask
from gem3d.particles import ImageSource, Particles
from gem3d.particles.image_names import describe_particle
from gem3d.particles.plausibility import Finding, check_values
from gem3d.settings import PassSettings, RefineSettings
from gem3d.subsets import chooses, read_chosen

# Where no diameter is given, the background lies outside this share of the box.
BACKGROUND_DIAMETER_BOXES = 0.9
# A particle or a resolution smaller than this in the image is a slip of the unit.
FEWEST_PIXELS_ACROSS = 8
FEWEST_SHELLS = 4
MASK_PIXEL_TOLERANCE = 0.01


def open_images(particle_file: str | Path, settings: InputSettings) -> ImageSource:
    """The particles that the settings choose, their stacks all there."""
    images = open_stacks(read_input(particle_file, settings), settings)
    check_values(images.particles)
    return images


def read_input(particle_file: str | Path, settings: InputSettings) -> Particles:
    """The particles that the settings choose."""
    return read_chosen(particle_file, settings, ignore_extras=settings.ignore_optics_extras)


def open_stacks(particles: Particles, settings: InputSettings) -> ImageSource:
    """Their images, as the settings have them taken."""
    return ImageSource(particles, settings.datadir, invert=settings.invert, binning=settings.bin)


def find_images(particle_file: str | Path, settings: PassSettings) -> tuple[ImageSource, NDArray[np.int8]]:
    """Particles whose stacks are all there, and the half set of each."""
    images = open_images(particle_file, settings)
    halves = settle_halves(particle_file, images.particles, settings, settings.seed)
    _refuse_shared_images(particle_file, images, halves)
    return images, halves


def settle_halves(
    particle_file: str | Path, particles: Particles, settings: InputSettings, seed: int
) -> NDArray[np.int8]:
    """The half set of each particle, 1 or 2: from the file, or drawn."""
    column = particles.half_set_column
    drawn = settings.halves == "random"
    if not drawn and not particles.half_set.any():
        warn(
            f"{particle_file}: column {column} is missing, so the half sets are drawn at random; if all "
            "particles were refined together, the half maps are not independent and the resolution is optimistic"
        )
    halves = assign_halves(
        particles.half_set,
        particles.source_row,
        seed,
        random=drawn,
        source=str(particle_file),
    )
    for half in (1, 2):
        if not (halves == half).any():
            raise ParticleFileError(
                f"{particle_file}: column {column}: no particle is in half set {half}; "
                + (f"choose more than these {len(halves)}" if chooses(settings) else "complete the file")
                + ", or ask for random halves (--halves random)"
            )
    return halves


def _refuse_shared_images(particle_file: str | Path, images: ImageSource, halves: NDArray[np.int8]) -> None:
    """Refuse images that are in both half sets, and warn of those that are in one of them twice."""
    finding = find_shared_images(particle_file, images.particles, images.image_ids(), halves)
    if finding is not None and finding.refused:
        raise ParticleFileError(finding.message)
    if finding is not None:
        warn(finding.message)


def find_shared_images(
    particle_file: str | Path, particles: Particles, image_ids: NDArray[np.int64], halves: NDArray[np.int8]
) -> Finding | None:
    """Whether images are listed more than once; in both half sets they must not be.

    Parameters
    ----------
    image_ids: `(n,)`, alike for particles that refer to one image.
    """
    order = np.argsort(image_ids, kind="stable")
    alike = image_ids[order[1:]] == image_ids[order[:-1]]
    earlier, later = order[:-1][alike], order[1:][alike]
    apart = halves[earlier] != halves[later]
    if apart.any():
        n = len(np.unique(image_ids[later[apart]]))
        return Finding(
            True,
            f"{particle_file}: {n} image{' is' if n == 1 else 's are'} in both half sets, the first as "
            f"{_first_pair(particles, earlier[apart], later[apart])}: the half maps then share noise, and "
            "every resolution comes out too fine. Remove the repeated rows; where they are meant (symmetry "
            f"expansion), give all rows of an image the same {particles.half_set_column}",
        )
    if len(later) > 0:
        n = len(later)
        return Finding(
            False,
            f"{particle_file}: {n} row{' repeats' if n == 1 else 's repeat'} the image of an earlier one, the first "
            f"pair being {_first_pair(particles, earlier, later)}: it counts as often as it is listed. Unless "
            "that is meant (symmetry expansion), remove the repeated rows",
        )
    return None


def _first_pair(particles: Particles, earlier: NDArray[np.int64], later: NDArray[np.int64]) -> str:
    first = np.argmin(earlier)
    return " and ".join(describe_particle(particles, int(rows[first])) for rows in (earlier, later))


def refuse_without_micrographs(particles: Particles, refinement: RefineSettings) -> None:
    """Refuse a value for each micrograph where all particles seem to be of one."""
    if len(np.unique(particles.micrograph_index)) > 1:
        return
    for option, how in (("--defocus", refinement.defocus), ("--contrast", refinement.contrast)):
        if how == "micrograph":
            raise SettingsError(
                f"{option} micrograph: {particles.source} does not tell the particles' micrographs apart (column "
                f"rlnMicrographName, or location/micrograph_uid); add it, or use {option} particle"
            )


def background_diameter_A(given_A: float | None, box_size: int, pixel_size_A: float) -> float:
    """Diameter in A of the sphere that holds the particle; background lies outside."""
    if given_A is None:
        return BACKGROUND_DIAMETER_BOXES * box_size * pixel_size_A
    smallest_A, largest_A = FEWEST_PIXELS_ACROSS * pixel_size_A, (box_size - 2) * pixel_size_A
    if not smallest_A <= given_A <= largest_A:
        raise SettingsError(
            f"--particle-diameter {given_A:g}: give {smallest_A:.0f} to {largest_A:.0f} A; the box is "
            f"{box_size * pixel_size_A:.0f} A wide and needs some background"
        )
    return given_A


def last_shell_of(max_resolution_A: float | None, box_size: int, pixel_size_A: float) -> int:
    """Last Fourier shell to use: never Nyquist itself, of which an even box holds only half."""
    last = (box_size - 1) // 2
    if max_resolution_A is None:
        return last
    if max_resolution_A < 2 * pixel_size_A:
        warn(
            f"--max-resolution {max_resolution_A:g} is finer than Nyquist; {2 * pixel_size_A:g} A is used, two "
            "pixels"
        )
        return last
    shell = int(box_size * pixel_size_A / max_resolution_A + 1e-6)
    if shell < FEWEST_SHELLS:
        raise SettingsError(
            f"--max-resolution {max_resolution_A:g}: leaves {shell} Fourier shells of a box of "
            f"{box_size * pixel_size_A:.0f} A; give {box_size * pixel_size_A / FEWEST_SHELLS:.1f} A or finer"
        )
    return min(shell, last)


def measuring_mask(path: Path, box_size: int, pixel_size_A: float) -> FloatVolume:
    """The mask given by the user, on the box of the particles."""
    found = read_mask(path, box_size)
    if found.voxel_size_A > 0 and abs(found.voxel_size_A / pixel_size_A - 1) > MASK_PIXEL_TOLERANCE:
        warn(
            f"{path}: the mask's voxels are {found.voxel_size_A:g} A wide, the particles' pixels "
            f"{pixel_size_A:g} A; it is used as if they were alike"
        )
    return found.values

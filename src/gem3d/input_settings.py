"""What the user says of the particles: which they are, where their images lie, and how to take them.

The text under each field is the option's help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from gem3d.errors import SettingsError
from gem3d.option_help import Flag, helped_by_docstrings
from gem3d.particles.selection import parse_selection


@helped_by_docstrings
@dataclass(frozen=True)
class ParticleSettings:
    """Settings of every command that reads a particle file: which particles to take, and what to correct."""

    datadir: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the folder of the particle file)")
    ] = None
    """Folder that the image paths in the particle file begin in: the project folder of RELION or cryoSPARC. Give it
    when the stacks are not found."""
    passthrough: Annotated[
        tuple[Path, ...], arg(metavar="CS", help_behavior_hint="(repeatable)"), UseAppendAction
    ] = ()
    """Passthrough file of the same cryoSPARC job (..._passthrough_particles.cs), where the particle file lacks
    columns that are in it."""
    poses: Annotated[Path | None, arg(metavar="PKL", help_behavior_hint="(default: none)")] = None
    """Poses as cryoDRGN keeps them (poses.pkl). PARTICLES then lists the images only: a stack (.mrcs), a text file of
    stacks (.txt), or a STAR file, in the order of the poses."""
    ctf_table: Annotated[
        Path | None, arg(name="ctf", metavar="PKL", help_behavior_hint="(default: none)")
    ] = None
    """CTFs that go with these poses, as cryoDRGN keeps them (ctf.pkl); the pixel size is taken from there, too."""
    ctf: Flag = True
    """The images have no CTF, as simulated or already corrected ones may; its columns are not read."""
    first: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Take only the first N particles of the file (of those that --ind and --select keep), for a quick look. They
    stay in the half sets that the file says."""
    ind: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: all)")] = None
    """Take only the particles listed in a file, by their row counted from 0: a pickle as cryoDRGN writes it, a .npy
    file, or text with one number a line; an array of booleans, one a row, says which to keep."""
    select: Annotated[str | None, arg(metavar="EXPR", help_behavior_hint="(default: all)")] = None
    """Take only the particles that an expression over the file's own columns holds for, such as
    "rlnClassNumber==2 and rlnDefocusU<20000" or "rlnOpticsGroupName!='tilted'". It has == != < <= > >=, and, or, not
    and brackets; text stands in quotes. Columns of data_optics count as the particles'."""
    pixel_size_A: Annotated[
        float | None, arg(name="pixel-size", metavar="A", help_behavior_hint="(default: as the file says)")
    ] = None
    """Pixel size of the images in A, where the file has a wrong one. Maps, resolution and shifts follow. Defocus
    stays: if it was estimated with the wrong pixel size, it is off by the square of the ratio, so refine it."""
    flip_hand: Flag = False
    """Make the other hand: the mirror image, z to -z about the box centre, and poses to match, which the images fit
    equally well. All maps, Gaussians and refined particles are of that hand; a --mask or --reference must be, too."""

    def __post_init__(self) -> None:
        if self.first is not None and self.first < 1:
            raise SettingsError(f"--first {self.first}: give 1 or more")
        if self.pixel_size_A is not None and not 0 < self.pixel_size_A < math.inf:
            raise SettingsError(f"--pixel-size {self.pixel_size_A:g}: give a positive number of A")
        if self.select is not None:
            parse_selection(self.select)


@helped_by_docstrings
@dataclass(frozen=True)
class InputSettings(ParticleSettings):
    """Settings of every command that reads images."""

    halves: Literal["auto", "random"] = "auto"
    """Half sets: `auto` takes those of the particle file (rlnRandomSubset, alignments3D/split) and draws
    them where it has none; `random` always draws. Halves that a refinement kept apart must stay apart, so leave this
    alone then."""
    invert: Flag = False
    """Take the images times -1: for stacks in which particles are dark. They must be bright (white), as RELION and
    cryoSPARC extract them; the map comes out as holes otherwise."""
    normalise: Flag = True
    """Leave the images as they are. Without this option each image's background is given mean 0 and standard
    deviation 1, which harms nothing where it was done before."""
    bin: Annotated[float, arg(metavar="B")] = 1.0
    """Make pixels B times as large, for speed: images are cut off in Fourier space as they are read, and the maps
    have such pixels, too, two of which limit the resolution. Where optics groups differ in pixel or box size, B is of
    the pixels that most particles have, and images of the other groups are taken to the same grid."""
    ignore_optics_extras: Flag = False
    """Go on where the file asks for something that is not modelled, as if it did not: aberrations beyond the fourth
    degree, premultiplied images, or a cryoSPARC file's beam tilt, aberrations and magnification. Costs resolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bin < math.inf:
            raise SettingsError(f"--bin {self.bin:g}: give 1 or more")

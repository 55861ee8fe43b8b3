"""What the user says of the particles: which they are, where their images lie, and how to take them.

The text under each field is the option's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from gem3d.option_help import Flag, helped_by_docstrings


@helped_by_docstrings
@dataclass(frozen=True)
class InputSettings:
    """Settings of every command that reads particles."""

    datadir: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the folder of the STAR file)")
    ] = None
    """Folder that the image paths in the particle file begin in: for RELION, the project folder. Give it when the
    stacks are not found."""
    poses: Annotated[Path | None, arg(metavar="PKL", help_behavior_hint="(default: none)")] = None
    """Poses as cryoDRGN keeps them (poses.pkl). PARTICLES then lists the images only: a stack (.mrcs), a text file of
    stacks (.txt), or a STAR file, in the order of the poses."""
    ctf_table: Annotated[
        Path | None, arg(name="ctf", metavar="PKL", help_behavior_hint="(default: none)")
    ] = None
    """CTFs that go with these poses, as cryoDRGN keeps them (ctf.pkl); the pixel size is taken from there, too."""
    halves: Literal["auto", "random"] = "auto"
    """Half sets: `auto` takes those of the particle file (rlnRandomSubset) and draws them where it has none;
    `random` always draws. Halves that a refinement kept apart must stay apart, so leave this alone then."""
    ctf: Flag = True
    """The images have no CTF, as simulated or already corrected ones may; its columns are not read."""
    normalise: Flag = True
    """Leave the images as they are. Without this option each image's background is given mean 0 and standard
    deviation 1, which harms nothing where it was done before."""
    ignore_optics_extras: Flag = False
    """Go on where the file asks for beam tilt, higher aberrations, a magnification matrix or premultiplied images,
    none of which is modelled yet, as if it did not. Costs resolution."""

"""What the user says of the particles: which they are, where their images lie, and how to take them.

The text under each field is the option's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from gem3d.option_help import Flag, helped_by_docstrings


@helped_by_docstrings
@dataclass(frozen=True)
class InputSettings:
    """Settings of every command that reads particles."""

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
    halves: Literal["auto", "random"] = "auto"
    """Half sets: `auto` takes those of the particle file (rlnRandomSubset, alignments3D/split) and draws
    them where it has none; `random` always draws. Halves that a refinement kept apart must stay apart, so leave this
    alone then."""
    ctf: Flag = True
    """The images have no CTF, as simulated or already corrected ones may; its columns are not read."""
    normalise: Flag = True
    """Leave the images as they are. Without this option each image's background is given mean 0 and standard
    deviation 1, which harms nothing where it was done before."""
    ignore_optics_extras: Flag = False
    """Go on where the file asks for beam tilt, higher aberrations, a magnification matrix or premultiplied images,
    none of which is modelled yet, as if it did not. Costs resolution."""

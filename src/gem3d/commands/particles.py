"""Commands that start from particles.

The text under each field is the option's help.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from gem3d.commands.options import Overwrite, PathArgument
from gem3d.input_settings import InputSettings, ParticleSettings
from gem3d.option_help import Flag, helped_by_docstrings
from gem3d.settings import ReconstructSettings, RefineSettings
from gem3d.summary_table import print_run


@helped_by_docstrings
@dataclass(frozen=True)
class Inspect:
    """Look at a particle set in a few seconds, and say what a reconstruction would make of it.

    Reads all metadata and up to 1,000 images: optics, half sets, ranges, views, missing stacks and where they may be,
    the sign of the contrast, images that cannot be used, and about how long a reconstruction would take. Lists every
    problem, not only the first. Exits with 0 where a reconstruction would take the set, with 2 where it would refuse.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """RELION STAR file of a finished 3D refinement (run_data.star), version 3.0 to 5."""
    json: Flag = False
    """Print one JSON object instead, for scripts: docs/inspect.md has its keys."""
    settings: Annotated[InputSettings, arg(name="")] = field(default_factory=InputSettings)

    def run(self) -> None:
        from gem3d.inspect_particles import inspect_particles
        from gem3d.inspection_table import as_json, print_inspection

        found = inspect_particles(self.particles, self.settings)
        if self.json:
            print(as_json(found))
        else:
            print_inspection(found)
        if found.problems:
            sys.exit(2)


@helped_by_docstrings
@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct a refined particle set: half maps, a final map and its resolution.

    Poses and CTFs are taken from the STAR file as they are, unless --refine is given.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """Particle file of a finished 3D refinement: RELION's (run_data.star, version 3.0 to 5) or cryoSPARC's
    (..._particles.cs)."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results: report.html, map.mrc, half maps, mask.mrc, fsc.csv, summary.json, the Gaussians,
    run.log and more, the maps on the box and pixel size of the particles. Made if need be; refused when it holds
    files."""
    refine: Flag = False
    """Refine poses, shifts, defocus and contrast first, as `gem3d refine` does with its defaults."""
    settings: Annotated[ReconstructSettings, arg(name="")] = field(default_factory=ReconstructSettings)

    def run(self) -> None:
        from gem3d.reconstruct import reconstruct

        refinement = RefineSettings() if self.refine else None
        result = reconstruct(self.particles, self.out, self.settings, refinement)
        if not self.settings.quiet:
            print_run(result.summary, self.out)


@helped_by_docstrings
@dataclass(frozen=True)
class Refine:
    """Refine poses locally, half against half, then reconstruct: better maps where poses are a little wrong.

    Each half is refined against its own Gaussian map: orientation, shift, defocus and contrast of every particle, in
    rounds of reconstruction and refinement until the calibrated FSC gains no more. Writes what `gem3d reconstruct`
    does, and particles_refined.star, refinement.csv and refinement.html.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """Particle file of a finished 3D refinement: RELION's (run_data.star, version 3.0 to 5) or cryoSPARC's
    (..._particles.cs)."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results. Made if need be; refused when it holds files."""
    refinement: Annotated[RefineSettings, arg(name="")] = field(default_factory=RefineSettings)
    settings: Annotated[ReconstructSettings, arg(name="")] = field(default_factory=ReconstructSettings)

    def run(self) -> None:
        from gem3d.reconstruct import reconstruct

        result = reconstruct(self.particles, self.out, self.settings, self.refinement)
        if not self.settings.quiet:
            print_run(result.summary, self.out)


@helped_by_docstrings
@dataclass(frozen=True)
class Convert:
    """Write particles as a RELION STAR file: some of them, with another pixel size or hand, or from another format.

    Of a STAR file, what does not change is kept word for word, columns unknown to gem3d included, and so is its
    version: 3.0 stays 3.0. No image is written. Half sets stay as they are; where there are none, none are drawn.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """Particle file of a finished 3D refinement: RELION's (run_data.star, version 3.0 to 5) or cryoSPARC's
    (..._particles.cs)."""
    out: Annotated[Path, arg(metavar="FILE")]
    """STAR file to write. Paths of stacks are kept: use it from where the source was used, such as RELION's project
    folder. From other formats, absolute paths are written where the stacks are found; with --datadir they must be."""
    overwrite: Overwrite = False
    settings: Annotated[ParticleSettings, arg(name="")] = field(default_factory=ParticleSettings)

    def run(self) -> None:
        from gem3d.convert import convert
        from gem3d.progress import Reporter

        reporter = Reporter()
        with reporter.recording():
            written = convert(self.particles, self.out, self.settings, overwrite=self.overwrite)
        reporter.say(f"{self.out}: {len(written)} particles")

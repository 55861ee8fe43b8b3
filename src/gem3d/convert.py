"""From any particle file to a RELION STAR file."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from gem3d.atomic import refusing, replacing
from gem3d.errors import Gem3dWarning, ImageStackError, RunDirectoryError, warn
from gem3d.input_settings import ParticleSettings
from gem3d.particles import ImageSource, Particles, write_relion_star
from gem3d.subsets import read_chosen


def convert(
    particle_file: str | Path,
    out: str | Path,
    settings: ParticleSettings | None = None,
    *,
    overwrite: bool = False,
) -> Particles:
    """Write the particles that the settings choose as a STAR file, and return them.

    Parameters
    ----------
    particle_file: in any format that `read_particles` reads. Blocks and columns of a STAR file are kept, see
        `write_relion_star`.
    out: file to write; it appears whole or not at all.

    Raises
    ------
    Gem3dError: the input or the settings are at fault, `out` is there already, or, with `settings.datadir`, a stack
        is not found.
    """
    out, settings = Path(out), settings or ParticleSettings()
    if out.suffix.lower() != ".star":
        raise RunDirectoryError(f"{out}: only STAR files are written; give a name that ends in .star")
    if out.resolve() == Path(particle_file).resolve():
        raise RunDirectoryError(f"{out}: is the file to be read; give another name")
    with refusing(out):
        is_there = out.is_dir() or (out.exists() and not overwrite)
    if is_there:
        raise RunDirectoryError(
            f"{out}: is there already; give another name, or replace a file with --overwrite"
        )
    with warnings.catch_warnings():
        if Path(particle_file).suffix.lower() == ".star":
            # Optics that reconstructions do not model are kept, with all other columns.
            warnings.filterwarnings("ignore", ".*It is ignored, as asked", Gem3dWarning)
        particles = read_chosen(particle_file, settings, ignore_extras=True)
    template = particles.template
    if settings.datadir is not None:
        particles = _with_absolute_paths(particles, settings.datadir)
    elif template is None:
        try:
            particles = _with_absolute_paths(particles, None)
        except ImageStackError as missing:
            warn(f"{missing} The names of the stacks are written as they are in {particle_file}.")
            names = tuple(_as_relion_name(name) for name in particles.stacks)
            particles = replace(particles, stacks=names)
    with replacing(out) as temporary:
        write_relion_star(particles, temporary, template=template)
    return particles


def _with_absolute_paths(particles: Particles, datadir: Path | None) -> Particles:
    images = ImageSource(particles, datadir)
    found = images.stack_files()
    stacks = (
        _as_relion_name(str(found[index].absolute())) if index in found else name
        for index, name in enumerate(particles.stacks)
    )
    return replace(images.particles, stacks=tuple(stacks))


def _as_relion_name(stack: str) -> str:
    """RELION takes a file of another suffix for a volume, unless told so after a colon."""
    return stack if stack.endswith(".mrcs") else f"{stack}:mrcs"

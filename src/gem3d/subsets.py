"""The particles that the settings choose from a file, corrected as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError, warn
from gem3d.input_settings import ParticleSettings
from gem3d.particles import Particles, read_particles
from gem3d.particles.columns import find_column, open_columns
from gem3d.particles.corrections import of_the_other_hand, with_pixel_size, without_unused_optics
from gem3d.particles.row_list import read_row_list
from gem3d.particles.selection import columns_of, parse_selection, select

_MOST_TEXTS = 5


def read_chosen(
    particle_file: str | Path, settings: ParticleSettings, *, ignore_extras: bool = False
) -> Particles:
    """Read a particle file and take from it what the settings choose, in the order of the file.

    Parameters
    ----------
    ignore_extras: as in `read_particles`.

    Raises
    ------
    Gem3dError: the file, the list of rows or the expression is at fault, or no particle is left.
    """
    particles = read_particles(
        particle_file,
        ctf=settings.ctf,
        ignore_extras=ignore_extras,
        passthrough=settings.passthrough,
        poses=settings.poses,
        ctf_table=settings.ctf_table,
        datadir=settings.datadir,
        pixel_size_A=settings.pixel_size_A,
    )
    if chooses(settings):
        particles = without_unused_optics(particles.subset(_chosen(particles, settings)))
    if settings.pixel_size_A is not None:
        particles = with_pixel_size(particles, settings.pixel_size_A)
    return of_the_other_hand(particles) if settings.flip_hand else particles


def chooses(settings: ParticleSettings) -> bool:
    """Whether the settings may leave out particles."""
    return any(option is not None for option in (settings.first, settings.ind, settings.select))


def _chosen(particles: Particles, settings: ParticleSettings) -> NDArray[np.int64]:
    kept = np.ones(len(particles), dtype=bool)
    if settings.ind is not None:
        rows = read_row_list(settings.ind, int(particles.source_row.max()) + 1)
        kept &= np.isin(particles.source_row, rows)
        if not kept.any():
            raise ParticleFileError(f"{settings.ind}: keeps none of the particles of {particles.source}")
    if settings.select is not None:
        kept &= _selected(particles, settings.select, settings.passthrough)
        if not kept.any():
            raise ParticleFileError(
                f"{particles.source}: --ind and --select {settings.select!r} leave no particle that both keep"
            )
    chosen = np.flatnonzero(kept)
    if settings.first is not None and settings.first > len(chosen):
        warn(f"--first {settings.first}: there are {len(chosen)} particles; all are taken")
    return chosen[: settings.first]


def _selected(particles: Particles, expression: str, passthrough: Sequence[Path]) -> NDArray[np.bool_]:
    selection, path = parse_selection(expression), particles.source
    columns = open_columns(path, passthrough)
    names = {name: find_column(columns, name, path) for name in columns_of(selection)}
    selected = select(selection, lambda name: columns.values(names[name]))[particles.source_row]
    if not selected.any():
        found = "; ".join(f"{name}: {_describe(columns.values(name))}" for name in names.values())
        raise ParticleFileError(f"{path}: --select {expression!r} keeps no particle ({found})")
    return selected


def _describe(values: NDArray[np.generic]) -> str:
    if values.dtype.kind in "biuf":
        return f"{values.min():g} to {values.max():g}"
    texts = list(dict.fromkeys(values.tolist()))
    more = ", ..." if len(texts) > _MOST_TEXTS else ""
    return ", ".join(repr(text) for text in texts[:_MOST_TEXTS]) + more

"""The list of images that a run has left out, for RELION and for the eye."""

from __future__ import annotations

from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.atomic import replacing
from gem3d.errors import ParticleFileError
from gem3d.particles.excluded import ExcludedImages
from gem3d.particles.particles import Particles
from gem3d.particles.star_table import find_tables, read_star, write_star_table
from gem3d.particles.write_relion_star import write_relion_star

REASON_COLUMN = "gem3dExcluded"
"""Column of our own, with the name of the reason (`gem3d.particles.excluded.REASONS`); RELION keeps it."""


def write_excluded(particles: Particles, excluded: ExcludedImages, path: Path) -> None:
    """Write the rows of the particles left out, word for word as their STAR file has them, with the reason.

    Particles that come from no STAR file, or from one that has gone or is shorter now, are written in RELION 3.1's
    form.

    Raises
    ------
    RunDirectoryError: the file cannot be written.
    """
    rows = excluded.rows
    source_rows, first = np.unique(particles.source_row[rows], return_index=True)
    reasons = [excluded.reasons()[i] for i in first.tolist()]
    with replacing(path) as temporary:
        try:
            _copy_rows(particles.source, source_rows, reasons, temporary)
        except ParticleFileError:
            write_relion_star(particles.subset(rows[first]), temporary, own_columns={REASON_COLUMN: reasons})


def _copy_rows(source: Path, rows: NDArray[np.int32], reasons: list[str], path: Path) -> None:
    if source.suffix.lower() != ".star":
        raise ParticleFileError(f"{source}: no STAR file")
    tables = read_star(source)
    table, optics = find_tables(tables, source)
    chosen = np.zeros(len(table), bool)
    if rows.max() >= len(table):
        raise ParticleFileError(f"{source}: has become shorter")
    chosen[rows] = True
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for block in tables:
            columns = {column: block.raw(column) for column in block.columns}
            if block is table:
                columns = {name: compress(values, chosen) for name, values in columns.items()}
                columns[REASON_COLUMN] = reasons
            if columns:
                write_star_table(file, block.name, columns, version=None if optics is None else 30001)

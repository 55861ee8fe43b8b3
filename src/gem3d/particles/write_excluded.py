"""The list of images that a run has left out, for RELION and for the eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gem3d.atomic import replacing
from gem3d.errors import ParticleFileError
from gem3d.particles.excluded import ExcludedImages
from gem3d.particles.particles import Particles
from gem3d.particles.write_relion_star import write_relion_star

REASON_COLUMN = "gem3dExcluded"
"""Column of our own, with the name of the reason (`gem3d.particles.excluded.REASONS`); RELION keeps it."""


def write_excluded(particles: Particles, excluded: ExcludedImages, path: Path) -> None:
    """Write the rows of the particles left out, as their STAR file has them, with the reason.

    Particles that come from no STAR file, or from one that has gone or is shorter now, are written in RELION 3.1's
    form.

    Raises
    ------
    RunDirectoryError: the file cannot be written.
    """
    _, first = np.unique(particles.source_row[excluded.rows], return_index=True)
    left_out = particles.subset(excluded.rows[first])
    reasons = excluded.reasons()
    own = {REASON_COLUMN: [reasons[i] for i in first.tolist()]}
    with replacing(path) as temporary:
        try:
            write_relion_star(left_out, temporary, template=particles.template, own_columns=own)
        except ParticleFileError:
            write_relion_star(left_out, temporary, own_columns=own)

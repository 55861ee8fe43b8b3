"""One door for every particle format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gem3d.errors import ParticleFileError
from gem3d.particles.cryosparc import read_cryosparc
from gem3d.particles.particles import Particles
from gem3d.particles.relion_star import read_relion_star


def read_particles(
    path: Path | str, *, ctf: bool = True, ignore_extras: bool = False, passthrough: Sequence[Path] = ()
) -> Particles:
    """Read a refined particle set in any supported format, chosen by the file's suffix.

    Parameters
    ----------
    path: a RELION STAR file (`.star`) or a cryoSPARC particle file (`.cs`).
    ctf, ignore_extras: as in `read_relion_star`.
    passthrough: as in `read_cryosparc`.
    """
    path = Path(path)
    if path.suffix.lower() == ".cs":
        return read_cryosparc(path, ctf=ctf, ignore_extras=ignore_extras, passthrough=passthrough)
    if passthrough:
        raise ParticleFileError(
            f"{path}: --passthrough is for cryoSPARC's particle files (.cs); leave it out for this one."
        )
    if path.suffix.lower() == ".star":
        return read_relion_star(path, ctf=ctf, ignore_extras=ignore_extras)
    raise ParticleFileError(
        f"{path}: {path.suffix or 'a file without suffix'} is not a particle format this version reads; "
        "give a RELION STAR file (.star) or a cryoSPARC particle file (.cs)."
    )

"""One door for every particle format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gem3d.errors import ParticleFileError, SettingsError
from gem3d.particles.cryodrgn import read_cryodrgn
from gem3d.particles.cryosparc import read_cryosparc
from gem3d.particles.image_lists import is_image_list
from gem3d.particles.particles import Particles
from gem3d.particles.relion_star import read_relion_star


def read_particles(
    path: Path | str,
    *,
    ctf: bool = True,
    ignore_extras: bool = False,
    passthrough: Sequence[Path] = (),
    poses: Path | None = None,
    ctf_table: Path | None = None,
    datadir: Path | None = None,
    pixel_size_A: float | None = None,
) -> Particles:
    """Read a refined particle set in any supported format, chosen by the file's suffix.

    Parameters
    ----------
    path: a RELION STAR file (`.star`) or a cryoSPARC particle file (`.cs`); with `poses`, a list of images.
    ctf, ignore_extras: as in `read_relion_star`.
    passthrough: as in `read_cryosparc`.
    poses, ctf_table, datadir, pixel_size_A: as in `read_cryodrgn`.
    """
    path = Path(path)
    if passthrough and (poses is not None or path.suffix.lower() != ".cs"):
        raise ParticleFileError(
            f"{path}: --passthrough is for cryoSPARC's particle files (.cs); leave it out for this one."
        )
    if poses is not None:
        return read_cryodrgn(path, poses, ctf_table, ctf=ctf, datadir=datadir, pixel_size_A=pixel_size_A)
    if ctf_table is not None:
        raise SettingsError(
            f"--ctf {ctf_table}: goes with cryoDRGN's poses; give poses.pkl with --poses, or leave it out"
        )
    if path.suffix.lower() == ".cs":
        return read_cryosparc(path, ctf=ctf, ignore_extras=ignore_extras, passthrough=passthrough)
    if is_image_list(path):
        raise ParticleFileError(
            f"{path}: holds images only; give their poses and CTFs with --poses poses.pkl --ctf ctf.pkl (of "
            "cryoDRGN), or the STAR file that has them."
        )
    if path.suffix.lower() == ".star":
        return read_relion_star(path, ctf=ctf, ignore_extras=ignore_extras)
    raise ParticleFileError(
        f"{path}: {path.suffix or 'a file without suffix'} is not a particle format this version reads; "
        "give a RELION STAR file (.star) or a cryoSPARC particle file (.cs)."
    )

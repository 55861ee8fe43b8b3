"""RELION 3.1's reconstruction and projection programs (Debian package `relion`)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from measure import Usage, run_measured

Subset = Literal["half1", "half2", "all"]
SUBSETS: tuple[Subset, ...] = ("half1", "half2", "all")
_NUMBER = {"half1": "1", "half2": "2", "all": "-1"}

MISSING = "RELION is absent (Debian: apt-get install relion, version 3.1.3): nothing to compare with"

# Open MPI refuses to run as root, as containers do, and more ranks than it believes there are cores.
MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


def available() -> bool:
    return shutil.which("relion_reconstruct") is not None


def mpi_available() -> bool:
    return shutil.which("relion_reconstruct_mpi") is not None and shutil.which("mpirun") is not None


def version() -> str:
    """Version number, empty where the program is absent."""
    if not available():
        return ""
    said = subprocess.run(["relion_reconstruct", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version:\s*(\S+)", said)
    return found.group(1) if found else "unknown"


def reconstruct(folder: Path, subset: Subset, out: Path, *, mpi_ranks: int = 0) -> Usage:
    """Reconstruct `particles.star` of a folder with CTF correction and the program's defaults otherwise."""
    program = (
        ["relion_reconstruct"]
        if not mpi_ranks
        else ["mpirun", "-n", str(mpi_ranks), "relion_reconstruct_mpi"]
    )
    arguments = ["--i", "particles.star", "--o", str(out), "--ctf", "--subset", _NUMBER[subset]]
    return run_measured(
        [*program, *arguments], cwd=folder, environment=MPI_ENVIRONMENT if mpi_ranks else None
    )


def project(map_file: Path, star: Path, out_root: Path) -> Path:
    """Noise-free images, CTF applied, of the particles of a STAR file; returns the stack."""
    command = ["relion_project", "--i", map_file, "--ang", star, "--o", out_root, "--ctf"]
    run_measured(command, cwd=star.parent)
    return out_root.with_suffix(".mrcs")

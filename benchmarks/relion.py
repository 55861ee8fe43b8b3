"""RELION 3.1's reconstruction, projection and refinement programs (Debian package `relion`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.maps import read_map
from measure import CommandFailed, Usage, run_measured

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


def postprocess_available() -> bool:
    return shutil.which("relion_postprocess") is not None


@dataclass(frozen=True)
class PostProcess:
    """What relion_postprocess says of a pair of half maps.

    corrected: `(D//2 + 1,)` FSC corrected for the mask by phase randomisation.
    resolution_A: as the program states it.
    """

    corrected: NDArray[np.float64]
    resolution_A: float


def postprocess(run: Path, pixel_A: float) -> PostProcess:
    """Judge linear_half1.mrc and linear_half2.mrc of a run in its mask.mrc."""
    out = _postprocess(run, pixel_A, "fsc")
    document = gemmi.cif.read(str(out.with_suffix(".star")))
    column = document.find_block("fsc").find_loop("_rlnFourierShellCorrelationCorrected")
    resolution_A = document.find_block("general").find_value("_rlnFinalResolution")
    return PostProcess(np.array([float(value) for value in column]), float(resolution_A))


@dataclass(frozen=True)
class LocalResolution:
    """What relion_postprocess --locres finds, with its own step and window; windows are not masked.

    map_A: `(D, D, D)`, averages of the sampling points around each voxel.
    points: `(n, 3)` voxels z, y, x of the sampling points.
    corrected: `(n, D//2 + 1)` local FSC at each, corrected by phase randomisation.
    """

    map_A: NDArray[np.float32]
    points: NDArray[np.int64]
    corrected: NDArray[np.float64]


def local_resolution(run: Path, pixel_A: float) -> LocalResolution:
    """Local resolution of the same half maps."""
    out = _postprocess(run, pixel_A, "local", "--locres")
    map_A = read_map(out.with_name(f"{out.name}_locres.mrc")).values
    points, curves = [], []
    # Not quite STAR: rows hold fewer values than the head of their loop names.
    blocks = re.split(r"\ndata_fsc_", out.with_name(f"{out.name}_locres_fscs.star").read_text())
    for block in blocks[1:]:
        name, _, rest = block.partition("\n")
        points.append([int(place) for place in reversed(name.strip().split("_"))])
        rows = (line.split() for line in rest.splitlines())
        curves.append([float(row[3]) for row in rows if len(row) > 3 and row[0].isdigit()])
    return LocalResolution(map_A, np.array(points) + len(map_A) // 2, np.array(curves))


def _postprocess(run: Path, pixel_A: float, name: str, *extra: str) -> Path:
    folder = run / "relion_postprocess"
    # It writes a PDF beside its results, into a folder of their name.
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in ("1", "2"):
        shutil.copy(run / f"linear_half{number}.mrc", folder / f"run_half{number}_class001_unfil.mrc")
    shutil.copy(run / "mask.mrc", folder)
    words = ["--i", "run_half1_class001_unfil.mrc", "--o", f"{name}/{name}", "--mask", "mask.mrc"]
    words += ["--angpix", f"{pixel_A:g}", "--adhoc_bfac", "0", *extra]
    try:
        run_measured(["relion_postprocess", *words], cwd=folder)
    except CommandFailed:
        # Without its plotting program it fails at its very last step, when the results are written.
        if not list((folder / name).glob("*.star")):
            raise
    return folder / name / name


def refine_available() -> bool:
    return shutil.which("relion_refine_mpi") is not None and shutil.which("mpirun") is not None


@dataclass(frozen=True)
class LocalRefinement:
    """How far relion_refine came.

    seconds: until its last finished iteration, or to its end.
    half_maps: of that iteration, unfiltered where it has come to its end.
    star: particles of that iteration.
    """

    iteration: int
    seconds: float
    half_maps: tuple[Path, Path]
    star: Path


def refine_locally(
    folder: Path, out: Path, *, sigma_deg: float, diameter_px: int, pixel_A: float, limit_s: float
) -> LocalRefinement | None:
    """Local searches of `particles.star` half against half, ended after `limit_s`; None if no iteration was done.

    The images are normalised as RELION wants them, and its own reconstruction of them at the given poses is the first
    reference; neither counts in the time. The grid is RELION's order 4 (3.7 degrees, searched twice as finely), where
    its automatic refinement goes over to local searches; from there it goes finer on its own.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    normalise = ["--norm", "--bg_radius", str(diameter_px // 2), "--operate_out", "particles"]
    source = (folder / "particles.mrcs").resolve()
    run_measured(["relion_preprocess", "--operate_on", source, *normalise], cwd=out)
    shutil.copy(folder / "particles.star", out)
    reference = out / "reference.mrc"
    reconstruct(out, "all", reference)
    options = {
        "--i": "particles.star",
        "--ref": reference,
        "--o": out / "run",
        "--ini_high": 8,
        "--particle_diameter": diameter_px * pixel_A,
        "--sym": "C1",
        "--low_resol_join_halves": 40,
        "--oversampling": 1,
        "--healpix_order": 4,
        "--auto_local_healpix_order": 4,
        "--sigma_ang": sigma_deg,
        "--offset_range": 2,
        "--offset_step": 1,
        "--pad": 2,
        "--pool": 30,
        "--j": 1,
    }
    flags = ["--auto_refine", "--split_random_halves", "--ctf", "--ctf_corrected_ref", "--flatten_solvent"]
    flags += ["--zero_mask", "--norm", "--scale", "--dont_check_norm", "--preread_images"]
    words = [str(word) for pair in options.items() for word in pair]
    begun_s = time.time()
    with (out / "log").open("w") as log:
        command = ["mpirun", "-n", "3", "relion_refine_mpi", *words, *flags]
        process = subprocess.Popen(
            command, cwd=out, env={**os.environ, **MPI_ENVIRONMENT}, stdout=log, stderr=log
        )
        try:
            status = process.wait(limit_s)
            if status != 0:
                raise CommandFailed(f"relion_refine_mpi ended with status {status}; see {out / 'log'}")
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
    halves = sorted(out.glob("run_it*_half1_class001.mrc"))
    stars = {path.name[6:9]: path for path in out.glob("run_it*_data.star")}
    done = [half for half in halves if half.name[6:9] in stars and int(half.name[6:9]) > 0]
    if not done:
        return None
    number = done[-1].name[6:9]
    pair = (done[-1], done[-1].with_name(done[-1].name.replace("half1", "half2")))
    seconds = stars[number].stat().st_mtime - begun_s
    final = out / "run_half1_class001_unfil.mrc"
    if final.exists():
        pair = (final, final.with_name("run_half2_class001_unfil.mrc"))
        seconds = time.time() - begun_s
        return LocalRefinement(int(number), seconds, pair, out / "run_data.star")
    return LocalRefinement(int(number), seconds, pair, stars[number])

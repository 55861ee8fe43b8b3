"""The folder the benchmarks work in: particle sets and RELION's maps are kept there, gem3d always runs anew."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import relion
from gem3d.maps import read_map, write_map
from inputs import low_passed, structure_file, voxel_truth
from measure import Usage, run_measured
from voxel_images import write_images

T = TypeVar("T")

FEW_GAUSSIANS = ("--gaussians", "500")


@dataclass(frozen=True)
class SetSpec:
    """A simulated particle set.

    kind: images of the structure itself; of a voxel map made of it, by relion_project; or of the structure low-passed
        at `low_pass_A`.
    poses: STAR file that orientations are drawn from; "" for uniform ones.
    """

    structure: str
    particles: int
    box_px: int
    pixel_A: float
    snr: float
    seed: int
    envelope_A2: float = 0.0
    angle_error_deg: float = 0.0
    shift_error_px: float = 0.0
    defocus_error_A: float = 0.0
    kind: Literal["structure", "voxel", "low-passed"] = "structure"
    low_pass_A: float = 0.0
    poses: str = ""

    @property
    def size(self) -> str:
        return f"{self.particles:,} x {self.box_px} px"


@dataclass(frozen=True)
class Gem3dRun:
    """A finished `gem3d reconstruct`: its output folder, summary.json and cost."""

    out: Path
    summary: dict[str, Any]
    usage: Usage


@dataclass
class Context:
    """Settings of one invocation of run.py, and what it has made so far."""

    work: Path
    structures: tuple[str, ...] = ("5a1a", "6v8o")
    seeds: tuple[int, ...] = (1, 2, 3)
    threads: int = 1
    repeats: int = 1
    quick: bool = False
    ctf_table: Path | None = None
    cryodrgn: Path | None = None
    _gem3d_runs: dict[tuple[Path, tuple[str, ...]], Gem3dRun] = field(default_factory=dict)
    _relion_runs: dict[Path, Usage] = field(default_factory=dict)

    def size(self, full: T, quick: T) -> T:
        """A size of the benchmark proper, or the one that only shows that it runs."""
        return quick if self.quick else full

    @property
    def few_gaussians(self) -> tuple[str, ...]:
        """Option that makes a quick run quick; the benchmarks proper leave every setting at its default."""
        return self.size((), FEW_GAUSSIANS)

    def say(self, message: str) -> None:
        print(f"    {message}", file=sys.stderr, flush=True)

    def particle_set(self, spec: SetSpec) -> Path:
        """Folder with `particles.star`, `particles.mrcs` and `truth.mrc`, simulated unless it is there already."""
        named = {name: value for name, value in asdict(spec).items() if name != "poses" or value}
        arguments = {**named, "ctf_table": "" if self.ctf_table is None else self.ctf_table.name}
        key = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:8]
        name = f"{Path(spec.structure).stem}-{spec.kind}-{spec.particles}x{spec.box_px}-seed{spec.seed}-{key}"
        folder = self.work / "sets" / name
        if (folder / "arguments.json").exists():
            return folder
        self.say(f"simulating {name}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if spec.kind == "voxel":
            source = folder / "truth.mrc"
            molecule = self._molecule(spec)
            write_map(source, voxel_truth(molecule, spec.pixel_A, spec.seed), spec.pixel_A)
            write_images(source, folder, spec, self.ctf_table)
        else:
            source = structure_file(spec.structure, self.work / "structures")
            if spec.kind == "low-passed":
                source = folder / "low-passed.mrc"
                write_map(
                    source, low_passed(self._molecule(spec), spec.pixel_A, spec.low_pass_A), spec.pixel_A
                )
            run_measured([*gem3d_program(), *self._simulate_arguments(spec, source, folder)])
        (folder / "arguments.json").write_text(json.dumps(arguments, indent=1))
        return folder

    def gem3d(self, folder: Path, *extra: str, repeat: bool = False) -> Gem3dRun:
        """Reconstruct a set; once an invocation, unless `repeat`."""
        key = (folder, extra)
        if key not in self._gem3d_runs or repeat:
            self.say(f"gem3d reconstruct {folder.name} {' '.join(extra)}")
            out = folder / "-".join(["gem3d", *(word.strip("-") for word in extra)])
            arguments = ["reconstruct", folder / "particles.star", "--out", out, "--datadir", folder]
            options = ["--threads", str(self.threads), "--quiet", "--overwrite", *self.few_gaussians, *extra]
            usage = run_measured([*gem3d_program(), *arguments, *options])
            self._gem3d_runs[key] = Gem3dRun(out, json.loads((out / "summary.json").read_text()), usage)
        return self._gem3d_runs[key]

    def relion(
        self,
        folder: Path,
        subset: relion.Subset,
        *,
        mpi: bool = False,
        fresh: bool = False,
        repeat: bool = False,
    ) -> tuple[Path, Usage]:
        """RELION's map of a set, kept from an earlier invocation unless `fresh`; `repeat` always runs it."""
        out = folder / f"relion_{subset}{'_mpi' if mpi else ''}.mrc"
        record = out.with_suffix(".json")
        if out in self._relion_runs and not repeat:
            return out, self._relion_runs[out]
        if record.exists() and not (fresh or repeat):
            return out, Usage.load(record)
        self.say(f"{'relion_reconstruct_mpi' if mpi else 'relion_reconstruct'} {subset} of {folder.name}")
        usage = relion.reconstruct(folder, subset, out, mpi_ranks=self.threads if mpi else 0)
        usage.save(record)
        self._relion_runs[out] = usage
        return out, usage

    def _molecule(self, spec: SetSpec) -> Any:
        """Density of the structure on the grid of the set, as gem3d's own simulation has it."""
        folder = self.work / "molecules" / f"{Path(spec.structure).stem}-{spec.box_px}-{spec.pixel_A:g}"
        if not (folder / "truth.mrc").exists():
            one = SetSpec(spec.structure, 2, spec.box_px, spec.pixel_A, 1.0, 0)
            source = structure_file(spec.structure, self.work / "structures")
            run_measured([*gem3d_program(), *self._simulate_arguments(one, source, folder)])
        return read_map(folder / "truth.mrc").values

    def _simulate_arguments(self, spec: SetSpec, source: Path, folder: Path) -> list[str]:
        options = {
            "--particles": spec.particles,
            "--box-size": spec.box_px,
            "--pixel-size": spec.pixel_A,
            "--snr": spec.snr,
            "--envelope-bfactor": spec.envelope_A2,
            "--angle-error": spec.angle_error_deg,
            "--shift-error": spec.shift_error_px,
            "--defocus-error": spec.defocus_error_A,
            "--seed": spec.seed,
            **({} if self.ctf_table is None else {"--ctf-table": self.ctf_table}),
            **({"--poses": spec.poses} if spec.poses else {}),
        }
        pairs = [str(word) for pair in options.items() for word in pair]
        return ["simulate", str(source), "--out", str(folder), *pairs, "--quiet", "--overwrite"]


def gem3d_program() -> list[str]:
    """The installed command, of the environment that runs the benchmarks if it is there."""
    beside = Path(sys.executable).with_name("gem3d")
    found = str(beside) if beside.exists() else shutil.which("gem3d")
    if found is None:
        raise FileNotFoundError("the command gem3d is not installed: pip install -e .")
    return [found]

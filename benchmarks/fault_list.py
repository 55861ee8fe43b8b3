"""Which faults are made, when, and what has to come of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gem3d.run_directory import CHECKPOINTS

BOX_PX, PIXEL_A, SNR = 48, 4.4, 0.1
Plan = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where one fault happens.

    folder: holds the output folder, and may be a small disk.
    data: holds the particles.
    """

    folder: Path
    data: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def star(self) -> Path:
        return self.data / "particles.star"

    @property
    def stack(self) -> Path:
        return self.data / "particles.mrcs"

    @property
    def elsewhere(self) -> Path:
        """Where what is taken away lies in the meantime."""
        return self.data / "elsewhere"

    def checkpoint(self, stage: str) -> Path:
        return self.out / CHECKPOINTS / stage


@dataclass(frozen=True)
class Run:
    """A command that is let down: its particles, and its words but --out."""

    particles: int
    words: tuple[str, ...]

    def command(self, place: Place) -> list[str]:
        name, *options = self.words
        return [name, str(place.star), "--out", str(place.out), *options]


RUNS = {
    "volume": Run(1500, ("reconstruct",)),
    "images": Run(500, ("reconstruct", "--fit", "images", "--gaussians", "300", "--epochs", "8")),
    "refine": Run(500, ("refine", "--rounds", "2", "--gaussians", "300")),
}


def nothing(place: Place) -> None:
    """The machine is as it should be."""


@dataclass(frozen=True)
class Fault:
    """One fault, or several in a row.

    run: of `RUNS`.
    kind: of table.
    faults: made in the first command: moment and event of `faulty.py`.
    exit_code: of the command that ends by the last fault.
    options: of the first command.
    before: makes the fault where it is there from the beginning.
    then: faults of further commands with --resume.
    again: options of the command that must come to the end, once `repair` has put things right.
    checkpoints: saved at every opportunity; else never, as in a run that is over before the first one is due.
    earlier: the folder holds the results of an earlier run, to be replaced by --overwrite.
    keeps_earlier: it happens before the images have been read, so that these results must still be there.
    refuses_resume: --resume must be refused (2) until `after_refusal` has done what the message asks for.
    small_disk: the output folder lies on a disk of some megabytes.
    without_root: permissions count.
    """

    case: str
    run: str
    kind: Literal["kill", "disk", "denied", "cut"]
    faults: Callable[[Place], list[Plan]] = lambda place: []
    exit_code: int = -9
    options: tuple[str, ...] = ()
    before: Callable[[Place], None] = nothing
    then: tuple[Callable[[Place], Plan], ...] = ()
    repair: Callable[[Place], None] = nothing
    again: tuple[str, ...] = ("--resume",)
    checkpoints: bool = True
    earlier: bool = False
    keeps_earlier: bool = False
    refuses_resume: bool = False
    after_refusal: Callable[[Place], None] = nothing
    small_disk: bool = False
    without_root: bool = False

    def plan(self, place: Place) -> Plan:
        return {"faults": self.faults(place)}


EXIT_CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}


def stopped(run: str, when: str, at: list[Any], signal: str = "SIGKILL", **more: Any) -> Fault:
    """A run that gets a signal at one moment."""
    return Fault(
        f"{run}: {signal} {when}",
        run,
        "kill",
        lambda place: [{"at": at, "do": ["signal", signal]}],
        EXIT_CODES[signal],
        **more,
    )


TRANSFORM = "gem3d.fit.observations.Observations.transform"  # once a batch of 128 images
VOXELIZE = "gem3d.fit.volume_step.voxelize_on"  # once a step
LOSS = "gem3d.fit.image_loss.ImageLoss.backward"  # once a batch of 32 or more images


def killed(place: Place) -> Plan:
    return {"faults": [{"at": ["call", TRANSFORM, 4], "do": ["signal", "SIGKILL"]}]}


KILLED = [
    stopped("volume", "while particles are read", ["log", "read particles: begun"]),
    stopped("volume", "as the run says that it has begun", ["write", "run.json", 1]),
    stopped("volume", "while the noise is estimated", ["call", "gem3d.fit.noise.NoiseSpectrum.add", 2]),
    stopped(
        "volume",
        "at 30 % of the accumulation, before any checkpoint",
        ["call", TRANSFORM, 4],
        checkpoints=False,
    ),
    stopped("volume", "at 30 % of the accumulation", ["call", TRANSFORM, 4]),
    stopped("volume", "at 70 % of the accumulation", ["call", TRANSFORM, 9]),
    stopped("volume", "while the equations are saved", ["write", "accumulate.safetensors", 6]),
    stopped("volume", "between two images' checkpoints, twice", ["call", TRANSFORM, 6], then=(killed,)),
    stopped("volume", "as the linear maps begin", ["log", "linear maps: begun"]),
    stopped("volume", "while linear_half2.mrc is written", ["write", "linear_half2.mrc", 1]),
    stopped("volume", "in the fit of half 1", ["call", VOXELIZE, 20]),
    stopped(
        "volume", "in the fit of half 1, before any checkpoint", ["call", VOXELIZE, 20], checkpoints=False
    ),
    stopped("volume", "while the fit of half 1 is saved", ["write", "half1.safetensors", 5]),
    stopped("volume", "in the fit of half 2", ["call", VOXELIZE, 80]),
    stopped("volume", "while half2.mrc is written", ["write", "half2.mrc", 1]),
    stopped("volume", "in the final fit", ["call", VOXELIZE, 125]),
    stopped("volume", "while gaussians.safetensors is written", ["write", "gaussians.safetensors", 1]),
    stopped("volume", "in the assessment", ["log", "directions: begun"]),
    stopped("volume", "while map.mrc is written", ["write", "map.mrc", 1]),
    stopped("volume", "while the report is written", ["write", "report.html", 1]),
    stopped("volume", "after the last file, before the end", ["written", "summary.json", 2]),
    stopped(
        "volume",
        "while the checkpoints are removed",
        ["call", "pathlib.Path.rmdir", 1],
        again=("--overwrite",),
    ),
    stopped("volume", "at 50 % of the accumulation", ["call", TRANSFORM, 6], "SIGTERM"),
    stopped("volume", "in the fit of half 2", ["call", VOXELIZE, 80], "SIGTERM"),
    stopped("volume", "while map.mrc is written", ["write", "map.mrc", 1], "SIGTERM"),
    stopped("volume", "in the report", ["log", "report: begun"], "SIGTERM"),
    stopped("volume", "in the fit of half 1", ["call", VOXELIZE, 30], "SIGINT"),
    stopped(
        "volume",
        "at 50 % of the accumulation, over earlier results",
        ["call", TRANSFORM, 6],
        earlier=True,
        keeps_earlier=True,
    ),
    stopped(
        "volume",
        "while the noise is estimated, over earlier results",
        ["call", "gem3d.fit.noise.NoiseSpectrum.add", 2],
        "SIGTERM",
        earlier=True,
        keeps_earlier=True,
        checkpoints=False,
    ),
    stopped(
        "volume",
        "once earlier results have been removed",
        ["called", "gem3d.run_directory.remove_results", 1],
        earlier=True,
    ),
    stopped("volume", "in the fit of half 2, over earlier results", ["call", VOXELIZE, 80], earlier=True),
    stopped("images", "in the accumulation of half 2", ["call", TRANSFORM, 3]),
    stopped("images", "in the training of half 1", ["call", LOSS, 40]),
    stopped("images", "in the training of half 2", ["call", LOSS, 120], "SIGTERM"),
    stopped("refine", "in the accumulation of round 1", ["call", TRANSFORM, 3]),
    stopped("refine", "in the refinement of half 2, round 1", ["log", "round 1, refine half 2: begun"]),
    stopped("refine", "in a fit of round 2", ["log", "round 2, fit half 2: begun"], "SIGTERM"),
    stopped("refine", "while particles_refined.star is written", ["write", "particles_refined.star", 1]),
    stopped("refine", "in the final fit", ["log", "fit final map: begun"]),
]


def full(when: str, at: list[Any], free_bytes: int = 0, **more: Any) -> Fault:
    """A disk that fills up at one moment."""
    return Fault(
        f"volume: disk full {when}",
        "volume",
        "disk",
        lambda place: [{"at": at, "do": ["fill", str(place.folder), free_bytes]}],
        2,
        small_disk=True,
        **more,
    )


def too_large(place: Place) -> list[Plan]:
    return [{"at": ["log", "linear maps: begun"], "do": ["limit", 100_000]}]


FULL = [
    full("from the beginning", ["log", "read particles: begun"]),
    full("at 30 % of the accumulation", ["call", TRANSFORM, 4]),
    full("at 30 % of the accumulation, over earlier results", ["call", TRANSFORM, 4], 8192, earlier=True),
    full("before any checkpoint", ["call", TRANSFORM, 4], checkpoints=False),
    full("but for half a map, as linear maps are written", ["log", "linear maps: begun"], 200_000),
    full("in the fit of half 2", ["call", VOXELIZE, 80]),
    full("but for some maps, in the assessment", ["log", "directions: begun"], 1_000_000),
    full("but for half a report", ["log", "report: begun"], 3_000_000),
    Fault("volume: no file may be larger than 100 kB", "volume", "disk", too_large, 2),
]


def moved(name: str) -> Callable[[Place], list[Any]]:
    return lambda place: ["move", str(getattr(place, name)), str(place.elsewhere)]


def back(name: str) -> Callable[[Place], None]:
    return lambda place: shutil.move(place.elsewhere, getattr(place, name))


def keep_stack(place: Place) -> None:
    shutil.copy(place.stack, place.elsewhere)


def read_only(place: Place) -> None:
    place.out.mkdir()
    place.out.chmod(0o555)


def writable(place: Place) -> None:
    for path in (place.out, place.out / CHECKPOINTS):
        if path.is_dir():
            path.chmod(0o755)


def vanished(run: str, file: str, when: str, at: list[Any]) -> Fault:
    """A run whose stack or particle file is moved away, and put back for the next."""
    what = {"stack": "the stack", "star": "the particle file"}[file]
    return Fault(
        f"{run}: {what} vanishes {when}",
        run,
        "denied",
        lambda place: [{"at": at, "do": moved(file)(place)}],
        2,
        repair=back(file),
    )


DENIED = [
    Fault(
        "volume: the output folder is read-only",
        "volume",
        "denied",
        exit_code=2,
        before=read_only,
        repair=writable,
        without_root=True,
    ),
    Fault(
        "volume: the output folder becomes read-only in the fit of half 1",
        "volume",
        "denied",
        lambda place: [{"at": ["call", VOXELIZE, 20], "do": ["mode", str(place.out), 0o555]}],
        2,
        repair=writable,
        without_root=True,
    ),
    Fault(
        "volume: the checkpoints' folder becomes read-only: nothing is lost, and the run comes to its end",
        "volume",
        "denied",
        lambda place: [
            {"at": ["call", TRANSFORM, 4], "do": ["mode", str(place.out / CHECKPOINTS), 0o555]},
            {"at": ["log", "report: begun"], "do": ["mode", str(place.out / CHECKPOINTS), 0o755]},
        ],
        0,
        again=("--overwrite",),
        without_root=True,
    ),
    Fault(
        "volume: the output folder vanishes in the fit of half 1",
        "volume",
        "denied",
        lambda place: [{"at": ["call", VOXELIZE, 20], "do": moved("out")(place)}],
        2,
    ),
    vanished(
        "volume", "stack", "before the accumulation", ["call", "gem3d.fit.noise.NoiseSpectrum.power", 2]
    ),
    vanished("images", "stack", "before the training", ["log", "fit half 1: begun"]),
    vanished("refine", "stack", "between two rounds", ["log", "round 2, accumulate: begun"]),
    vanished("refine", "star", "in the refinement", ["log", "round 1, refine half 2: begun"]),
]


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def changed(path: Path) -> None:
    """One bit of the second half."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size * 3 // 4)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def spoiled(how: Callable[[Path], None], stage: str, at: list[Any], then: str) -> Fault:
    """A killed run whose checkpoint is not what was written."""

    def remove(place: Place) -> None:
        place.checkpoint(stage).unlink()

    return Fault(
        f"volume: SIGKILL, and {stage} {then}",
        "volume",
        "cut",
        lambda place: [{"at": at, "do": ["signal", "SIGKILL"]}],
        repair=lambda place: how(place.checkpoint(stage)),
        refuses_resume=True,
        after_refusal=remove,
    )


def begin_with_half_a_stack(place: Place) -> None:
    keep_stack(place)
    truncated(place.stack)


def whole_stack(place: Place) -> None:
    shutil.copy(place.elsewhere, place.stack)


def whole_star(place: Place) -> None:
    shutil.copy(place.elsewhere, place.star)


def cut_star(place: Place) -> None:
    shutil.copy(place.star, place.elsewhere)
    text = place.star.read_text()
    place.star.write_text(text[: text.rindex("@") - 20])


CUT = [
    Fault(
        "volume: the stack is cut at 50 % of the accumulation",
        "volume",
        "cut",
        lambda place: [{"at": ["call", TRANSFORM, 6], "do": ["truncate", str(place.stack), 5_000_000]}],
        2,
        before=keep_stack,
        repair=whole_stack,
    ),
    Fault(
        "volume: the stack is cut before the run",
        "volume",
        "cut",
        exit_code=2,
        before=begin_with_half_a_stack,
        repair=whole_stack,
        earlier=True,
        keeps_earlier=True,
        again=("--overwrite",),
    ),
    Fault(
        "volume: the particle file is cut in a row",
        "volume",
        "cut",
        exit_code=2,
        before=cut_star,
        repair=whole_star,
        earlier=True,
        keeps_earlier=True,
        again=("--overwrite",),
    ),
    spoiled(truncated, "accumulate.safetensors", ["call", TRANSFORM, 9], "is cut"),
    spoiled(changed, "accumulate.safetensors", ["call", TRANSFORM, 9], "has another bit"),
    spoiled(truncated, "half1.safetensors", ["call", VOXELIZE, 80], "is cut"),
    Fault(
        "volume: SIGKILL, and run.json is cut",
        "volume",
        "cut",
        lambda place: [{"at": ["call", VOXELIZE, 80], "do": ["signal", "SIGKILL"]}],
        repair=lambda place: truncated(place.checkpoint("run.json")),
        refuses_resume=True,
        again=("--overwrite",),
    ),
]

FAULTS = (*KILLED, *FULL, *DENIED, *CUT)

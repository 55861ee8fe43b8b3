"""Nothing is lost when a command is told to stop, or cannot write."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from command_line import refused
from gem3d import atomic, given_images, run_directory
from gem3d.atomic import replacing
from gem3d.cli import main
from gem3d.errors import Gem3dError
from gem3d.gaussians import Gaussians, initialise_random, save_gaussians, save_ply
from gem3d.maps import read_map, write_map
from gem3d.particles import write_relion_star
from gem3d.progress import Reporter
from gem3d.run_directory import CHECKPOINTS
from gem3d.signals import Terminated, stopping_on_sigterm
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure

FEW = ("--gaussians", "30", "--threads", "1", "--quiet")
FULL = os.strerror(errno.ENOSPC)
TOO_LARGE = os.strerror(errno.EFBIG)
READ_ONLY = os.strerror(errno.EROFS)


# ---- told to stop


def test_sigterm_ends_a_run_in_good_order(made: Simulation, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["reconstruct", made.star, "--out", out, "--fit", "images", "--epochs", "40", *FEW]
    process = subprocess.Popen([sys.executable, "-m", "gem3d", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not ((out / "run.log").exists() and "fit half 1: begun" in (out / "run.log").read_text()):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped from outside (SIGTERM)" in said
    assert "--resume go on from there" in said
    assert "Traceback" not in said
    assert "ERROR stopped from outside" in (out / "run.log").read_text()
    assert not list(out.rglob(".*")), "no temporary file is left"


def test_resume_is_not_named_where_there_is_nothing_to_go_on_from(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("gem3d.half_maps.accumulate", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["reconstruct", str(made.star), "--out", str(tmp_path / "run"), *FEW])
    assert stopped.value.code == 143
    assert "--resume" not in capsys.readouterr().err


def test_a_second_sigterm_does_not_cut_short_the_cleaning_up() -> None:
    before, cleaned_up = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned_up.append(True)

    with stopping_on_sigterm(), pytest.raises(Terminated):
        work()
    assert cleaned_up
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_that_is_ignored_by_request_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- temporary files


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_temporary_files_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    with replacing(tmp_path / "own.txt") as own:
        machine = own.name.split(".")[2]
        own.write_text("being written")
        names = {
            "dead": f".gem3d.{machine}.{dead_process()}.0.tmp",
            "own number, earlier process": f".gem3d.{machine}.{os.getpid()}.999999.tmp",
            "no process has such a number": f".gem3d.{machine}.{10**30}.0.tmp",
            "alive": f".gem3d.{machine}.{os.getppid()}.0.tmp",
            "of another machine": f".gem3d.elsewhere-1.{dead_process()}.0.tmp",
            "the user's": ".gem3d.notes.tmp",
            "another program's": ".map.mrc.123.tmp",
        }
        for name in names.values():
            (tmp_path / name).write_text("left")
        old = tmp_path / ".gem3d.elsewhere-1.77.5.tmp"
        old.write_text("left")
        os.utime(old, (time.time() - 2 * atomic.UNTOUCHED_S,) * 2)
        run_directory.prepare(tmp_path, overwrite=True)
        left = {path.name for path in tmp_path.iterdir()}
        stay = ("alive", "of another machine", "the user's", "another program's")
        assert left == {own.name, *(names[which] for which in stay)}
    assert (tmp_path / "own.txt").read_text() == "being written"


def test_a_folder_of_leftovers_is_as_good_as_empty(tmp_path: Path) -> None:
    (tmp_path / f".gem3d.elsewhere-1.{dead_process()}.0.tmp").write_text("left")
    run_directory.check(tmp_path, overwrite=False)


def test_what_a_killed_process_leaves_goes_with_the_next_file(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from gem3d.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    file = tmp_path / "results.csv"
    subprocess.run([sys.executable, "-c", program, file])
    assert not file.exists()
    assert len(list(tmp_path.iterdir())) == 1
    run_directory.write_text(file, "whole")
    assert list(tmp_path.iterdir()) == [file]


def test_names_as_long_as_may_be(made: Simulation, tmp_path: Path) -> None:
    out = tmp_path / ("x" * 250 + ".star")
    main(["convert", str(made.star), "--out", str(out)])
    assert out.exists()


# ---- disks


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in that folder."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=64k") as folder:
        yield folder


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file grows larger, as with `ulimit -f`; Python ignores the signal that says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def many_gaussians() -> Gaussians:
    return initialise_random(np.ones((8, 8, 8), np.float32), 4.0, 1.0, 3000, np.random.default_rng(0), 1.0)


def star_of(path: Path, made: Simulation) -> None:
    with replacing(path) as temporary:
        write_relion_star(made.particles, temporary, own_columns={"gem3dText": ["word" * 50] * 300})


# A map that mrcfile could not write is closed with its last reference only.
MRCFILE_LEAVES_IT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
Write = Callable[[Path, Simulation], object]
WRITERS: dict[str, Write] = {
    "map.mrc": lambda path, made: write_map(path, np.ones((40, 40, 40)), 1.0),
    "gaussians.safetensors": lambda path, made: save_gaussians(many_gaussians(), path, 8, 4.0),
    "gaussians.ply": lambda path, made: save_ply(many_gaussians(), path),
    "report.html": lambda path, made: run_directory.write_text(path, "x" * 100000),
    "particles.star": star_of,
    "particles.mrcs": lambda path, made: simulate(
        packaged_structure(), path.parent, 30, 32, 6.6, 1.0, overwrite=True
    ),
}


@MRCFILE_LEAVES_IT_OPEN
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_full_disk_leaves_the_old_file(name: str, made: Simulation, small_disk: Path) -> None:
    path = small_disk / name
    path.write_text("old")
    with pytest.raises(Gem3dError, match=rf"{name}.*{FULL}.*make room"):
        WRITERS[name](path, made)
    assert path.read_text() == "old"
    assert [each.name for each in small_disk.iterdir()] == [name]


@MRCFILE_LEAVES_IT_OPEN
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_limit_on_the_size_of_files_leaves_the_old_file(
    name: str, made: Simulation, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("old")
    with files_up_to(40000), pytest.raises(Gem3dError, match=rf"{name}.*{TOO_LARGE}.*ulimit -f"):
        WRITERS[name](path, made)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"particles.mrcs"}))  # a simulation makes its folder
def test_a_folder_that_has_gone(name: str, made: Simulation, tmp_path: Path) -> None:
    with pytest.raises(Gem3dError, match=rf"{name}.*make its folder"):
        WRITERS[name](tmp_path / "gone" / name, made)


def test_a_full_disk_refuses_a_run_before_its_work(
    made: Simulation, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would do for run.log, and for nothing else."""
    (small_disk / "filler").write_bytes(bytes(32768))
    monkeypatch.delattr("gem3d.half_maps.accumulate")
    said = refused(capsys, "reconstruct", str(made.star), "--out", str(small_disk / "run"), *FEW)
    assert re.search(rf"run: cannot be written \({FULL}\); make room on the disk", said)
    assert not list((small_disk / "run").iterdir())


def test_a_disk_that_fills_up_during_a_run(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report is the largest file."""
    out = tmp_path / "run"
    words = ["reconstruct", str(made.star), "--out", str(out), *FEW]
    with files_up_to(1_000_000):
        said = refused(capsys, *words)
    assert f"report.html: cannot be written ({TOO_LARGE}); raise the limit" in said
    assert "--resume go on from there" in said
    assert "ERROR" in (out / "run.log").read_text()
    assert not list(out.rglob(".*"))
    main([*words, "--resume"])
    assert (out / "report.html").exists()


def test_a_read_only_place(made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "locked", "ro") as folder:
        for out in (folder, folder / "run"):
            said = refused(capsys, "reconstruct", str(made.star), "--out", str(out), *FEW)
            assert f"{READ_ONLY}); choose another place" in said


def test_a_place_for_checkpoints_that_cannot_be_written(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / CHECKPOINTS
    words = ["reconstruct", str(made.star), "--out", str(tmp_path), "--overwrite", *FEW]
    place.touch()
    assert f"{CHECKPOINTS}: cannot be written (File exists); remove what is there" in refused(capsys, *words)
    place.unlink()
    with mounted(place, "ro"):
        assert f"{READ_ONLY}); choose another place" in refused(capsys, *words)


def test_places_that_cannot_be(made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    star, truth, long = str(made.star), str(made.truth), "x" * 300
    other = tmp_path / "half2.mrc"
    write_map(other, read_map(truth).values[::-1], 6.6)
    for out, words in (
        (tmp_path / "file" / "run", os.strerror(errno.ENOTDIR)),
        (tmp_path / long, "choose a shorter name"),
        (Path("/dev/full"), "is a file"),
    ):
        for command in (["reconstruct", star], ["refine", star], ["assess", truth, str(other)]):
            assert words in refused(capsys, *command, "--out", str(out), "--quiet"), command
    assert "make its folder" in refused(capsys, "convert", star, "--out", str(tmp_path / "none" / "p.star"))
    for command in (["convert", star], ["render", "any"], ["simulate", truth, "--box-size", "16"]):
        said = refused(capsys, *command, "--out", str(tmp_path / f"{long}.star"))
        assert "choose a shorter name" in said, command
    assert (tmp_path / "file").read_text() == "mine"


def test_images_that_go_away_during_a_run_cost_no_earlier_results(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = shutil.copytree(made.star.parent, tmp_path / "set"), tmp_path / "run"
    out.mkdir()
    (out / "map.mrc").write_text("earlier")
    look_at_sample = given_images.look_at_sample

    def after_the_stack_has_gone(*arguments: object, **options: object) -> object:
        (folder / "particles.mrcs").unlink()
        return look_at_sample(*arguments, **options)

    monkeypatch.setattr(given_images, "look_at_sample", after_the_stack_has_gone)
    words = ["reconstruct", str(folder / "particles.star"), "--out", str(out), "--overwrite", *FEW]
    assert "particles.mrcs: can no longer be read" in refused(capsys, *words)
    assert (out / "map.mrc").read_text() == "earlier"


# ---- the log and the streams


def said_in(log: Path) -> list[str]:
    return [line.split("  ")[1] for line in log.read_text().splitlines() if "WARNING" not in line]


def test_a_log_that_cannot_be_written_is_warned_of_once_and_caught_up_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter()
    log = tmp_path / "run.log"
    with reporter.recording():
        reporter.say("first")
        reporter.log.open(log)
        with files_up_to(log.stat().st_size + 10):
            for number in range(3):
                reporter.say(f"line {number}")
        assert capsys.readouterr().err.count("warning") == 1
        assert "the work goes on" in reporter.warnings[0]
        assert "ulimit -f" in reporter.warnings[0]
        reporter.say("last")
    assert said_in(log) == ["first", "line 0", "line 1", "line 2", "last"]


def test_a_log_whose_folder_has_gone(tmp_path: Path) -> None:
    reporter, out = Reporter(quiet=True), tmp_path / "out"
    out.mkdir()
    with reporter.recording():
        reporter.log.open(out / "run.log")
        shutil.rmtree(out)
        reporter.say("on")
        assert "make its folder" in reporter.warnings[0]
        out.mkdir()
        reporter.say("again")
    assert said_in(out / "run.log") == ["on", "again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_ends_no_run(made: Simulation, tmp_path: Path) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    main(["reconstruct", str(made.star), "--out", str(tmp_path), *FEW])
    warnings = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert sum("run.log: cannot be written" in each for each in warnings) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_streams_to_a_full_disk(made: Simulation, tmp_path: Path) -> None:
    gem3d = [sys.executable, "-m", "gem3d"]
    star = tmp_path / "copy.star"
    with Path("/dev/full").open("w") as full:
        printed = subprocess.run([*gem3d, "fsc", made.truth, made.truth], stdout=full, stderr=subprocess.PIPE)
        assert printed.returncode == 2
        assert FULL in printed.stderr.decode()
        assert b"Traceback" not in printed.stderr
        assert subprocess.run([*gem3d, "convert", made.star, "--out", star], stderr=full).returncode == 0
        assert subprocess.run([*gem3d, "fsc", star, star], stderr=full).returncode == 2
    assert star.exists()


def test_whoever_reads_the_output_may_go(made: Simulation) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gem3d", "fsc", made.truth, made.truth]
    printed = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert printed.returncode == 1
    assert printed.stderr == b""

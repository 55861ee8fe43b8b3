"""Several processes at one job come to what one comes to, and end together where one is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from command_line import results_of
from gem3d import ranks
from gem3d.cli import main
from gem3d.simulate import Simulation
from half_map_checks import assert_same_half_maps

Launched = list["subprocess.Popen[str]"]


def launch(n: int, *arguments: str | Path) -> Launched:
    """Start gem3d as torchrun does, in `n` processes with one thread each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "gem3d", *map(str, arguments)]
    shared = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r), "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(n)
    ]


def ended(processes: Launched) -> tuple[list[int], list[str]]:
    """Exit codes and what was said on standard error."""
    said = [" ".join(process.communicate(timeout=120)[1].split()) for process in processes]
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def alone(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process comes to, by the way to fit."""
    folder = tmp_path_factory.mktemp("alone")
    for fit, options in OPTIONS.items():
        main(
            ["reconstruct", str(made.star), "--out", str(folder / fit), "--quiet", "--threads", "1", *options]
        )
    return {fit: folder / fit for fit in OPTIONS}


OPTIONS: dict[str, Sequence[str]] = {
    "volume": ("--gaussians", "200"),
    "images": ("--fit", "images", "--gaussians", "200", "--epochs", "3"),
}


@pytest.mark.parametrize(("n", "fit"), [(2, "volume"), (4, "volume"), (2, "images"), (4, "images")])
def test_several_processes_come_to_what_one_comes_to(
    n: int, fit: str, alone: dict[str, Path], made: Simulation, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    codes, said = ended(launch(n, "reconstruct", made.star, "--out", out, "--quiet", *OPTIONS[fit]))
    assert codes == [0] * n, said
    assert results_of(out).keys() == results_of(alone[fit]).keys()
    for half in (1, 2):
        found, expected = (mrcfile.read(folder / f"linear_half{half}.mrc") for folder in (out, alone[fit]))
        assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected), half
    assert_same_half_maps(
        *([mrcfile.read(folder / f"half{half}.mrc") for half in (1, 2)] for folder in (out, alone[fit]))
    )


def test_an_error_of_the_input_is_told_once(tmp_path: Path) -> None:
    codes, said = ended(launch(2, "reconstruct", tmp_path / "none.star", "--out", tmp_path / "out"))
    assert codes == [2, 0]
    assert "no such file" in said[0]
    assert said[1] == ""


def test_a_job_that_loses_a_process_ends_and_goes_on_later(made: Simulation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("reconstruct", made.star, "--out", out, "--quiet", *OPTIONS["images"][:-1])
    processes = launch(3, *options, "40")
    begun_s = time.monotonic()
    while not (out / "linear_half2.mrc").exists():  # training has begun
        assert time.monotonic() - begun_s < 60
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    codes, said = ended(processes)
    assert codes == [2, -signal.SIGKILL, 2]
    assert "another process of this job has failed or was killed" in said[0]
    assert "--resume go on from there" in said[0]
    assert "gem3d, rank 2: another process" in said[2]
    assert "another process of this job" in (out / "run.log").read_text()

    # With fewer processes and epochs: what has been done of the passes over the images is not done again.
    codes, said = ended(launch(2, *options, "40", "--resume"))
    assert codes == [0, 0], said
    assert (out / "summary.json").exists()
    assert not (out / "checkpoint").exists()


def test_a_share_is_contiguous_and_all_are_everything() -> None:
    assert ranks.shares(10, 3) == [range(0, 10)]
    assert ranks.share_of(0) == range(0, 0)
    assert ranks.gather(3) == [3]
    assert ranks.each(lambda x: x * x, [(2,), (3,)]) == [4, 9]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("n_items", [0, 1, 5, 128, 300])
def test_shares_cover_every_item_once(n: int, n_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "n_ranks", lambda: n)
    for multiple in (1, 128):
        parts = ranks.shares(n_items, multiple)
        assert [i for part in parts for i in part] == list(range(n_items))
        assert len(parts) == n
        assert all(part.start % multiple == 0 for part in parts if len(part))
        sizes = [-(-len(part) // multiple) for part in parts]
        assert max(sizes) - min(sizes) <= 1

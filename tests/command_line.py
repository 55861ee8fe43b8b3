"""What tests of whole commands share."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gem3d.cli import main
from gem3d.run_directory import RESULTS

HOLD_TIMES = frozenset({"summary.json", "report.html", "refinement.csv", "refinement.html"})
"""Results that differ from run to run, because they say how long it took."""
OF_A_CLAIM = frozenset(
    {
        "map_local.mrc",
        "local_resolution.mrc",
        "directional.csv",
        "sharpening.csv",
        "fsc.xml",
        "likelihood.csv",
    }
)
"""Results that are missing where no resolution can be claimed, or hardly any, or no particle is held out."""


def results_of(out: Path) -> dict[str, bytes]:
    """Every result of a run but those that hold times."""
    return {name: (out / name).read_bytes() for name in RESULTS if name not in HOLD_TIMES}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What standard error says of a command that must end with 2, on one line."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def killed_once_there(file: Path, *words: str) -> None:
    """A command in a process of its own, killed as soon as it has written the file."""
    process = subprocess.Popen([sys.executable, "-m", "gem3d", *words])
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

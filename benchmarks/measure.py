"""Running a program as a user would, with its wall time, CPU time and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a command took.

    wall_s: from start to end.
    cpu_s: user and system seconds, children included.
    peak_GB: largest resident memory of any one of its processes, in units of 1e9 bytes.
    fresh: measured in this invocation, not read back from an earlier one.
    """

    wall_s: float
    cpu_s: float
    peak_GB: float
    fresh: bool = True

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Usage:
        return cls(**{**json.loads(path.read_text()), "fresh": False})


class CommandFailed(RuntimeError):
    """A program ended with an error."""


def run_measured(
    command: Sequence[str | Path], *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> Usage:
    """Run a command to its end and measure it; its output is shown only if it fails.

    Linux hands a process the peak memory of the one that it was started from. A benchmark that has maps in memory
    would thereby inflate every figure, so an interpreter without any module stands between.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "usage.json", Path(folder) / "log"
        launcher = [sys.executable, "-I", "-S", __file__, str(report), *map(str, command)]
        with log.open("wb") as output:
            subprocess.run(
                launcher, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=output, stderr=output
            )
        text = log.read_text(errors="replace")
        if not report.exists():
            raise CommandFailed(f"{command[0]} could not be started:\n{text[-2000:]}")
        found = json.loads(report.read_text())
    if found["status"] != 0:
        shown = " ".join(map(str, command))
        raise CommandFailed(f"{shown}\nended with status {found['status']}:\n{text[-3000:]}")
    return Usage(found["wall_s"], found["cpu_s"], found["peak_GB"])


def _launch(report: str, command: list[str]) -> None:
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    Path(report).write_text(
        json.dumps(
            {
                "status": os.waitstatus_to_exitcode(status),
                "wall_s": round(wall_s, 3),
                "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
                "peak_GB": round(usage.ru_maxrss * unit / 1e9, 4),
            }
        )
    )


if __name__ == "__main__":
    _launch(sys.argv[1], sys.argv[2:])

"""What is left after a fault: runs that are killed, stopped, or let down by the machine, at many moments.

Every fault is made in a process of its own, at a moment that the program itself tells (`faulty.py`). Then the fault
is put right, the same command goes on with --resume, and every file is held against that of a run without faults.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from context import Context
from fault_list import BOX_PX, FAULTS, PIXEL_A, RUNS, SNR, Fault, Place
from faulty import BALLAST
from gem3d.run_directory import ALL_RESULTS, RUN_LOG
from gem3d.simulate import simulate
from gem3d.structures import packaged_structure
from registry import Measurement, Target, benchmark

HOLD_TIMES = {"summary.json", "report.html", "refinement.csv", "refinement.html"}
"""Results that differ from run to run, because they say how long it took."""
OF_A_RUN = (
    "command",
    "resumed",
    "seconds",
    "images_per_second",
    "peak_memory_GB",
    "date",
    "warnings",
    "settings",
    "particle_file",
)
TMPFS_BYTES = 96 << 20
NONE_LOST = Target(0, 0)
TABLES = {
    "kill": "Killed or stopped",
    "disk": "Disk full",
    "denied": "Not allowed, or gone",
    "cut": "Cut and changed files",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    said: str


@benchmark("faults", "what faults of every kind leave behind, and whether --resume makes it good")
def faults(context: Context) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="gem3d-faults-") as scratch:
        bench = Bench(Path(scratch), context)
        for run in RUNS:
            bench.whole_run(run, seed=0)
        bench.whole_run("volume", seed=5)
        # Each runs on one thread.
        with ThreadPoolExecutor(context.threads) as pool:
            for rows in pool.map(lambda fault: list(bench.measure(fault)), FAULTS[:: context.size(1, 12)]):
                yield from rows


class Bench:
    """Particle sets, runs without faults, and a folder for each fault."""

    def __init__(self, root: Path, context: Context) -> None:
        self.root, self.context = root, context
        self._sets: dict[str, Path] = {}
        self._whole: dict[tuple[str, int], Path] = {}

    def measure(self, fault: Fault) -> Iterator[Measurement]:
        self.context.say(fault.case)
        place = self._place(fault)
        if place is None:
            yield Measurement(
                TABLES[fault.kind], fault.case, "exit code", None, note="no small disk can be mounted"
            )
            return
        try:
            yield from self._measure(fault, place)
        finally:
            if fault.small_disk:
                subprocess.run(["umount", place.folder], check=True)
            for folder in (place.folder, place.data):
                shutil.rmtree(folder, ignore_errors=True)

    def _measure(self, fault: Fault, place: Place) -> Iterator[Measurement]:
        def measurement(measure: str, value: float, target: Target | None, note: str = "") -> Measurement:
            return Measurement(TABLES[fault.kind], fault.case, measure, value, target, note)

        whole = self.whole_run(fault.run, seed=0)
        earlier = self.whole_run(fault.run, seed=5) if fault.earlier else None
        if earlier is not None:
            shutil.copytree(earlier, place.out)
        options = ["--overwrite"] if fault.earlier else list(fault.options)
        fault.before(place)
        ended = self._run(fault, place, options, fault.plan(place))
        for plan in fault.then:
            ended = self._run(fault, place, ["--resume"], plan(place))
        wrong = int(ended.exit_code != fault.exit_code)
        yield measurement("exit code", ended.exit_code, None, ended.said)
        damaged = [
            name
            for name, content in results(place.out).items()
            if not self._is_whole(name, content, whole, earlier)
        ]
        yield measurement("damaged files", len(damaged), NONE_LOST, ", ".join(damaged))
        if fault.keeps_earlier:
            assert earlier is not None
            kept, had = results(place.out), results(earlier)
            lost = [name for name in had if kept.get(name) != had[name]]
            yield measurement("earlier results lost", len(lost), NONE_LOST, ", ".join(lost))
        (place.folder / BALLAST).unlink(missing_ok=True)
        fault.repair(place)
        if fault.refuses_resume:
            refused = self._run(fault, place, ["--resume"], {})
            wrong += refused.exit_code != 2
            yield measurement("--resume", refused.exit_code, None, refused.said)
            fault.after_refusal(place)
        again = self._run(fault, place, list(fault.again), {})
        wrong += again.exit_code != 0
        yield measurement("unexpected exit codes", wrong, NONE_LOST, again.said if again.exit_code else "")
        yield measurement("files that differ", *self._differing(place.out, whole))

    def _differing(self, out: Path, whole: Path) -> tuple[float, Target, str]:
        found, wanted = results(out), results(whole)
        wrong = [
            name
            for name in sorted(found.keys() | wanted.keys())
            if (name not in found or name not in wanted)
            or (name not in HOLD_TIMES and found[name] != wanted[name])
            or (name == "summary.json" and lasting(found[name]) != lasting(wanted[name]))
        ]
        wrong += [path.name for path in out.iterdir() if path.name not in (*ALL_RESULTS, RUN_LOG)]
        return len(wrong), NONE_LOST, ", ".join(wrong)

    def _is_whole(self, name: str, content: bytes, whole: Path, earlier: Path | None) -> bool:
        """Whether a file is that of a whole run; where it holds times, whether it has its end."""
        if name == "summary.json":
            return lasting(content) in [lasting((run / name).read_bytes()) for run in (whole, earlier) if run]
        if name in HOLD_TIMES:
            return content.rstrip().endswith(b"</html>") or (
                name.endswith(".csv") and content.endswith(b"\n")
            )
        return content in [results(run).get(name) for run in (whole, earlier) if run]

    def _run(self, fault: Fault, place: Place, options: list[str], plan: dict) -> Ended:
        """A command with a plan of `faulty.py`."""
        constants = {"gem3d.fit.set_slices.WAITING_BYTES": 1 << 20} | (
            {"gem3d.fit.checkpoint.SECONDS_BETWEEN": 0, "gem3d.fit.checkpoint.COSTS_BETWEEN": 0}
            if fault.checkpoints
            else {}
        )
        script = Path(__file__).with_name("faulty.py")
        command = [
            sys.executable,
            script,
            json.dumps({"constants": constants, **plan}),
            *self._arguments(fault.run, place),
        ]
        if fault.without_root and os.geteuid() == 0:
            command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
        done = subprocess.run([*map(str, command), *options], capture_output=True, text=True)
        if "Traceback" in done.stderr:
            return Ended(1, done.stderr)
        said = re.sub(r"\s+", " ", done.stderr.replace(f"{place.folder}/", "").strip())
        return Ended(done.returncode, said)

    def _arguments(self, run: str, place: Place) -> list[str]:
        return [*RUNS[run].command(place), "--threads", "1", "--quiet"]

    def whole_run(self, run: str, *, seed: int) -> Path:
        """The folder of a run without faults."""
        if (run, seed) not in self._whole:
            place = Place(self.root / f"whole-{run}-{seed}", self._set(RUNS[run].particles))
            place.folder.mkdir()
            ended = self._run(Fault("", run, "kill"), place, ["--seed", str(seed)], {})
            if ended.exit_code != 0:
                raise RuntimeError(f"a run without faults failed: {ended.said}")
            self._whole[run, seed] = place.out
        return self._whole[run, seed]

    def _set(self, n: int) -> Path:
        folder = self.root / f"set-{n}"
        if not folder.exists():
            simulate(packaged_structure(), folder, n, BOX_PX, PIXEL_A, SNR, seed=1)
        return folder

    def _place(self, fault: Fault) -> Place | None:
        """A folder for one fault, on a small disk of its own if it needs one, and particles of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        if fault.small_disk:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "none", str(folder)]
            if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
                return None
        data = Path(tempfile.mkdtemp(dir=self.root))
        for path in self._set(RUNS[fault.run].particles).glob("particles.*"):
            shutil.copy(path, data)
        return Place(folder, data)


def results(out: Path) -> dict[str, bytes]:
    """Every result in a folder."""
    return {name: (out / name).read_bytes() for name in ALL_RESULTS if (out / name).exists()}


def lasting(summary: bytes) -> object:
    """What two runs of the same particles and settings must say alike."""

    def kept(value: object) -> object:
        if isinstance(value, dict):
            return {name: kept(inner) for name, inner in value.items() if name not in OF_A_RUN}
        return [kept(inner) for inner in value] if isinstance(value, list) else value

    return kept(json.loads(summary))

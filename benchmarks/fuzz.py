"""Damaged and hostile files for every reader: what comes out other than results and errors with words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from context import Context
from fuzz_readers import READERS
from registry import Measurement, Target, benchmark

HERE = Path(__file__).parent
WORKERS = 2
EXECUTIONS = 500_000  # of each worker
# A worker reports every few seconds; one that does not hangs where no alarm reaches it.
SECONDS_OF_SILENCE = 120


@benchmark("fuzz", "1,000,000 damaged files for each reader: findings, slowest, memory, executions a second")
def fuzz(context: Context) -> Iterator[Measurement]:
    memory = Path("/dev/shm")
    work = (memory if memory.is_dir() else context.work) / f"gem3d-fuzz-{os.getpid()}"
    kept = context.work / "fuzz"
    shutil.rmtree(kept, ignore_errors=True)
    try:
        for name, reader in READERS.items():
            context.say(f"fuzz {reader.what}")
            parts = _run(name, context.size(EXECUTIONS, 250), work / name, kept / name)
            yield from _measurements(reader.what, parts)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@dataclass
class Part:
    """One worker: what it reported last, and how it ended where it did not end well."""

    report: dict[str, float]
    findings: list[str]


def _run(name: str, executions: int, work: Path, kept: Path) -> list[Part]:
    """Fuzz a reader with all workers; inputs of findings go into `kept`, with what was found beside them."""
    folders = [work / str(worker) for worker in range(WORKERS)]
    processes = []
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        command = [
            sys.executable,
            str(HERE / "fuzz_worker.py"),
            name,
            str(folder),
            str(executions),
            str(seed),
        ]
        # Threads of the libraries would take turns with the other worker's.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (folder / "log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    parts = []
    for process, folder in zip(processes, folders, strict=True):
        ending = _wait(process, folder)
        report = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else {}
        findings = dict(report.pop("findings", {}))
        if ending:
            shutil.copy(folder / f"input{READERS[name].suffix}", folder / "finding_death")
            findings["finding_death"] = f"{ending}\n{(folder / 'log').read_text(errors='replace')[-2000:]}"
        for finding, text in findings.items():
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / finding, kept / f"{folder.name}_{finding}")
            (kept / f"{folder.name}_{finding}.txt").write_text(text)
        parts.append(Part(report, list(findings.values())))
    return parts


def _wait(process: subprocess.Popen[bytes], folder: Path) -> str:
    """How a worker ended, or nothing if it did its work."""
    started = time.time()
    while True:
        try:
            status = process.wait(1)
            return "" if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            report = folder / "report.json"
            heard = report.stat().st_mtime if report.exists() else started
            if time.time() - max(heard, started) > SECONDS_OF_SILENCE:
                process.kill()
                process.wait()
                return f"did not react for {SECONDS_OF_SILENCE} s"


def _measurements(case: str, parts: list[Part]) -> Iterator[Measurement]:
    table = "Fuzzing"

    def values(key: str) -> list[float]:
        return [part.report.get(key, 0.0) for part in parts]

    executions = sum(values("executions"))
    found = [finding for part in parts for finding in part.findings]
    note = "; ".join(" ".join(finding.split())[-120:] for finding in found)
    yield Measurement(table, case, "executions", executions)
    yield Measurement(table, case, "accepted, %", 100 * sum(values("accepted")) / max(executions, 1))
    yield Measurement(table, case, "ways through the reader", max(values("ways")))
    yield Measurement(table, case, "findings", len(found), Target(high=0), note=note)
    yield Measurement(table, case, "slowest, CPU s", max(values("slowest_s")), Target(high=1))
    yield Measurement(table, case, "memory grows by, MB", max(values("grown_MB")))
    yield Measurement(table, case, "executions a second", executions / max(*values("wall_s"), 1e-9))

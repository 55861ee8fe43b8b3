"""Measurements in CSV files, each row with the machine, the versions and the commit it was made with."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import relion
from registry import Measurement

MEASURED = ("table", "case", "measure", "value", "target", "met", "note")
MADE_WITH = (
    "date", "commit", "machine", "cores", "memory_GB", "load", "os", "gem3d", "relion", "python", "numpy", "torch",
    "numba",
)  # fmt: skip
COLUMNS = MEASURED + MADE_WITH


def made_with() -> dict[str, str]:
    """Date, machine and versions; `load` tells whether the machine was doing something else at the start."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "machine": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory_GB": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "os": f"{platform.system()} {platform.machine()}",
        "relion": relion.version(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("gem3d", "numpy", "torch", "numba")},
    }


def append(
    path: Path, measurements: Iterable[Measurement], provenance: dict[str, str]
) -> list[dict[str, str]]:
    """Add rows to a CSV file, each written out at once: a long benchmark that fails keeps what it has found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    rows = []
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for measurement in measurements:
            row = {**as_row(measurement), **provenance}
            writer.writerow(row)
            file.flush()
            rows.append(row)
    return rows


def as_row(measurement: Measurement) -> dict[str, str]:
    value, target = measurement.value, measurement.target
    return {
        "table": measurement.table,
        "case": measurement.case,
        "measure": measurement.measure,
        "value": "" if value is None else f"{value:.6g}",
        "target": "" if target is None else str(target),
        "met": "" if target is None else ("yes" if target.met_by(value) else "no"),
        "note": measurement.note,
    }


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _commit() -> str:
    """Short hash, with a plus sign where the sources differ from it."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--", "src", "benchmarks/*.py") else "")
    except OSError:
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

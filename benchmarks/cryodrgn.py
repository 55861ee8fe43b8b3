"""cryoDRGN's `train_nn` on the same images, in an environment of its own, for a bounded time.

python3.11 -m venv cryodrgn-venv && cryodrgn-venv/bin/pip install cryodrgn==4.3.1
python benchmarks/run.py curves --cryodrgn cryodrgn-venv/bin/cryodrgn
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gem3d.particles import read_particles
from measure import CommandFailed

MISSING = "no --cryodrgn: its train_nn is left out"


@dataclass(frozen=True)
class Training:
    """What a bounded run of `train_nn` came to.

    maps: (seconds since its start, map) for every epoch finished.
    images_per_second: of the first epoch, None if it said nothing.
    """

    maps: list[tuple[float, Path]]
    images_per_second: float | None


def train(
    program: Path,
    folder: Path,
    out: Path,
    box_px: int,
    pixel_A: float,
    network: Sequence[str],
    *,
    limit_s: float,
) -> Training:
    """Train on half 1, poses and CTFs from the STAR file, and stop it after `limit_s`.

    Parameters
    ----------
    network: options of the neural network; the rest are the program's defaults.
    """
    out.mkdir(parents=True, exist_ok=True)
    star = folder / "particles.star"
    half = np.flatnonzero(read_particles(star).half_set == 1)
    with (out / "half1.pkl").open("wb") as file:
        pickle.dump(half, file)
    size = ["-D", str(box_px), "--Apix", str(pixel_A)]
    for what in ("pose", "ctf"):
        command = [program, f"parse_{what}_star", star, *size, "-o", out / f"{what}.pkl"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    command = [
        program,
        "train_nn",
        folder / "particles.mrcs",
        "--poses",
        out / "pose.pkl",
        "--ctf",
        out / "ctf.pkl",
    ]
    command += ["--ind", out / "half1.pkl", "-o", out, "-n", "100", "--log-interval", "64"]
    log = out / "train_nn.log"
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command), *network],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        found: dict[Path, float] = {}
        while process.poll() is None and time.perf_counter() - start < limit_s:
            for path in out.glob("reconstruct*.mrc"):
                found.setdefault(path, time.perf_counter() - start)
            time.sleep(1)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode != 0:
            raise CommandFailed(
                f"train_nn ended with status {process.returncode}:\n{log.read_text()[-2000:]}"
            )
        process.wait()
    return Training([(s, path) for path, s in found.items()], _rate(log.read_text(errors="replace")))


def _rate(log: str) -> float | None:
    """Images a second between the first and the last line of the first epoch that count images."""
    stamp = r"(\d+-\w+-\d+ \d+:\d+:\d+)"
    counts = re.findall(stamp + r".*?Epoch: (\d+)/\d+\] \[(\d+)/\d+ images", log)
    first_epoch = [(at, int(n)) for at, epoch, n in counts if epoch == counts[0][1]]
    if len(first_epoch) < 2:
        return None
    (begun, few), (ended, many) = first_epoch[0], first_epoch[-1]
    seconds = [time.mktime(time.strptime(at, "%d-%b-%Y %H:%M:%S")) for at in (begun, ended)]
    return (many - few) / max(seconds[1] - seconds[0], 1.0)

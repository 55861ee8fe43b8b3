"""A million particles: how long their metadata take to read, and the memory that a pass over the images needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from context import Context, SetSpec, gem3d_program
from measure import CommandFailed, run_measured
from registry import Measurement, Target, benchmark

COPIES = 100
FEWER_COPIES = 10
"""Of the set that the memory is compared with: large enough to fill all buffers."""
READ_ONLY = "import sys; from gem3d import read_particles; print(len(read_particles(sys.argv[1])))"
SECONDS_BETWEEN_SAMPLES = 0.01


@benchmark(
    "million", "1,000,000 particles of 64 px: seconds to read their metadata, memory of the accumulation"
)
def million(context: Context) -> Iterator[Measurement]:
    n, box = context.size((10_000, 64), (4_000, 32))
    spec = SetSpec(context.structures[0], n, box, 204.8 / box, context.size(0.01, 0.1), 1, envelope_A2=60.0)
    folder = context.particle_set(spec)
    fewer, many = (
        _copies(folder, context.work / "million" / f"{folder.name}-{times}", times)
        for times in (FEWER_COPIES, COPIES)
    )
    table, large = "A million particles", f"{n * COPIES:,} x {box} px"

    usage = run_measured([sys.executable, "-c", READ_ONLY, many])
    yield Measurement(table, large, "read metadata, s", usage.wall_s, Target(high=30))
    yield Measurement(table, large, "read metadata, peak GB", usage.peak_GB, Target(high=2))
    memory_GB = {}
    for star, count in ((fewer, n * FEWER_COPIES), (many, n * COPIES)):
        memory_GB[count] = _memory_of_accumulation(context, star, context.work / "million" / f"out-{count}")
        case = f"{count:,} x {box} px"
        yield Measurement(table, case, "resident during accumulation, GB", memory_GB[count])
    fewest, most = memory_GB
    extra_B = 1e9 * (memory_GB[most] - memory_GB[fewest]) / (most - fewest)
    yield Measurement(table, large, "more than a tenth of it, bytes a particle", extra_B, Target(high=300))


def _copies(folder: Path, out: Path, times: int) -> Path:
    """A STAR file of the set's particles so many times over, each time with other names of the same stack."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    text = (folder / "particles.star").read_text()
    first = re.search(r"^.*@particles\.mrcs", text, re.MULTILINE)
    assert first is not None
    header, rows = text[: first.start()], text[first.start() :].rstrip("\n") + "\n"
    star = out / "particles.star"
    with star.open("w") as file:
        file.write(header)
        for copy in range(times):
            # Hard links are other files to everyone, and take no room.
            os.link(folder / "particles.mrcs", out / f"particles_{copy:03d}.mrcs")
            file.write(rows.replace("@particles.mrcs", f"@particles_{copy:03d}.mrcs"))
    return star


def _memory_of_accumulation(context: Context, star: Path, out: Path) -> float:
    """Largest resident memory in GB while the images are read."""
    context.say(f"gem3d reconstruct {star}")
    options = ["--threads", str(context.threads), "--quiet", "--overwrite", *context.few_gaussians]
    command = [*gem3d_program(), "reconstruct", str(star), "--out", str(out), *options]
    shutil.rmtree(out, ignore_errors=True)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        largest = 0
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_SAMPLES)
            log = (out / "run.log").read_text() if (out / "run.log").exists() else ""
            if "  linear maps: begun" in log:
                process.kill()  # the rest does not depend on the number of particles
            elif "  accumulate: begun" in log:
                largest = max(largest, _resident_bytes(process.pid))
        assert process.stderr is not None
        complaint = process.stderr.read().decode()
    if largest == 0:
        raise CommandFailed(f"{' '.join(command)}\nnever came to the images:\n{complaint[-2000:]}")
    return largest / 1e9


def _resident_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return 0 if found is None else int(found[1]) * 1024

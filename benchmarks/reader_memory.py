"""Memory that reading a large file takes, as a multiple of the file's size."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context import Context
from fuzz_seeds import mrc_file
from registry import Measurement, Skipped, Target, benchmark

MOST_TIMES_THE_FILE = 4.0
# Modules, their first use and its buffers take some memory once; it must not count.
WARM_UP = 50
MEASURE = """
import contextlib, gc, re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from gem3d.errors import Gem3dError
from fuzz_readers import READERS
def status_kB(word):
    return int(re.search(word + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
def read(path):
    with contextlib.suppress(Gem3dError):
        READERS[sys.argv[2]].read(Path(path), int(sys.argv[3]))
read(sys.argv[4])
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before_kB = status_kB("VmRSS")
read(sys.argv[5])
print((status_kB("VmHWM") - before_kB) * 1024)
"""


@dataclass(frozen=True)
class Case:
    """A kind of file.

    Attributes
    ----------
    what: as the table of results calls it.
    reader, way: how it is read, as in fuzz_readers.py.
    make: its content, of about so many rows.
    rows: of the large file.
    bounded: whether it may take no more than four times the file: Python's numbers, and bytes made into floats, do.
    """

    what: str
    reader: str
    way: int
    make: Callable[[int], bytes]
    rows: int
    bounded: bool = True


@benchmark("reader_memory", "memory that reading takes, as a multiple of the file's size")
def reader_memory(context: Context) -> Iterator[Measurement]:
    if not Path("/proc/self/clear_refs").exists():
        raise Skipped("needs Linux, which tells and resets the peak of a process's memory")
    folder = context.work / "reader_memory"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    here = Path(__file__).parent
    for case in CASES:
        small, large = folder / "small", folder / "large"
        small.write_bytes(case.make(WARM_UP))
        large.write_bytes(case.make(context.size(case.rows, 2_000)))
        command = [sys.executable, "-c", MEASURE, here, case.reader, str(case.way), small, large]
        taken = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        table, size = "Memory of reading", large.stat().st_size
        yield Measurement(table, case.what, "size, MB", size / 1e6)
        target = Target(high=MOST_TIMES_THE_FILE) if case.bounded else None
        yield Measurement(table, case.what, "memory, times the size", int(taken) / size, target)


def _star(n: int) -> bytes:
    rows = (
        f"{i % 100 + 1:06d}@Extract/job123/Micrographs/FoilHole_{i // 100:07d}_Data.mrcs {i % 360}.123456 "
        f"{i % 180}.654321 -{i % 360}.111111 1.250000 -3.500000 10234.567383 9876.543213 45.123456 1 {i % 2 + 1} "
        f"MotionCorr/job002/Micrographs/FoilHole_{i // 100:07d}_Data.mrc 0.000000 1.000000 0.000000 "
        f"{i % 97} 0.234567 123.456789 2345.678901 0.912345\n"
        for i in range(n)
    )
    names = (
        "ImageName AngleRot AngleTilt AnglePsi OriginXAngst OriginYAngst DefocusU DefocusV DefocusAngle OpticsGroup "
        "RandomSubset MicrographName PhaseShift CtfScalefactor CtfBfactor GroupNumber NormCorrection "
        "LogLikeliContribution NrOfSignificantSamples MaxValueProbDistribution"
    )
    optics = (
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        "_rlnImagePixelSize\n_rlnImageSize\n1 300 2.7 0.1 1.5 64\n"
    )
    header = "".join(f"_rln{name} #{number}\n" for number, name in enumerate(names.split(), start=1))
    return f"{optics}\ndata_particles\nloop_\n{header}".encode() + "".join(rows).encode()


def _letters(columns: int) -> Callable[[int], bytes]:
    header = "data_particles\nloop_\n" + "".join(f"_rlnColumn{i}\n" for i in range(columns))
    return lambda n: (header + (" ".join("a" * columns) + "\n") * n).encode()


def _cs(n: int) -> bytes:
    columns = [
        ("uid", "<u8"), ("blob/path", "|S100"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
        ("blob/psize_A", "<f4"), ("blob/sign", "<f4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"),
        ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"),
        ("ctf/phase_shift_rad", "<f4"), ("alignments3D/split", "<u4"), ("alignments3D/shift", "<f4", (2,)),
        ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"), ("alignments3D/spare", "<f4", (20,)),
    ]  # fmt: skip
    rows = np.zeros(n, columns)
    rows["uid"], rows["blob/idx"] = np.arange(n), np.arange(n) % 100
    rows["blob/path"] = [b"J1/extract/micrograph_%07d_particles.mrc" % (i // 100) for i in range(n)]
    rows["blob/shape"], rows["blob/psize_A"], rows["alignments3D/psize_A"] = 64, 1.5, 1.5
    rows["ctf/accel_kv"], rows["ctf/cs_mm"], rows["ctf/df1_A"], rows["ctf/df2_A"] = 300, 2.7, 15000, 14000
    rows["ctf/amp_contrast"], rows["blob/sign"] = 0.1, -1
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def _poses(protocol: int) -> Callable[[int], bytes]:
    def make(n: int) -> bytes:
        return pickle.dumps((np.tile(np.eye(3), (n, 1, 1)), np.zeros((n, 2))), protocol=protocol)

    return make


def _map(mode: int, dtype: str) -> Callable[[int], bytes]:
    return lambda n: mrc_file(np.ones((round(n ** (1 / 3)),) * 3, dtype), mode)


CASES = (
    Case("STAR, particles as RELION 4 writes them", "star", 1, _star, 100_000),
    Case("STAR, 17 columns of one letter", "star", 1, _letters(17), 1_000_000),
    Case("STAR, one column of one letter", "star", 1, _letters(1), 10_000_000),
    Case(".cs, particles", "cs", 2, _cs, 100_000),
    Case("pickle, poses, protocol 0", "pickle", 0, _poses(0), 100_000),
    Case("pickle, poses, protocol 2", "pickle", 0, _poses(2), 200_000),
    Case("pickle, poses, protocol 5", "pickle", 0, _poses(5), 200_000),
    Case("pickle, list of integers", "pickle", 2, lambda n: pickle.dumps(list(range(n))), 1_000_000, False),
    Case("pickle, list of floats", "pickle", 2, lambda n: pickle.dumps([i / 3 for i in range(n)]), 1_000_000, False),
    Case(
        "pickle, list of numpy numbers", "pickle", 2,
        lambda n: pickle.dumps([np.int64(i) for i in range(n)]), 500_000, False,
    ),
    Case("pickle, tuples in tuples", "pickle", 2, lambda n: b"\x80\x02" + b")\x85" * n + b".", 2_000_000, False),
    Case("MRC map, 32-bit floats", "map", 0, _map(2, "<f4"), 8_000_000),
    Case("MRC map, bytes", "map", 0, _map(0, "i1"), 8_000_000, False),
)  # fmt: skip

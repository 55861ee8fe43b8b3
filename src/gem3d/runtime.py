"""The process around the computation: what libraries read from it, the cache of compiled kernels, peak memory."""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import sys
import tempfile
from pathlib import Path


def tune_libraries() -> None:
    """Set what torch reads from the environment; must run before it is imported.

    By default an idle OpenMP thread spins on its core for a while, just when a thread of our kernels needs it
    (`gem3d.threads`). And torch's large arrays come in fresh pages of 4 kB, each a fault to the kernel: with huge
    pages the system time of a whole reconstruction falls to half (17 to 8 s on 2 cores).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Multiplications and additions of a GPU kernel may be one instruction; Triton warns where nobody has said so.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    # What --deterministic asks of cuBLAS.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def choose_kernel_cache() -> None:
    """Point numba at a writable folder for compiled kernels; must run before numba is imported.

    Numba writes beside the source by default, which fails in a read-only installation. The user's cache folder is
    tried first, then a private temporary one, where kernels are compiled again in each run but nothing fails.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    cache = base / "gem3d" / "kernels"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="gem3d-kernels-"))
    os.environ["NUMBA_CACHE_DIR"] = str(cache)


def return_freed_memory() -> None:
    """Give the system back what was freed: after reading a large STAR file, glibc would keep hundreds of bytes a row.

    Does nothing where the C library is another.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def kernels_are_compiled() -> bool:
    """Whether an earlier run has left compiled kernels in the cache."""
    return any(Path(os.environ.get("NUMBA_CACHE_DIR", ".")).rglob("*.nbi"))


def command_line() -> str | None:
    """The command that this process was started by, to repeat it in a shell; None if it is not ours."""
    name = Path(sys.argv[0]).stem
    ours = name == "gem3d" or (name == "__main__" and Path(sys.argv[0]).parent.name == "gem3d")
    return shlex.join(["gem3d", *sys.argv[1:]]) if ours else None


def peak_memory_GB() -> float:
    """Largest resident memory of this process so far, in units of 1e9 bytes."""
    # Linux counts what a parent held before it became this program into ru_maxrss, but not into VmHWM.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9

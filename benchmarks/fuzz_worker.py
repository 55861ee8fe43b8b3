"""Fuzz one reader in this process, for `fuzz.py`, which starts it and outlives it.

The file being read is always the one at `FOLDER/input.SUFFIX`: when this process dies, that is what killed it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from fuzz_mutations import Mutator
from fuzz_readers import READERS, is_refusal, seeds
from gem3d.errors import Gem3dWarning

SECONDS_TO_HANG = 10
# Files have at most 16 kB: whoever asks for this much more does as a file claims, not as it is.
MEMORY_ALLOWED = 64 << 20
_MOST_IN_POOL = 3000
_LONGEST_MESSAGE = 20_000
_SOURCES = f"{os.sep}gem3d{os.sep}"
# Events of the interpreter, see https://docs.python.org/3.11/library/audit_events.html
_CODE = ("exec", "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen",
         "pickle.find_class", "socket.connect", "os.remove", "os.rename", "os.mkdir", "shutil.")  # fmt: skip


class Hang(BaseException):
    """Raised by the alarm."""


class Watch:
    """Runs a reader and tells what it did, in words that are alike for inputs that took it the same way."""

    def __init__(self, name: str, folder: Path) -> None:
        self.reader = READERS[name]
        self.path = folder / f"input{self.reader.suffix}"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        self._warned: list[tuple[str, int]] = []
        self._wrong: list[str] = []
        self._running = False
        warnings.simplefilter("always")
        warnings.showwarning = self._on_warning
        sys.addaudithook(self._on_event)
        signal.signal(signal.SIGALRM, _on_alarm)

    def run(self, data: bytes) -> tuple[tuple[object, ...], str]:
        """The way that the reader took, and what is wrong with it, or nothing."""
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        self._warned.clear()
        self._wrong.clear()
        raised: tuple[object, ...] = ()
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_HANG)
        self._running = True
        try:
            self.reader.run(self.path, data)
        except BaseException as error:
            self._running = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            raised = _way(error)
            if isinstance(error, KeyboardInterrupt):
                raise
            if not is_refusal(error):
                self._wrong.append("".join(traceback.format_exception(error))[-2000:])
            else:
                self._check_message(str(error))
        self._running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return (*raised, *self._warned), "\n".join(self._wrong)

    def _check_message(self, message: str) -> None:
        try:
            message.encode()
        except UnicodeError:
            self._wrong.append(f"a message that cannot be shown: {message!r}")
        if len(message) > _LONGEST_MESSAGE:
            self._wrong.append(f"a message of {len(message)} letters: {message[:500]}")

    def _on_warning(
        self, message: Warning | str, category: type[Warning], file: str, line: int, *_: Any
    ) -> None:
        self._warned.append((file, line))
        if not issubclass(category, Gem3dWarning):
            self._wrong.append(f"{file}:{line}: {category.__name__}: {message}")

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._running:
            return
        if event.startswith(_CODE):
            self._wrong.append(f"{event} {arguments!r:.300}")
        elif event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._wrong.append(f"writes {arguments[0]!r}")


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"took more than {SECONDS_TO_HANG} s")


def _way(error: BaseException) -> tuple[object, ...]:
    """Where in gem3d an error came from, and of which column it speaks."""
    way: list[object] = [type(error)]
    for one in (error, error.__context__):
        trace = None if one is None else one.__traceback__
        while trace is not None:
            if _SOURCES in trace.tb_frame.f_code.co_filename:
                way.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
            trace = trace.tb_next
    column = re.search(r"column [A-Za-z0-9_/]{1,40}", str(error)[:1000])
    return (*way, re.sub(r"\d+", "", column[0]) if column else "")


def main(name: str, folder: Path, executions: int, seed: int) -> None:
    watch, start_pool, rng = Watch(name, folder), seeds(name), Random(f"{name} {seed}")
    pool = list(start_pool)
    mutator = Mutator(pool, watch.reader.damage, watch.reader.words, rng)
    ways: Counter[tuple[object, ...]] = Counter()
    findings: dict[str, str] = {}
    slowest, done = 0.0, 0
    known: set[str] = set()

    def execute(data: bytes) -> None:
        nonlocal slowest, done
        begun = time.thread_time()
        way, wrong = watch.run(data)
        slowest = max(slowest, time.thread_time() - begun)
        ways[way] += 1
        done += 1
        if ways[way] == 1 and len(pool) < _MOST_IN_POOL:
            pool.append(data)
        if wrong and (kind := re.sub(r"\d+", "", wrong)[-400:]) not in known:
            known.add(kind)
            shutil.copy(watch.path, folder / f"finding_{len(known):03d}")
            findings[f"finding_{len(known):03d}"] = wrong

    for data in start_pool:
        watch.run(data)  # imports what is imported late, which is no finding
    for data in start_pool:
        execute(data)
    done = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = _virtual_bytes() + MEMORY_ALLOWED
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    began = time.perf_counter()
    while done < executions:
        execute(mutator.make())
        if done % 5000 == 0 or done == executions:
            report = {
                "executions": done,
                "ways": len(ways),
                "accepted": sum(n for way, n in ways.items() if not way or type(way[0]) is tuple),
                "slowest_s": slowest,
                "grown_MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
                "wall_s": time.perf_counter() - began,
                "findings": findings,
            }
            (folder / "report.new").write_text(json.dumps(report, indent=1))
            (folder / "report.new").replace(folder / "report.json")


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

"""gem3d with faults built in, for `faults.py` and the tests: python faulty.py PLAN COMMAND...

PLAN is JSON: `constants` to set, by dotted name, and `faults`, each with

    at  what triggers it: ["call", NAME, N] before the N-th call of a function, ["called", NAME, N] after it,
        ["log", TEXT] after a line of run.log that holds the text, ["write", FILE, N] when the N-th version of a file
        is half written under its temporary name, ["written", FILE, N] when it has got its name;
    do  what happens: ["signal", NAME] to this process, ["truncate", FILE, BYTES], ["move", FILE, TO],
        ["mode", FILE, MODE], ["fill", FOLDER, BYTES] leaves so many bytes of the disk free, ["limit", BYTES] lets no
        file grow larger.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BALLAST = "ballast"


def act(what: list[Any]) -> None:
    """Make one fault happen."""
    kind, *rest = what
    if kind == "signal":
        os.kill(os.getpid(), signal.Signals[rest[0]])
    elif kind == "truncate":
        os.truncate(rest[0], rest[1])
    elif kind == "move":
        shutil.move(rest[0], rest[1])
    elif kind == "mode":
        Path(rest[0]).chmod(rest[1])
    elif kind == "fill":
        fill(Path(rest[0]), rest[1])
    elif kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (rest[0], resource.RLIM_INFINITY))
    else:
        raise ValueError(f"no fault {kind}")


def fill(folder: Path, free_bytes: int) -> None:
    """Leave so many bytes of a small disk free."""
    with (folder / BALLAST).open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        ballast.truncate(max(0, ballast.tell() - free_bytes))


def nth(number: int, then: list[Any]) -> Callable[[], bool]:
    """A counter that acts when it is called for the `number`-th time."""
    calls = 0

    def count() -> bool:
        nonlocal calls
        calls += 1
        if calls == number:
            act(then)
        return calls == number

    return count


def wrap(name: str, before: Callable[..., Any] | None, after: Callable[..., Any] | None) -> None:
    """Call something before or after each call of a function, given by its dotted name."""
    owner_name, attribute = name.rsplit(".", 1)
    owner = find(owner_name)
    real = getattr(owner, attribute)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before(*arguments)
        result = real(*arguments, **named)
        if after is not None:
            after(*arguments)
        return result

    setattr(owner, attribute, wrapped)


def find(name: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, attribute = name.rsplit(".", 1)
        return getattr(importlib.import_module(module), attribute)


def arm(at: list[Any], then: list[Any]) -> None:
    """Have one fault wait for its moment."""
    kind, name, *number = at
    count = nth(number[0] if number else 1, then)
    if kind == "call":
        wrap(name, lambda *_: count(), None)
    elif kind == "called":
        wrap(name, None, lambda *_: count())
    elif kind == "log":
        wrap("gem3d.run_log.RunLog.write", None, lambda log, line: name in line and count())
    elif kind == "write":

        def half_written(path: Path, to: Path) -> None:
            if to.name == name:
                whole = path.read_bytes()
                os.truncate(path, len(whole) // 2)
                count()
                path.write_bytes(whole)

        wrap("pathlib.Path.replace", half_written, None)
    elif kind == "written":
        wrap("pathlib.Path.replace", None, lambda path, to: Path(to).name == name and count())
    else:
        raise ValueError(f"no moment {kind}")


def main() -> None:
    plan = json.loads(sys.argv[1])
    sys.argv = ["gem3d", *sys.argv[2:]]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what shells begin in the background
    from gem3d.cli import main as gem3d

    for name, value in plan.get("constants", {}).items():
        owner, attribute = name.rsplit(".", 1)
        setattr(importlib.import_module(owner), attribute, value)
    for fault in plan.get("faults", ()):
        arm(fault["at"], fault["do"])
    gem3d()


if __name__ == "__main__":
    main()

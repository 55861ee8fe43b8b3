"""What the user sees while the program works: lines, warnings, bars with the time left; and the run's log."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gem3d.errors import Gem3dError, Gem3dWarning
from gem3d.run_log import RunLog
from gem3d.runtime import peak_memory_GB

# A note goes to the log too, if the last one there is older than this.
SECONDS_BETWEEN_NOTES = 20.0


class _StandardError:
    """Standard error for `rich`; a full disk or a closed pipe behind it costs the messages, not the run."""

    @property
    def _stream(self) -> TextIO:
        # Not what `rich` puts in its place while a bar is shown, which would write here again.
        stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return stream

    def write(self, text: str) -> int:
        with suppress(OSError), flushing(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def error_console(*, quiet: bool = False) -> Console:
    """A console on standard error, as the whole program has it."""
    file = None if sys.stderr is None else cast(TextIO, _StandardError())
    return Console(file=file, stderr=True, quiet=quiet, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def flushing(stream: TextIO | None) -> Iterator[None]:
    """Write out at the end of the block what the stream holds.

    Where that fails, this and all that follows goes nowhere: else Python would try again at its very end, and change
    the exit code. What else ends the block comes before such a failure. A closed stream is None.
    """
    try:
        yield
    except SystemExit:
        _write_out(stream)
        raise
    except BaseException:
        with suppress(OSError):
            _write_out(stream)
        raise
    _write_out(stream)


def _write_out(stream: TextIO | None) -> None:
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):  # not every stream is a file's
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()
        raise


class Report(Protocol):
    """What a stage of work calls as it goes on."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say how much is done, of how much, and what there is to say of it."""


class Reporter:
    """Says what is being done on standard error, unless quiet, and in the log, always.

    Attributes
    ----------
    log: kept in memory until it is given a file.
    seconds: of each finished stage, by name.
    warnings: every warning so far.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = error_console(quiet=quiet)
        self.log = RunLog(self.warn)
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        """Print one line."""
        self.console.print(message, markup=False)
        self.log.write(message)

    def warn(self, message: str) -> None:
        """Print a warning and keep it."""
        self.warnings.append(message)
        self.console.print(f"warning: {message}", style="yellow", markup=False)
        self.log.write(f"WARNING {message}")

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Show and log every Python warning of the block, and log the error that ends it; closes the log."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", Gem3dWarning)
            warnings.showwarning = self._show_warning
            try:
                yield
            except Gem3dError as error:
                self.log.write(f"ERROR {error}")
                raise
            except KeyboardInterrupt as stop:
                self.log.write(f"ERROR {stop}" if str(stop) else "ERROR interrupted")
                raise
            except BaseException:
                self.log.write(f"ERROR in gem3d itself\n{traceback.format_exc()}")
                raise
            finally:
                self.log.close()

    @contextmanager
    def stage(self, name: str, unit: str = "") -> Iterator[Report]:
        """Time a stretch of work and show a bar with an estimate of the time left; yields a `Report`.

        Parameters
        ----------
        unit: what is counted ("images"); without one the bar shows a share.
        """
        self.log.write(f"{name}: begun")
        start = time.perf_counter()
        count = TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit)
        with Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(24),
            *([count] if unit else [TaskProgressColumn()]),
            TextColumn("[dim]took"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
        ) as bar:
            task = bar.add_task(name, total=100, note="")
            noted_s = start

            def report(done: int, total: int, note: str = "") -> None:
                nonlocal noted_s
                if (
                    note
                    and note != bar.tasks[0].fields["note"]
                    and time.perf_counter() - noted_s > SECONDS_BETWEEN_NOTES
                ):
                    noted_s = time.perf_counter()
                    self.log.write(f"{name}: {100 * done / total:.0f} %, {note}")
                bar.update(task, completed=done, total=total, note=note)

            try:
                yield report
            except BaseException:
                bar.update(task, visible=False)
                raise
            # A fit may stop before its last step: the bar is then full, not stuck.
            done = bar.tasks[0].completed
            bar.update(task, completed=done or 100, total=done or 100, note="")
        self.seconds[name] = round(time.perf_counter() - start, 3)
        self.log.write(f"{name}: {self.seconds[name]:.1f} s; peak memory so far {peak_memory_GB():.2f} GB")

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: str | None = None,
    ) -> None:
        ours = issubclass(category, Gem3dWarning)
        self.warn(str(message) if ours else f"{category.__name__}: {message} ({filename}, line {lineno})")

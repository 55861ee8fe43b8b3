"""What the user sees while the program works: lines, warnings, bars with the time left; and the run's log."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.log = RunLog()
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
                if self.log.lost is not None:
                    self.console.print(f"run.log is incomplete: {self.log.lost.strerror}", markup=False)

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

"""Progress of long work, with an estimate of the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, int], None]


class Reporter:
    """Says what is being done, on standard error; silent when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, message: str) -> None:
        """Print one line."""
        self.console.print(message)

    @contextmanager
    def task(self, description: str) -> Iterator[Report]:
        """Show a bar with an estimate of the time left while the block runs; yields `report(done, total)`."""
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
            # A fit may stop before its last step: the bar is then full, not stuck.
            bar.update(task, total=bar.tasks[0].completed)

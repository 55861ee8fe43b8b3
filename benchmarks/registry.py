"""What a benchmark is: a name, what it shows, and a function that yields measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from context import Context


@dataclass(frozen=True)
class Target:
    """A range that a measured value has to lie in, ends included; None for an open end."""

    low: float | None = None
    high: float | None = None

    def met_by(self, value: float | None) -> bool:
        if value is None:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f">= {self.low:g}" if self.low is not None else f"<= {self.high:g}"


@dataclass(frozen=True)
class Measurement:
    """One number of one case.

    table: heading under which it is shown.
    case: row of the table, such as "5a1a, seed 1".
    measure: column of the table, unit included.
    value: None where there is no number; `note` then says why.
    """

    table: str
    case: str
    measure: str
    value: float | None
    target: Target | None = None
    note: str = ""


Run = Callable[["Context"], Iterator[Measurement]]


@dataclass(frozen=True)
class Benchmark:
    """A registered benchmark.

    in_all: part of `run.py all`.
    """

    name: str
    what: str
    run: Run
    in_all: bool = True


REGISTRY: dict[str, Benchmark] = {}


def benchmark(name: str, what: str, *, in_all: bool = True) -> Callable[[Run], Run]:
    """Register a function as the benchmark `name`."""

    def register(run: Run) -> Run:
        if name in REGISTRY:
            raise ValueError(f"two benchmarks are called {name}")
        REGISTRY[name] = Benchmark(name, what, run, in_all)
        return run

    return register


class Skipped(Exception):
    """Raised by a benchmark that cannot run here; the message says what is missing."""

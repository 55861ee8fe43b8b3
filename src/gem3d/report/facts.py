"""What a report may know beside the assessment: how the maps were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gem3d.fit.result import Round
from gem3d.gaussians import Gaussians


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run; of bare maps, next to nothing.

    title: of the page; "" for the name of the particle file, if the summary has one.
    command: the command line that repeats the run.
    summary: what summary.json holds, or as much of it as there is (`summary.summarise`).
    gaussians: of the final map.
    rounds: the rounds of every fit, by the fit's name ("half 1", "half 2", "final map").
    """

    title: str = ""
    command: str | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    gaussians: Gaussians | None = None
    rounds: Mapping[str, tuple[Round, ...]] | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run warned of."""
        return tuple(self.summary.get("warnings", ()))

"""What a report may know beside the assessment: how the maps were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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

    @property
    def limited(self) -> bool:
        """Whether the run was told to use nothing finer than some resolution."""
        return self.summary.get("settings", {}).get("max_resolution_A") is not None

    @property
    def linear_names(self) -> tuple[str, ...]:
        """File names of the linear half maps: the user's, or those that a run gives them."""
        given = self.summary.get("maps", {}).get("linear")
        return tuple(Path(path).name for path in given or ("linear_half1.mrc", "linear_half2.mrc"))

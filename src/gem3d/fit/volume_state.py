"""All that a fit to normal equations has reached, in tensors and numbers: what a checkpoint holds.

A fit that goes on from a state takes the very steps that it would have taken without the interruption.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gem3d.fit.descent import Descent
from gem3d.fit.result import Round
from gem3d.fit.stopping import BestSoFar
from gem3d.gaussians import Gaussians

# A round ends after so many steps without a gain in held-out likelihood, or so many with next to none.
PATIENCE, GAIN_WINDOW = 6, 10


@dataclass
class VolumeState:
    """Where a fit stands.

    Attributes
    ----------
    descent, best, rate, step, training_loss: of the round at hand: the Gaussians on their way with Adam's memory, the
        best so far, the rate of its first steps, the next step, and the loss before each.
    folding: the held-out particles are being folded in.
    kept, kept_loss: the Gaussians of the last round that was kept, and their held-out loss; None in the first.
    rounds: those that have ended.
    steps: done in all.
    """

    descent: Descent
    rate: float
    best: BestSoFar = field(default_factory=lambda: BestSoFar(PATIENCE, GAIN_WINDOW))
    step: int = 0
    training_loss: list[float] = field(default_factory=list)
    folding: bool = False
    kept: Gaussians | None = None
    kept_loss: float = math.inf
    rounds: list[Round] = field(default_factory=list)
    steps: int = 0

    def begin_round(self, descent: Descent, rate: float, *, folding: bool = False) -> None:
        """Go on with other Gaussians."""
        self.descent, self.rate, self.folding = descent, rate, folding
        self.best = BestSoFar(PATIENCE, GAIN_WINDOW)
        self.step, self.training_loss = 0, []

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name."""
        groups = {
            "current": self.descent.current.parameters,
            "adam": self.descent.adam.state(),
            "best": {} if self.best.gaussians is None else self.best.gaussians.parameters,
            "kept": {} if self.kept is None else self.kept.parameters,
        }
        return {
            f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()
        }

    def numbers(self) -> dict[str, Any]:
        """Everything else; JSON keeps it to the last bit."""
        return {
            "unit_mass": self.descent.current.unit_mass,
            "rate": self.rate,
            "step": self.step,
            "training_loss": self.training_loss,
            "held_out_loss": self.best.losses,
            "folding": self.folding,
            "kept_loss": self.kept_loss,
            "rounds": [asdict(each) for each in self.rounds],
            "steps": self.steps,
        }

    @torch.no_grad()
    def restore(
        self,
        tensors: dict[str, torch.Tensor],
        numbers: dict[str, Any],
        *,
        descent_from: Callable[[Gaussians], Descent],
    ) -> None:
        """Go on from what `tensors` and `numbers` gave, with as many Gaussians as they are of.

        Raises
        ------
        KeyError, TypeError, ValueError: they are of another fit.
        """
        start = self.descent.current
        if numbers["unit_mass"] != start.unit_mass:
            raise ValueError("it began from other Gaussians")
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            group, key = name.split(".")
            groups.setdefault(group, {})[key] = tensor.to(start.centres_A.device)
        current = start.replaced(groups["current"])
        self.begin_round(descent_from(current), numbers["rate"])
        self.descent.current.copy_(current)
        self.descent.adam.restore(groups["adam"], numbers["step"])
        self.best.losses = list(numbers["held_out_loss"])
        self.best.gaussians = start.replaced(groups["best"]) if "best" in groups else None
        self.kept = start.replaced(groups["kept"]) if "kept" in groups else None
        self.training_loss = list(numbers["training_loss"])
        losses = ("training_loss", "held_out_loss")
        self.rounds = [
            Round(**each | {name: tuple(each[name]) for name in losses}) for each in numbers["rounds"]
        ]
        for name in ("step", "folding", "kept_loss", "steps"):
            setattr(self, name, numbers[name])

"""All that a training by images has reached, in tensors and numbers: what a checkpoint holds.

A training that goes on from a state takes the very steps that it would have taken without the interruption.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gem3d import ranks
from gem3d.fit.descent import Descent
from gem3d.fit.gradient_table import GradientTable
from gem3d.fit.stopping import BestSoFar
from gem3d.gaussians import Gaussians

# Averages over the last 1 / (1 + AVERAGING) of the steps (polynomial decay, Shamir & Zhang 2013, ICML): the noise of
# the last steps is gone from the average, and so is the start.
AVERAGING = 7.0


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes
    ----------
    descent: the Gaussians on their way, with Adam's memory.
    average: of the Gaussians over the last steps; what is judged and returned.
    best: of the averages judged so far.
    table: what each block of images has said.
    epoch, block: the next to be done.
    steps: done so far, in all.
    training_loss: of the images seen since the evaluation before, at each evaluation.
    loss_sum, loss_count: of the images seen since the last evaluation.
    """

    descent: Descent
    average: Gaussians
    best: BestSoFar
    table: GradientTable
    epoch: int = 0
    block: int = 0
    steps: int = 0
    training_loss: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_count: int = 0

    @classmethod
    def begin(cls, descent: Descent, best: BestSoFar, n_blocks: int) -> TrainingState:
        """Before the first step."""
        current = descent.current
        n_values = sum(parameter.numel() for parameter in current.parameters.values())
        table = GradientTable(n_blocks, n_values, current.centres_A.device)
        return cls(descent, current.detached(), best, table)

    @torch.no_grad()
    def step(self, block: int, loss: float, n_images: int, rate: float, rate_of_shapes: float) -> None:
        """Move the Gaussians by the gradient gathered from a block of images, and their average after them.

        Gradient and loss are of what this rank has of the block.
        """
        self.loss_sum += self._refine_gradient(block, loss)
        self.descent.step(rate, rate_of_shapes)
        self.loss_count += n_images
        self.steps += 1
        self.block += 1
        share = min(1.0, (1 + AVERAGING) / (self.steps + AVERAGING))
        for name, mean in self.average.parameters.items():
            mean.lerp_(self.descent.current.parameters[name], share)

    def _refine_gradient(self, block: int, loss: float) -> float:
        """Replace the gradient of a block by what all blocks say, and return the loss of the block."""
        parameters = list(self.descent.current.parameters.values())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.ravel() for gradient in gradients])
        if ranks.n_ranks() > 1:
            flat, loss = _over_all_ranks(flat, loss)
        refined = self.table.enter(block, flat)
        if self.epoch == 0:
            refined = flat  # the Gaussians move far, and what other blocks said is out of date at once
        parts = torch.split(refined, [p.numel() for p in parameters])
        for parameter, gradient in zip(parameters, parts, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return loss

    def end_interval(self) -> None:
        """Take down the loss of the images seen since the last time."""
        self.training_loss.append(self.loss_sum / self.loss_count)
        self.loss_sum, self.loss_count = 0.0, 0

    @torch.no_grad()
    def fold(self) -> None:
        """Go on from the best so far, the current average where nothing was judged."""
        if self.best.gaussians is None:
            self.best.gaussians = self.average.detached()
        self.average = self.best.gaussians.detached()
        for name, parameter in self.descent.current.parameters.items():
            parameter.copy_(self.best.gaussians.parameters[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name."""
        groups = {
            "current": self.descent.current.parameters,
            "average": self.average.parameters,
            "best": {} if self.best.gaussians is None else self.best.gaussians.parameters,
            "adam": self.descent.adam.state(),
            "table": {"latest": self.table.latest, "mean": self.table.mean, "met": self.table.met},
        }
        return {
            f"{group}.{name}": tensor.detach()
            for group, tensors in groups.items()
            for name, tensor in tensors.items()
        }

    def numbers(self) -> dict[str, Any]:
        """Everything else; JSON keeps it to the last bit."""
        return {
            "unit_mass": self.average.unit_mass,
            "epoch": self.epoch,
            "block": self.block,
            "steps": self.steps,
            "training_loss": self.training_loss,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "held_out_loss": self.best.losses,
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what `tensors` and `numbers` gave.

        Raises
        ------
        KeyError, ValueError: they are of another training.
        """
        shapes = {
            name: tensor.shape for name, tensor in self.tensors().items() if not name.startswith("best.")
        }
        if numbers["unit_mass"] != self.average.unit_mass or any(
            tensors[name].shape != shape for name, shape in shapes.items()
        ):
            raise ValueError("it began from other Gaussians")
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            group, key = name.split(".")
            groups.setdefault(group, {})[key] = tensor.to(self.average.centres_A.device)
        for name, parameter in self.descent.current.parameters.items():
            parameter.copy_(groups["current"][name])
        self.average = self.average.replaced(groups["average"])
        if "best" in groups:
            self.best.gaussians = self.average.replaced(groups["best"])
        self.descent.adam.restore(groups["adam"], numbers["steps"])
        for name, tensor in groups["table"].items():
            getattr(self.table, name).copy_(tensor)
        self.best.losses = list(numbers["held_out_loss"])
        self.training_loss = list(numbers["training_loss"])
        for name in ("epoch", "block", "steps", "loss_sum", "loss_count"):
            setattr(self, name, numbers[name])


def _over_all_ranks(flat: torch.Tensor, loss: float) -> tuple[torch.Tensor, float]:
    """Sums of gradient and loss, in one message; of the loss' digits float32 has more than anyone looks at."""
    both = torch.cat([flat, flat.new_tensor([loss])])
    ranks.sum_everywhere(both)
    return both[:-1], float(both[-1])

"""All that a training by images has reached, in tensors and numbers: what a checkpoint holds.

A training that goes on from a state takes the very steps that it would have taken without the interruption.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from gem3d import ranks
from gem3d.fit.descent import Descent
from gem3d.fit.gradient_table import GradientTable
from gem3d.fit.graph import Repeated
from gem3d.fit.stopping import BestSoFar
from gem3d.gaussians import Gaussians

# Averages over the last 1 / (1 + AVERAGING) of the steps (polynomial decay, Shamir & Zhang 2013, ICML): the noise of
# the last steps is gone from the average, and so is the start.
AVERAGING = 7.0


class TrainingState:
    """Where a training stands.

    Parameters
    ----------
    n_blocks: of images.

    Attributes
    ----------
    descent: the Gaussians on their way, with Adam's memory.
    average: of the Gaussians over the last steps; what is judged and returned.
    best: of the averages judged so far.
    table: what each block of images has said.
    epoch, block: the next to be done.
    steps: done so far, in all.
    training_loss: of the images seen since the evaluation before, at each evaluation.
    block_loss: gathered with the gradient of a block; a scalar where the Gaussians are, as is
    loss_sum: of the `loss_count` images seen since the last evaluation.
    """

    def __init__(self, descent: Descent, best: BestSoFar, n_blocks: int) -> None:
        device = descent.gradient.device
        self.descent, self.best = descent, best
        self.average = descent.current.detached()
        self.table = GradientTable(n_blocks, len(descent.gradient), device)
        self.epoch = self.block = self.steps = 0
        self.training_loss: list[float] = []
        self.block_loss, self.loss_sum = (
            torch.zeros((), dtype=torch.float64, device=device) for _ in range(2)
        )
        self.loss_count = 0
        self._share = torch.ones((), device=device)
        move = partial(_move, descent, self.average, self.table, self.block_loss, self.loss_sum, self._share)
        self._moves = {
            (refines, met_before): Repeated(partial(move, refines=refines, met_before=met_before), device)
            for refines in (False, True)
            for met_before in (False, True)
        }

    def step(self, block: int, n_images: int, rate: float, rate_of_shapes: float) -> None:
        """Move the Gaussians by the gradient gathered from a block of images, and their average after them.

        Gradient and loss are of what this rank has of the block.
        """
        if ranks.n_ranks() > 1:
            _add_up_over_ranks(self.descent.gradient, self.block_loss)
        self.loss_count += n_images
        self.steps += 1
        self.block += 1
        self.descent.set_rates(rate, rate_of_shapes)
        self._share.fill_(min(1.0, (1 + AVERAGING) / (self.steps + AVERAGING)))
        # In the first epoch the Gaussians move far, and what other blocks said is out of date at once.
        self._moves[self.epoch > 0, self.table.turn_to(block)]()

    def end_interval(self) -> None:
        """Take down the loss of the images seen since the last time."""
        self.training_loss.append(float(self.loss_sum) / self.loss_count)
        self.loss_sum.zero_()
        self.loss_count = 0

    @torch.no_grad()
    def fold(self) -> None:
        """Go on from the best so far, the current average where nothing was judged."""
        if self.best.gaussians is None:
            self.best.gaussians = self.average.detached()
        for gaussians in (self.average, self.descent.current):
            gaussians.copy_(self.best.gaussians)

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
            "loss_sum": float(self.loss_sum),
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
        for gaussians, group in ((self.descent.current, "current"), (self.average, "average")):
            gaussians.copy_(gaussians.replaced(groups[group]))
        if "best" in groups:
            self.best.gaussians = self.average.replaced(groups["best"])
        self.descent.adam.restore(groups["adam"], numbers["steps"])
        for name, tensor in groups["table"].items():
            getattr(self.table, name).copy_(tensor)
        self.best.losses = list(numbers["held_out_loss"])
        self.training_loss = list(numbers["training_loss"])
        self.loss_sum.fill_(numbers["loss_sum"])
        for name in ("epoch", "block", "steps", "loss_count"):
            setattr(self, name, numbers[name])


def _add_up_over_ranks(gradient: torch.Tensor, loss: torch.Tensor) -> None:
    """In one message; of the loss' digits float32 has more than anyone looks at."""
    both = torch.cat([gradient, loss.to(gradient.dtype).view(1)])
    ranks.sum_everywhere(both)
    gradient.copy_(both[:-1])
    loss.copy_(both[-1])


@torch.no_grad()
def _move(
    descent: Descent,
    average: Gaussians,
    table: GradientTable,
    block_loss: torch.Tensor,
    loss_sum: torch.Tensor,
    share: torch.Tensor,
    *,
    refines: bool,
    met_before: bool,
) -> None:
    """What a step of `TrainingState` does on the device; `share` is that of the Gaussians in their new average."""
    refined = table.enter(descent.gradient, met_before=met_before)
    if refines:
        descent.gradient.copy_(refined)
    descent.step()
    for name, mean in average.parameters.items():
        mean.lerp_(descent.current.parameters[name], share)
    loss_sum += block_loss
    block_loss.zero_()

"""One step of the fit to normal equations: the same work on the same memory every time, and no value for the host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from gem3d.fit.descent import Descent
from gem3d.fit.graph import Repeated
from gem3d.fit.operator import NormalOperator, voxelize_on
from gem3d.gaussians import Gaussians


@dataclass(frozen=True)
class Judged:
    """Gaussians as they were before a step.

    Attributes
    ----------
    losses: `(2,)` float64 where they are: per particle of those fitted to, and of the held-out ones, 0 without any.
    """

    gaussians: Gaussians
    losses: torch.Tensor


class VolumeStep:
    """Steps of a descent to normal equations.

    Parameters
    ----------
    judge: equations of the held-out particles, on the same grid; None where there are none.
    """

    def __init__(self, descent: Descent, operator: NormalOperator, judge: NormalOperator | None) -> None:
        self._descent = descent
        self._losses = torch.zeros(2, dtype=torch.float64, device=operator.b.device)
        work = partial(_descend, descent, operator, judge, self._losses)
        self._work = Repeated(work, operator.b.device)

    def __call__(self, rate: float) -> Judged:
        """Judge the Gaussians as they are, and move them by `rate` times the step sizes."""
        before = self._descent.current.detached()
        self._descent.set_rates(rate)
        self._work()
        return Judged(before, self._losses.clone())


def _descend(
    descent: Descent, operator: NormalOperator, judge: NormalOperator | None, losses: torch.Tensor
) -> None:
    volume = voxelize_on(descent.current, operator.grid)
    loss, gradient, held_out_loss = operator.loss_and_gradient(volume.detach(), judge)
    losses[0] = loss / max(operator.n_particles, 1)
    if judge is not None:
        losses[1] = held_out_loss / judge.n_particles
    torch.autograd.backward(volume, gradient)
    descent.step()

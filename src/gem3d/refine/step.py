"""Damped Gauss-Newton (Levenberg-Marquardt) for a batch of particles at once, each with its own damping.

Each particle has its own least-squares problem of at most seven parameters: minus the logarithm of its likelihood,
and of the Gaussian prior around where it started,

    J(change) = sum_k |C P - Y|^2 / sigma^2 + 1/2 sum_p (distance_p / width_p)^2

A step solves (H + Q + d diag(H + Q)) change = -gradient, H the Gauss-Newton matrix and Q the prior's precision. Only
a step that lowers J is taken; otherwise the particle's damping d is raised. So no particle ends worse than it began;
and where it began at the start, where the prior is best, neither does its likelihood.

(Levenberg 1944, Q. Appl. Math. 2:164; Marquardt 1963, SIAM J. Appl. Math. 11:431.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gem3d.kernels.compare_slices import SliceComparison
from gem3d.refine.estimates import Estimates

MOST_STEPS = 8
FIRST_DAMPING, LEAST_DAMPING = 1e-2, 1e-4
RAISED, LOWERED = 8.0, 0.2
# A particle rests once the step that it could take promises less than this, in units of log likelihood.
LEAST_PROMISE = 0.01

Compare = Callable[[torch.Tensor, Estimates], SliceComparison]
"""Compares some of the particles (their places in the batch) with the map, at given estimates of theirs."""


@dataclass(frozen=True)
class Refined:
    """Where particles have come to.

    Attributes
    ----------
    estimates: the new ones.
    distance: `(n, 7)` of them from the start.
    loss: `(n,)` minus the log likelihood there, and `objective` with the prior.
    gradient, normal: `(n, 7)` and `(n, 7, 7)` of the loss there, without the prior.
    comparisons: how many slices were compared with images.
    """

    estimates: Estimates
    distance: torch.Tensor
    loss: torch.Tensor
    objective: torch.Tensor
    gradient: torch.Tensor
    normal: torch.Tensor
    comparisons: int

    def better_of(self, other: Refined) -> Refined:
        """For each particle the one of two results whose objective is lower."""
        theirs = other.objective < self.objective
        estimates = self.estimates.copy()
        estimates.put(theirs, other.estimates.select(theirs))

        def pick(name: str) -> torch.Tensor:
            mine: torch.Tensor = getattr(self, name)
            return torch.where(theirs.view(-1, *[1] * (mine.ndim - 1)), getattr(other, name), mine)

        return Refined(
            estimates,
            pick("distance"),
            pick("loss"),
            pick("objective"),
            pick("gradient"),
            pick("normal"),
            self.comparisons + other.comparisons,
        )


def refine_batch(
    compare: Compare,
    begin: Estimates,
    start: Estimates,
    precision: torch.Tensor,
) -> Refined:
    """Refine a batch of particles.

    Parameters
    ----------
    begin: where they are now.
    start: what the prior is centred on.
    precision: `(7,)` float64, 1 / width^2 of the prior; infinite for a parameter that stays as it is.
    """
    n = len(begin)
    everyone = torch.arange(n)
    free = torch.isfinite(precision)
    current, found = begin.copy(), compare(everyone, begin)
    loss, gradient, normal = found.loss.clone(), found.gradient.clone(), found.normal.clone()
    distance = current.distance_from(start)
    prior = _prior(distance, precision, free)
    comparisons = n
    damping = torch.full((n,), FIRST_DAMPING, dtype=torch.float64)
    active = everyone
    for _ in range(MOST_STEPS):
        change, promise = _step(
            gradient[active], normal[active], distance[active], precision, free, damping[active]
        )
        wanted = promise > LEAST_PROMISE
        active, change = active[wanted], change[wanted]
        if len(active) == 0:
            break
        trial = current.select(active).changed(change)
        found = compare(active, trial)
        comparisons += len(active)
        trial_distance = trial.distance_from(start.select(active))
        trial_prior = _prior(trial_distance, precision, free)
        better = found.loss + trial_prior < loss[active] + prior[active]
        damping[active] *= torch.where(better, LOWERED, RAISED)
        damping.clamp_(min=LEAST_DAMPING)
        taken = active[better]
        current.put(taken, trial.select(better))
        for values, new in (
            (loss, found.loss),
            (gradient, found.gradient),
            (normal, found.normal),
            (distance, trial_distance),
            (prior, trial_prior),
        ):
            values[taken] = new[better]
    return Refined(current, distance, loss, loss + prior, gradient, normal, comparisons)


def _prior(distance: torch.Tensor, precision: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Minus the logarithm of the prior, `(n,)`."""
    return 0.5 * (precision * distance.square())[:, free].sum(dim=1)


def _step(
    gradient: torch.Tensor,
    normal: torch.Tensor,
    distance: torch.Tensor,
    precision: torch.Tensor,
    free: torch.Tensor,
    damping: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The damped step `(n, 7)`, zero where nothing is free, and the decrease that it promises `(n,)`."""
    # The gradient of |v|^2 / 2 with respect to a further turn is v itself, however large v is.
    slope = (gradient + torch.where(free, precision, 0.0) * distance)[:, free]
    matrix = normal[:, free][:, :, free] + torch.diag(precision[free])
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    # Scaled to a unit diagonal: radians, pixels and angstroms differ by many orders of magnitude.
    unit = diagonal.clamp(min=1e-30).rsqrt()
    scaled = matrix * unit[:, :, None] * unit[:, None, :]
    damped = scaled + torch.diag_embed((damping + 1e-9)[:, None].expand_as(unit))
    inner = torch.linalg.solve(damped, -slope * unit)
    promise = -(slope * unit * inner).sum(1) - 0.5 * torch.einsum("np,npq,nq->n", inner, scaled, inner)
    change = torch.zeros_like(distance)
    change[:, free] = inner * unit
    return change, promise

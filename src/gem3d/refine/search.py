"""A coarse search around where particles start, for starts that Gauss-Newton alone would not come back from.

Each of some 250 turns within a given angle is judged by its likelihood after the Gauss-Newton step in shift
that it promises, up to a frequency where neighbouring turns still look alike. The best few are refined in full.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from gem3d.refine.estimates import SHIFT, Estimates
from gem3d.refine.images import ImagesInHand
from gem3d.refine.step import Refined, refine_batch

POINTS_EACH_WAY = 4
"""Of the grid of turns, from the centre of the ball along each axis."""
FINALISTS = 3
# Up to this many Fourier pixels may lie between slices of neighbouring turns at the last radius compared.
FARTHEST_PX = 2.0


def turns_within(angle_deg: float) -> torch.Tensor:
    """`(n, 3)` rotation vectors in radians on a cubic grid in the ball of the given radius, the centre first."""
    along = torch.arange(-POINTS_EACH_WAY, POINTS_EACH_WAY + 1, dtype=torch.float64) / POINTS_EACH_WAY
    grid = torch.cartesian_prod(along, along, along)
    length = grid.norm(dim=1)
    inside = grid[length <= 1 + 1e-9]
    inside = inside[inside.norm(dim=1).argsort(stable=True)]
    return inside * math.radians(angle_deg)


def search_and_refine(
    images: ImagesInHand, begin: Estimates, start: Estimates, precision: torch.Tensor, angle_deg: float
) -> Refined:
    """Refine a batch of particles from the best turns within an angle of where they are.

    Parameters
    ----------
    begin, start, precision: as of `refine_batch`.
    """
    turns = turns_within(angle_deg)
    spacing = math.radians(angle_deg) / POINTS_EACH_WAY
    weight = images.sample_weight
    radius = min(weight.shape[1] - 1, max(4, round(FARTHEST_PX / spacing)))
    last = weight.shape[1] - 1
    coarse = weight[last - radius : last + radius + 1, : radius + 1].clone()
    ky, kx = torch.arange(-radius, radius + 1)[:, None], torch.arange(radius + 1)
    coarse[ky**2 + kx**2 > radius**2] = 0
    n, everyone = len(begin), torch.arange(len(begin))
    free = torch.isfinite(precision)
    losses, changes = [], []
    for turn in turns:
        change = torch.zeros(n, 7, dtype=torch.float64)
        change[:, :3] = turn
        trial = begin.changed(change)
        found = images.compare_to(coarse, everyone, trial)
        distance = trial.distance_from(start)
        slope = found.gradient[:, SHIFT] + precision[SHIFT] * distance[:, SHIFT]
        matrix = found.normal[:, SHIFT, SHIFT] + torch.diag(precision[SHIFT])
        step = torch.linalg.solve(matrix, -slope)
        prior = 0.5 * (precision[free] * distance[:, free].square()).sum(1)
        losses.append(found.loss + prior + 0.5 * (slope * step).sum(1))
        change[:, SHIFT] = step
        changes.append(change)
    order = torch.stack(losses).argsort(dim=0)[:FINALISTS]
    best = refine_batch(images.compare, begin, start, precision)
    best = replace(best, comparisons=best.comparisons + n * len(turns))
    for finalist in order:
        from_there = begin.changed(torch.stack(changes)[finalist, everyone])
        best = best.better_of(refine_batch(images.compare, from_there, start, precision))
    return best

"""How wrong the starting values are: widths of the prior, from the particles themselves.

Near its optimum each particle's log likelihood is a parabola, with the Gauss-Newton matrix H and its top at a
distance d from the start. Under a prior of width w the tops of all particles of a half scatter with the covariance
w^2 1 + H^-1; the w that makes the scatter seen most probable (marginal likelihood) is how wrong the starts are.
Expectation maximisation finds it: w^2 is the mean over the particles of squared distance and posterior variance.

(Empirical Bayes: Robbins 1956; EM for variance components: Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39:1.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gem3d.refine.estimates import CONTRAST, DEFOCUS, SHIFT, TURN

KINDS = (TURN, SHIFT, DEFOCUS, CONTRAST)
EM_STEPS = 200
TOLERANCE = 1e-4


def estimate_widths(
    distance: torch.Tensor,
    gradient: torch.Tensor,
    normal: torch.Tensor,
    precision: torch.Tensor,
    held: torch.Tensor | None = None,
) -> torch.Tensor:
    """Widths of the prior that explain the particles best.

    Parameters
    ----------
    distance: `(n, 7)` from the start to where each particle is.
    gradient, normal: `(n, 7)`, `(n, 7, 7)` of minus the log likelihood there.
    precision: `(7,)` that they were found with; infinite for parameters that are not free.
    held: `(7,)` bool, parameters whose width is known and stays.

    Returns
    -------
    `(7,)` precision, alike within each kind of parameter; infinite where it was.
    """
    free = torch.isfinite(precision)
    wanted = free if held is None else free & ~held
    kinds = [[int(free[: i + 1].sum()) - 1 for i in range(7)[kind] if wanted[i]] for kind in KINDS]
    h = normal[:, free][:, :, free]
    # The top of the parabola lies at d with H d = H distance - gradient.
    right = torch.einsum("npq,nq->np", h, distance[:, free]) - gradient[:, free]
    found = precision[free].clone()
    for _ in range(EM_STEPS):
        root = found.rsqrt()
        # (H + Q)^-1 by its form with a unit diagonal in Q, well conditioned for any units.
        scaled = h * root[:, None] * root + torch.eye(len(found), dtype=h.dtype)
        inverse = torch.linalg.inv(scaled) * root[:, None] * root
        mean = torch.einsum("npq,nq->np", inverse, right)
        second = (mean.square() + inverse.diagonal(dim1=1, dim2=2)).mean(0)
        before = found.clone()
        for kind in kinds:
            if kind:
                found[kind] = 1 / second[kind].mean()
        if float((found / before - 1).abs().max()) < TOLERANCE:
            break
    result = precision.clone()
    result[free] = found
    return result


@dataclass(frozen=True)
class Marginal:
    """What each image alone says of one parameter, the others integrated out.

    Attributes
    ----------
    value: `(n,)` the most likely one, as a distance from the start.
    information: `(n,)` 1 / its variance.
    """

    value: torch.Tensor
    information: torch.Tensor


def marginal(
    parameter: int,
    distance: torch.Tensor,
    gradient: torch.Tensor,
    normal: torch.Tensor,
    precision: torch.Tensor,
) -> Marginal:
    """What images say of one parameter, whether it was free or not; parameters as of `estimate_widths`."""
    others = torch.isfinite(precision)
    others[parameter] = False
    # Scaled by the root of the diagonal: the units of the parameters differ by many orders of magnitude.
    unit = (normal.diagonal(dim1=1, dim2=2) + torch.where(others, precision, 0.0)).clamp(min=1e-30).rsqrt()
    inner = (normal + torch.diag(torch.where(others, precision, 0.0))) * unit[:, :, None] * unit[:, None, :]
    cross = inner[:, parameter, others]
    eye = 1e-9 * torch.eye(int(others.sum()), dtype=normal.dtype)
    solved = torch.linalg.solve(inner[:, others][:, :, others] + eye, cross)
    # At the optimum over the others their gradient with the prior vanishes: the parameter's own slope is left.
    information = (1 - (solved * cross).sum(1)).clamp(min=1e-9) / unit[:, parameter] ** 2
    value = distance[:, parameter] - gradient[:, parameter] / information
    return Marginal(value, information)


def group_means(found: Marginal, groups: torch.Tensor, width: float) -> torch.Tensor:
    """What the particles of a micrograph have in common, as far as their scatter between micrographs supports it.

    The value of a particle scatters by `width` around its micrograph's, which scatters around zero with a width that
    the micrographs themselves tell (EM as in `estimate_widths`).

    Parameters
    ----------
    groups: `(n,)` micrograph of each particle, 0 to m - 1.
    width: standard deviation within a micrograph.

    Returns
    -------
    `(n,)` the mean of each particle's micrograph; zero where there is one micrograph only.
    """
    n_groups = int(groups.max()) + 1
    if n_groups == 1:
        return torch.zeros_like(found.value)
    weight = 1 / (width**2 + 1 / found.information)
    total = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, groups, weight)
    right = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, groups, weight * found.value)
    occupied = total > 0
    variance = float((right / total)[occupied].square().mean())
    for _ in range(EM_STEPS):
        posterior = 1 / (total[occupied] + 1 / max(variance, 1e-30))
        before, variance = variance, float(((right[occupied] * posterior).square() + posterior).mean())
        if abs(variance - before) <= TOLERANCE * before:
            break
    means = right / (total + 1 / max(variance, 1e-30))
    return means[groups]

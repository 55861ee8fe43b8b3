"""Fitting Gaussians to normal equations: Adam on the volume's loss, stopped and grown by held-out particles.

No image is needed any more, so a step costs the same for a thousand particles and for a million: Gaussians to
voxels, the normal operator by FFT, and the gradient back to the Gaussians.

A fit runs in rounds. A round ends when the likelihood of the held-out particles stops gaining; then every Gaussian
is split in two and the next round decides whether the finer model explains the held-out particles better. At the
end the held-out particles are folded in for a few gentle steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len

from gem3d.assess.shells import FloatVolume
from gem3d.fit.adam import Adam
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator
from gem3d.gaussians import Gaussians, split
from gem3d.kernels.voxelize import voxelize

# Steps of Adam, per step and parameter, before the decay. Measured on two atomic models at SNR 0.01 and one at 0.05:
# a flat optimum in all four; shapes that change faster than this fit sooner and overfit sooner.
CENTRE_STEP_VOXELS = 0.2
LOG_SCALE_STEP = 0.012
QUATERNION_STEP = 0.1
RAW_MASS_STEP = 0.025
BETAS = (0.6, 0.98)
DECAY_STEPS = 60.0
# A fit that goes on from fitted Gaussians takes smaller steps, and the first few smaller still: Adam knows nothing
# of the curvature yet.
RESTART_RATE = 0.4
WARM_UP_STEPS = 5
MAX_STEPS = 200
# Where no particle is held out, nothing can tell when to stop.
UNJUDGED_STEPS = 40
# A round ends after so many steps without a gain in held-out likelihood,
PATIENCE = 6
# or when the last `GAIN_WINDOW` steps gained less than this share of what the map explains.
SMALLEST_GAIN = 5e-4
GAIN_WINDOW = 10
# Twice as many Gaussians are kept when they explain this share more of the held-out particles. Splitting alone
# gains up to 3e-4 by smoothing the model's noise.
GROWTH_GAIN = 5e-4
FOLD_STEPS = 10
FOLD_RATE = 0.2
# Smallest standard deviation in voxels. Sharper Gaussians reach further towards Nyquist and alias more: the mass of
# one of 0.5 voxels depends by 1.4 % on where it lies between the voxels, of 0.45 by 4 %.
MIN_SCALE_VOXELS = 0.5


@dataclass(frozen=True)
class Round:
    """One round of a fit: its number of Gaussians, steps, and the loss per step and particle.

    held_out_loss: empty where nothing is held out.
    kept: False for a growth that the held-out particles did not support.
    """

    n_gaussians: int
    steps: int
    training_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]
    kept: bool


@dataclass(frozen=True)
class VolumeFit:
    """A finished fit.

    Attributes
    ----------
    gaussians: the result, held-out particles folded in.
    stopped: at the best held-out likelihood, before these particles were used.
    rounds: what was tried.
    """

    gaussians: Gaussians
    stopped: Gaussians
    rounds: tuple[Round, ...]


def fit_volume(
    start: Gaussians,
    training: NormalEquations,
    held_out: NormalEquations,
    support_A: tuple[tuple[float, float], ...],
    *,
    most_gaussians: int = 0,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeFit:
    """Fit Gaussians to the training equations, from `start`.

    Parameters
    ----------
    held_out: equations of particles kept apart, whose likelihood ends each round.
    support_A: (low, high) in A from the box centre along z, y, x; density outside is not modelled.
    most_gaussians: rounds of growth stop short of more; 0 for no growth.
    restart: `start` is fitted already, take small steps.
    progress: called with (steps done, steps expected).
    """
    grid = grid_of(training, support_A)
    operator = NormalOperator(training, grid)
    judge = NormalOperator(held_out, grid) if held_out.n_particles > 0 else None
    most_steps = MAX_STEPS if judge is not None else UNJUDGED_STEPS
    rounds: list[Round] = []
    counter = _Counter(progress)
    best, best_loss = start, math.inf
    candidate, rate = start, RESTART_RATE if restart else 1.0
    while True:
        fitted, loss, done = _run_round(candidate, operator, judge, grid, rate, counter, most_steps)
        kept = not rounds or best_loss - loss > GROWTH_GAIN * abs(best_loss)
        rounds.append(Round(len(candidate), len(done[0]), *done, kept))
        if not kept:
            break
        best, best_loss = fitted, loss
        if judge is None or 2 * len(best) > most_gaussians:
            break
        candidate, rate = split(best, MIN_SCALE_VOXELS * grid.voxel_size_A), RESTART_RATE
    folded = best
    if judge is not None:
        folded, *_ = _run_round(best, operator + judge, None, grid, FOLD_RATE, counter, FOLD_STEPS)
    return VolumeFit(folded, best, tuple(rounds))


class _Counter:
    """Steps done and expected, for the progress report: how many a fit needs shows only as it stops."""

    EXPECTED = 50

    def __init__(self, report: Callable[[int, int], None] | None) -> None:
        self.report, self.done = report, 0

    def step(self) -> None:
        self.done += 1
        if self.report is not None:
            self.report(self.done, max(self.EXPECTED, self.done + FOLD_STEPS))


def _run_round(
    gaussians: Gaussians,
    operator: NormalOperator,
    judge: NormalOperator | None,
    grid: Grid,
    rate: float,
    counter: _Counter,
    most_steps: int,
) -> tuple[Gaussians, float, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Descend until the judge's likelihood stops gaining; without a judge, `most_steps` steps."""
    min_log_scale = math.log(MIN_SCALE_VOXELS * grid.voxel_size_A)
    trained = {name: t.clone().requires_grad_() for name, t in gaussians.parameters.items()}
    current = gaussians.replaced(trained)
    step_sizes = (CENTRE_STEP_VOXELS * grid.voxel_size_A, LOG_SCALE_STEP, QUATERNION_STEP, RAW_MASS_STEP)
    adam = Adam(list(trained.values()), step_sizes, BETAS)
    warm_up = WARM_UP_STEPS if rate < 1 else 1
    best, best_loss, since_best = gaussians, math.inf, 0
    training_loss: list[float] = []
    held_out_loss: list[float] = []
    for step in range(most_steps):
        volume = voxelize_on(current, grid)
        with torch.no_grad():
            loss, gradient, judged = operator.loss_and_gradient(volume.detach(), judge)
        training_loss.append(loss / max(operator.n_particles, 1))
        if judge is not None:
            held_out_loss.append(judged / judge.n_particles)
            if held_out_loss[-1] < best_loss:
                best, best_loss, since_best = current.detached(), held_out_loss[-1], 0
            else:
                since_best += 1
        if since_best >= PATIENCE or _stalled(held_out_loss):
            break
        torch.autograd.backward(volume, gradient)
        adam.step(rate * min(1.0, (step + 1) / warm_up) / (1 + step / DECAY_STEPS))
        with torch.no_grad():
            current.log_scales.clamp_(min=min_log_scale)
        counter.step()
    found = current.detached() if judge is None else best
    return found, best_loss, (tuple(training_loss), tuple(held_out_loss))


def _stalled(loss: list[float]) -> bool:
    if len(loss) <= GAIN_WINDOW:
        return False
    best = min(loss)
    return min(loss[:-GAIN_WINDOW]) - best < SMALLEST_GAIN * abs(best)


def grid_of(equations: NormalEquations, support_A: tuple[tuple[float, float], ...]) -> Grid:
    """The coarsest grid that carries every frequency of the equations, over a support box."""
    box = equations.box_size_px
    enough = min(box, _even_fast(2 * equations.radius + 2))
    return Grid.around(box, equations.pixel_size_A, enough, support_A)


def voxelize_on(gaussians: Gaussians, grid: Grid) -> torch.Tensor:
    """What the images see of the Gaussians on a support box, in units of one voxel of the images; differentiable."""
    return voxelize(
        gaussians.masses / grid.pixel_size_A**3,
        grid.index_coordinates(gaussians.centres_A),
        gaussians.covariances_A2() / grid.voxel_size_A**2,
        grid.shape,
    )


def support_of(
    mask: FloatVolume, pixel_size_A: float, margin_A: float = 3.0
) -> tuple[tuple[float, float], ...]:
    """(low, high) in A from the box centre along z, y, x of the voxels where the mask is above a half."""
    centre = np.array(mask.shape) // 2
    occupied = np.argwhere(mask > 0.5)
    low = (occupied.min(axis=0) - centre) * pixel_size_A - margin_A
    high = (occupied.max(axis=0) - centre) * pixel_size_A + margin_A
    return tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))


def _even_fast(n: int) -> int:
    fast = int(next_fast_len(n))
    return fast if fast % 2 == 0 else _even_fast(fast + 1)

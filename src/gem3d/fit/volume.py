"""Fitting Gaussians to normal equations: Adam on the volume's loss, stopped and grown by held-out particles.

No image is needed any more, so a step costs the same for a thousand particles and for a million: Gaussians to
voxels, the normal operator by FFT, and the gradient back to the Gaussians.

A fit runs in rounds. A round ends when the likelihood of the held-out particles stops gaining; then every Gaussian
is split in two and the next round decides whether the finer model explains the held-out particles better. At the
end the held-out particles are folded in for a few gentle steps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.fft import next_fast_len

from gem3d.assess.overfit import LikelihoodGain, likelihood_gain
from gem3d.fit.descent import MIN_SCALE_VOXELS, Descent, Shapes, StepSizes
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator
from gem3d.fit.result import Fit, Progress, Round, Watch
from gem3d.fit.stopping import BestSoFar
from gem3d.gaussians import Gaussians, split
from gem3d.kernels.voxelize import voxelize

# Steps of Adam, per step and parameter, before the decay. Measured on two atomic models at SNR 0.01 and one at 0.05:
# a flat optimum in all four; shapes that change faster than this fit sooner and overfit sooner.
STEP_SIZES = StepSizes(centre_voxels=0.2, log_scale=0.012, quaternion=0.1, raw_mass=0.025)
BETAS = (0.6, 0.98)
DECAY_STEPS = 60.0
# A fit that goes on from fitted Gaussians takes smaller steps, and the first few smaller still: Adam knows nothing
# of the curvature yet.
RESTART_RATE = 0.4
WARM_UP_STEPS = 5
MAX_STEPS = 200
# Where no particle is held out, nothing can tell when to stop.
UNJUDGED_STEPS = 40
# A round ends after so many steps without a gain in held-out likelihood, or so many with next to none.
PATIENCE, GAIN_WINDOW = 6, 10
# Twice as many Gaussians are kept when they explain this share more of the held-out particles. Splitting alone
# gains up to 3e-4 by smoothing the model's noise.
GROWTH_GAIN = 5e-4
FOLD_STEPS = 10
FOLD_RATE = 0.2


def fit_volume(
    start: Gaussians,
    training: NormalEquations,
    held_out: NormalEquations,
    support_A: tuple[tuple[float, float], ...],
    *,
    most_gaussians: int = 0,
    restart: bool = False,
    shapes: Shapes = Shapes(),  # noqa: B008
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Fit:
    """Fit Gaussians to the training equations, from `start`.

    Parameters
    ----------
    held_out: equations of particles kept apart, whose likelihood ends each round.
    support_A: (low, high) in A from the box centre along z, y, x; density outside is not modelled.
    most_gaussians: rounds of growth stop short of more; 0 for no growth.
    restart: `start` is fitted already, take small steps.
    progress: called with (steps done, steps expected, what the held-out particles say).
    watch: called with the Gaussians and their held-out loss per particle as they are judged.
    """
    grid = grid_of(training, support_A)
    operator = NormalOperator(training, grid)
    judge = NormalOperator(held_out, grid) if held_out.n_particles > 0 else None
    counter = _Counter(progress)
    rounds: list[Round] = []
    best, best_loss = start, math.inf
    candidate, rate = start, RESTART_RATE if restart else 1.0
    while True:
        descent = Descent(candidate, grid.voxel_size_A, STEP_SIZES, BETAS, shapes)
        fitted, found = _run_round(descent, operator, judge, grid, rate, counter, watch)
        loss = min(found.held_out_loss, default=math.inf)
        kept = not rounds or best_loss - loss > GROWTH_GAIN * abs(best_loss)
        rounds.append(replace(found, kept=kept))
        if not kept:
            break
        best, best_loss = fitted, loss
        if judge is None or 2 * len(best) > most_gaussians:
            break
        candidate, rate = split(best, MIN_SCALE_VOXELS * grid.voxel_size_A), RESTART_RATE
    folded, gain = best, None
    if judge is not None:
        gain = _gain(best, operator, judge, training.box_size_px)
        descent = Descent(best, grid.voxel_size_A, STEP_SIZES, BETAS, shapes)
        folded, _ = _run_round(descent, operator + judge, None, grid, FOLD_RATE, counter, None, FOLD_STEPS)
    return Fit(folded, best, tuple(rounds), gain)


class _Counter:
    """Steps done and expected, for the progress report: how many a fit needs shows only as it stops."""

    EXPECTED = 50

    def __init__(self, report: Progress | None) -> None:
        self.report, self.done = report, 0

    def step(self, held_out_loss: list[float]) -> None:
        self.done += 1
        if self.report is not None:
            note = f"held-out {held_out_loss[-1]:.5g}" if held_out_loss else ""
            self.report(self.done, max(self.EXPECTED, self.done + FOLD_STEPS), note)


def _run_round(
    descent: Descent,
    operator: NormalOperator,
    judge: NormalOperator | None,
    grid: Grid,
    rate: float,
    counter: _Counter,
    watch: Watch | None,
    unjudged_steps: int = UNJUDGED_STEPS,
) -> tuple[Gaussians, Round]:
    """Descend until the judge's likelihood stops gaining; without a judge, `unjudged_steps` steps."""
    warm_up = WARM_UP_STEPS if rate < 1 else 1
    best = BestSoFar(PATIENCE, GAIN_WINDOW)
    training_loss: list[float] = []
    for step in range(unjudged_steps if judge is None else MAX_STEPS):
        volume = voxelize_on(descent.current, grid)
        with torch.no_grad():
            loss, gradient, judged = operator.loss_and_gradient(volume.detach(), judge)
        training_loss.append(loss / max(operator.n_particles, 1))
        if judge is not None:
            best.see(descent.current, judged / judge.n_particles)
            if watch is not None:
                watch(descent.current, best.losses[-1])
            if best.finished:
                break
        torch.autograd.backward(volume, gradient)
        descent.step(rate * min(1.0, (step + 1) / warm_up) / (1 + step / DECAY_STEPS))
        counter.step(best.losses)
    n = len(descent.current)
    found = best.gaussians or descent.current.detached()
    return found, Round(n, len(training_loss), tuple(training_loss), tuple(best.losses))


def _gain(
    gaussians: Gaussians, operator: NormalOperator, judge: NormalOperator, box_size_px: int
) -> LikelihoodGain:
    """What Gaussians explain of the particles of both operators."""
    with torch.no_grad():
        volume = voxelize_on(gaussians, operator.grid)
    seen, unseen = operator.loss_by_shell(volume), judge.loss_by_shell(volume)
    return likelihood_gain(seen, unseen, operator.n_particles, judge.n_particles, box_size_px)


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


def _even_fast(n: int) -> int:
    fast = int(next_fast_len(n))
    return fast if fast % 2 == 0 else _even_fast(fast + 1)

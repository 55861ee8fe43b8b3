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
from functools import partial
from typing import Any

import torch
from scipy.fft import next_fast_len

from gem3d.assess.overfit import LikelihoodGain, likelihood_gain
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.descent import MIN_SCALE_VOXELS, Descent, Shapes, StepSizes
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator, voxelize_on
from gem3d.fit.result import Fit, Progress, Round, Watch
from gem3d.fit.volume_state import VolumeState
from gem3d.fit.volume_step import Judged, VolumeStep
from gem3d.gaussians import Gaussians, split
from gem3d.kernels.backend import uses_triton

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
# On a GPU losses are looked at after so many steps, as each time the host waits until the device has come so far.
LOOK_EVERY = 10
# Where no particle is held out, nothing can tell when to stop.
UNJUDGED_STEPS = 40
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
    **options: Any,
) -> Fit:
    """Fit Gaussians to the training equations, from `start`.

    Parameters
    ----------
    held_out: equations of particles kept apart, whose likelihood ends each round.
    support_A: (low, high) in A from the box centre along z, y, x; density outside is not modelled.
    options: of `fit_operators`.
    """
    return fit_operators(start, *operators_of(training, held_out, support_A), **options)


def operators_of(
    training: NormalEquations,
    held_out: NormalEquations,
    support_A: tuple[tuple[float, float], ...],
    device: str = "cpu",
) -> tuple[NormalOperator, NormalOperator | None]:
    """What a fit inside a support needs of equations, on a device; no judge where no particle is held out.

    Equations that lie elsewhere are there one accumulator at a time.
    """
    grid = grid_of(training, support_A)
    operator = NormalOperator(training.to(device), grid)
    return operator, NormalOperator(held_out.to(device), grid) if held_out.n_particles > 0 else None


def fit_operators(
    start: Gaussians,
    operator: NormalOperator,
    judge: NormalOperator | None,
    *,
    most_gaussians: int = 0,
    restart: bool = False,
    shapes: Shapes = Shapes(),  # noqa: B008
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Fit:
    """Fit Gaussians to the operator of the training equations, from `start`, on the operator's device.

    Parameters
    ----------
    start: on any device, as is the result on the CPU.
    judge: operator of particles kept apart, whose likelihood ends each round.
    most_gaussians: rounds of growth stop short of more; 0 for no growth.
    restart: `start` is fitted already, take small steps.
    checkpoint: written now and then; the fit goes on from what it holds.
    progress: called with (steps done, steps expected, what the held-out particles say).
    watch: called with the Gaussians and their held-out loss per particle as they are judged.
    """
    grid = operator.grid

    def descent_from(gaussians: Gaussians) -> Descent:
        return Descent(gaussians, grid.voxel_size_A, STEP_SIZES, BETAS, shapes)

    state = VolumeState(descent_from(start.to(operator.b.device)), RESTART_RATE if restart else 1.0)
    if checkpoint is not None:
        checkpoint.restore(partial(state.restore, descent_from=descent_from))
    run = _Run(state, checkpoint, progress, watch)
    while not state.folding:
        fitted, found = run.round(operator, judge)
        loss = min(found.held_out_loss, default=math.inf)
        kept = not state.rounds or state.kept_loss - loss > GROWTH_GAIN * abs(state.kept_loss)
        state.rounds.append(replace(found, kept=kept))
        if kept:
            state.kept, state.kept_loss = fitted, loss
        assert state.kept is not None
        if kept and judge is not None and 2 * len(state.kept) <= most_gaussians:
            finer = split(state.kept, MIN_SCALE_VOXELS * grid.voxel_size_A)
            state.begin_round(descent_from(finer), RESTART_RATE)
        else:
            break
    best = state.kept
    assert best is not None
    if judge is None:
        return Fit(best, best, tuple(state.rounds)).to("cpu")
    gain = _gain(best, operator, judge)
    if not state.folding:
        state.begin_round(descent_from(best), FOLD_RATE, folding=True)
    folded, _ = run.round(operator + judge, None, FOLD_STEPS)
    if checkpoint is not None and checkpoint.worthwhile:
        checkpoint.save(state.tensors(), state.numbers())
    return Fit(folded, best, tuple(state.rounds), gain).to("cpu")


class _Run:
    """The rounds of one fit, and what is told and saved on the way."""

    EXPECTED = 50  # how many steps a fit needs shows only as it stops

    def __init__(
        self,
        state: VolumeState,
        checkpoint: Checkpoint | None,
        report: Progress | None,
        watch: Watch | None,
    ) -> None:
        self._state = state
        self._checkpoint, self._report, self._watch = checkpoint, report, watch

    def round(
        self, operator: NormalOperator, judge: NormalOperator | None, unjudged_steps: int = UNJUDGED_STEPS
    ) -> tuple[Gaussians, Round]:
        """Descend until the judge's likelihood stops gaining; without a judge, `unjudged_steps` steps."""
        state = self._state
        warm_up = WARM_UP_STEPS if state.rate < 1 else 1
        step = VolumeStep(state.descent, operator, judge)
        look_every = LOOK_EVERY if uses_triton(operator.b) else 1
        waiting: list[Judged] = []
        for number in range(state.step, unjudged_steps if judge is None else MAX_STEPS):
            waiting.append(step(state.rate * min(1.0, (number + 1) / warm_up) / (1 + number / DECAY_STEPS)))
            state.step = number + 1
            state.steps += 1
            due = self._checkpoint is not None and self._checkpoint.due
            if (due or len(waiting) == look_every) and self._finished(waiting, judge):
                break
            self._tell(save=due)
        self._finished(waiting, judge)
        found = state.best.gaussians or state.descent.current.detached()
        losses = tuple(state.training_loss), tuple(state.best.losses)
        return found, Round(len(state.descent.current), len(state.training_loss), *losses)

    def _finished(self, waiting: list[Judged], judge: NormalOperator | None) -> bool:
        """Take down the losses that wait, in order; True once nothing was gained any more.

        What comes after that is forgotten: a fit finds the same however seldom it looks.
        """
        state, judged = self._state, waiting[:]
        waiting.clear()
        if not judged:
            return False
        losses = torch.stack([each.losses for each in judged]).tolist()
        for each, (loss, held_out_loss) in zip(judged, losses, strict=True):
            state.training_loss.append(loss)
            if judge is None:
                continue
            state.best.see(each.gaussians, held_out_loss)
            if self._watch is not None:
                self._watch(each.gaussians, held_out_loss)
            if state.best.finished:
                return True
        return False

    def _tell(self, *, save: bool) -> None:
        """Report a step, and save where the fit stands."""
        state = self._state
        if save and self._checkpoint is not None:
            self._checkpoint.save(state.tensors(), state.numbers())
        if self._report is not None:
            note = f"held-out {state.best.losses[-1]:.5g}" if state.best.losses else ""
            self._report(state.steps, max(self.EXPECTED, state.steps + FOLD_STEPS), note)


def _gain(gaussians: Gaussians, operator: NormalOperator, judge: NormalOperator) -> LikelihoodGain:
    """What Gaussians explain of the particles of both operators."""
    with torch.no_grad():
        volume = voxelize_on(gaussians, operator.grid)
    seen, look_every = operator.loss_by_shell(volume), judge.loss_by_shell(volume)
    return likelihood_gain(seen, look_every, operator.n_particles, judge.n_particles, operator.image_box_px)


def grid_of(equations: NormalEquations, support_A: tuple[tuple[float, float], ...]) -> Grid:
    """The coarsest grid that carries every frequency of the equations, over a support box."""
    box = equations.box_size_px
    enough = min(box, _even_fast(2 * equations.radius + 2))
    return Grid.around(box, equations.pixel_size_A, enough, support_A)


def _even_fast(n: int) -> int:
    fast = int(next_fast_len(n))
    return fast if fast % 2 == 0 else _even_fast(fast + 1)

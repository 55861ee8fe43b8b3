"""Fitting Gaussians to normal equations: Adam on the volume's loss, coarse to fine, stopped by held-out particles.

No image is needed any more, so a step costs the same for a thousand particles and for a million: Gaussians to
voxels, the normal operator by FFT, and the gradient back to the Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len

from gem3d.assess.shells import FloatVolume
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator
from gem3d.gaussians import Gaussians
from gem3d.kernels.voxelize import voxelize


@dataclass(frozen=True)
class Stage:
    """One stretch of the fit on a grid that carries part of the frequencies.

    frequency_share: of the whole band, 1 for all of it.
    max_steps: at most so many steps.
    """

    frequency_share: float
    max_steps: int


STAGES = (Stage(0.5, 60), Stage(1.0, 300))

# Steps of Adam, per step and parameter, before the decay.
CENTRE_STEP_VOXELS = 0.05
LOG_SCALE_STEP = 0.02
QUATERNION_STEP = 0.02
RAW_MASS_STEP = 0.05
DECAY_STEPS = 60.0
# Steps without a gain in held-out likelihood after which a stage ends.
PATIENCE = 5
# Smallest standard deviation in voxels of the finest grid; what is sharper aliases.
MIN_SCALE_VOXELS = 0.55


@dataclass(frozen=True)
class VolumeFit:
    """A finished fit.

    Attributes
    ----------
    gaussians: at the best held-out likelihood (the last step where nothing is held out).
    steps: per stage.
    held_out_loss, training_loss: per step of the last stage, per particle; held-out is empty without such particles.
    """

    gaussians: Gaussians
    steps: tuple[int, ...]
    training_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]


def fit_volume(
    start: Gaussians,
    training: NormalEquations,
    held_out: NormalEquations | None,
    support_A: tuple[tuple[float, float], ...],
    stages: tuple[Stage, ...] = STAGES,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeFit:
    """Fit Gaussians to the training equations, from `start`.

    Parameters
    ----------
    held_out: equations of particles kept apart, whose likelihood ends each stage; None runs all `max_steps`.
    support_A: (low, high) in A from the box centre along z, y, x; density outside is not modelled.
    progress: called with (steps done, steps at most).
    """
    gaussians = start.detached()
    steps: list[int] = []
    total = sum(stage.max_steps for stage in stages)
    training_loss: list[float] = []
    held_out_loss: list[float] = []
    for number, stage in enumerate(stages):
        before = sum(s.max_steps for s in stages[:number])
        report = None if progress is None else (lambda done, before=before: progress(before + done, total))
        gaussians, training_loss, held_out_loss = _run_stage(
            gaussians, training, held_out, support_A, stage, report
        )
        steps.append(len(training_loss))
    return VolumeFit(gaussians, tuple(steps), tuple(training_loss), tuple(held_out_loss))


def _run_stage(
    gaussians: Gaussians,
    training: NormalEquations,
    held_out: NormalEquations | None,
    support_A: tuple[tuple[float, float], ...],
    stage: Stage,
    report: Callable[[int], None] | None,
) -> tuple[Gaussians, list[float], list[float]]:
    box = training.box_size_px
    coarse = (
        box if stage.frequency_share >= 1 else min(box, _even_fast(math.ceil(stage.frequency_share * box)))
    )
    grid = Grid.around(box, training.pixel_size_A, coarse, support_A)
    operator = NormalOperator(training, grid)
    judge = None if held_out is None or held_out.n_particles == 0 else NormalOperator(held_out, grid)
    min_log_scale = math.log(MIN_SCALE_VOXELS * grid.voxel_size_A)

    trained = {name: t.clone().requires_grad_() for name, t in gaussians.parameters.items()}
    current = gaussians.replaced(trained)
    rates = (CENTRE_STEP_VOXELS * grid.voxel_size_A, LOG_SCALE_STEP, QUATERNION_STEP, RAW_MASS_STEP)
    optimiser = torch.optim.Adam(
        [{"params": [t], "lr": rate} for t, rate in zip(trained.values(), rates, strict=True)],
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step / DECAY_STEPS))
    best, best_loss, since_best = gaussians, math.inf, 0
    training_loss: list[float] = []
    held_out_loss: list[float] = []
    for step in range(stage.max_steps):
        volume = voxelize_on(current, grid)
        with torch.no_grad():
            values = volume.detach()
            v_hat = operator.transform(values)
            if judge is not None and held_out is not None:
                loss = judge.loss(values, v_hat) / held_out.n_particles
                held_out_loss.append(loss)
                if loss < best_loss:
                    best, best_loss, since_best = current.detached(), loss, 0
                else:
                    since_best += 1
            loss, gradient = operator.loss_and_gradient(values, v_hat)
            training_loss.append(loss / max(training.n_particles, 1))
        if since_best >= PATIENCE:
            break
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(volume, gradient)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            current.log_scales.clamp_(min=min_log_scale)
        if report is not None:
            report(step + 1)
    return (best if judge is not None else current.detached()), training_loss, held_out_loss


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

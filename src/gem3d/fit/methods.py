"""The two ways to fit, behind one face: each half on its own, then the final map from both.

Both start from the maps that have not seen the held-out particles, so that these can still tell when to stop the
final fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.fit.accumulate import HalfSet, is_held_out
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.descent import Shapes
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.images import TrainingSet, epochs_for, fit_images
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.observations import Observations
from gem3d.fit.operator import NormalOperator
from gem3d.fit.result import Fit
from gem3d.fit.start import Start
from gem3d.fit.volume import fit_volume, grid_of
from gem3d.particles import file_order
from gem3d.progress import Report


class Method(Protocol):
    """A way to fit.

    Attributes
    ----------
    unit: of what its progress counts.
    scale_per_spacing: of the Gaussians that it likes to start from; see `gem3d.fit.start`.
    held_out: equations of the held-out particles of each half.
    """

    unit: str
    scale_per_spacing: float
    held_out: tuple[NormalEquations, NormalEquations]

    def fit_half(self, number: int, start: Start, report: Report) -> Fit:
        """Fit half 1 or 2 from its start."""

    def fit_final(self, start: Start, fits: tuple[Fit, Fit], report: Report) -> Fit:
        """Fit all data from the mean of both half maps; may use up what the method holds."""


class FromEquations:
    """To the normal equations: fast, whatever the number of particles."""

    unit = "steps"
    scale_per_spacing = 0.5

    def __init__(self, sets: tuple[HalfSet, HalfSet], shapes: Shapes) -> None:
        self.held_out = (sets[0].held_out, sets[1].held_out)
        self._training = [half.training for half in sets]
        self._shapes = shapes

    def fit_half(self, number: int, start: Start, report: Report) -> Fit:
        return fit_volume(
            start.gaussians,
            self._training[number - 1],
            self.held_out[number - 1],
            start.support_A,
            most_gaussians=start.most_gaussians,
            shapes=self._shapes,
            progress=report,
        )

    def fit_final(self, start: Start, fits: tuple[Fit, Fit], report: Report) -> Fit:
        # Both halves are added up in the memory of half 1.
        training, held_out = self._training[0], self.held_out[0]
        training += self._training[1]
        held_out += self.held_out[1]
        return fit_volume(
            start.gaussians,
            training,
            held_out,
            start.support_A,
            restart=True,
            shapes=self._shapes,
            progress=report,
        )


class FromImages:
    """To the images, batch by batch, as the paper does.

    Parameters
    ----------
    halves: `(n,)`, 1 or 2.
    epochs: of each half; None to choose.
    checkpoints: folder for one file a stage, from which a killed run goes on.
    """

    unit = "images"
    scale_per_spacing = 0.25
    # The final fit goes on from two fitted halves; the second epoch takes in the held-out images.
    final_epochs = 2

    def __init__(
        self,
        sets: tuple[HalfSet, HalfSet],
        shapes: Shapes,
        observations: Observations,
        halves: NDArray[np.int8],
        *,
        seed: int,
        epochs: int | None,
        checkpoints: Path,
    ) -> None:
        self.held_out = (sets[0].held_out, sets[1].held_out)
        self._noise = [half.noise_power for half in sets]
        self._shapes, self._observations, self._seed, self._epochs = shapes, observations, seed, epochs
        self._checkpoints = checkpoints
        self._rows = file_order(observations.images.particles)
        self._half = halves[self._rows]
        self._is_held_out = is_held_out(self._rows, seed)

    def fit_half(self, number: int, start: Start, report: Report) -> Fit:
        mine = self._half == number
        images = TrainingSet(self._rows[mine], self._is_held_out[mine], (self._seed, number))
        return self._fit(
            f"half{number}",
            start,
            images,
            self._noise[number - 1],
            self.held_out[number - 1],
            self._epochs or epochs_for(len(images.training)),
            0,
            report,
        )

    def fit_final(self, start: Start, fits: tuple[Fit, Fit], report: Report) -> Fit:
        images = TrainingSet(self._rows, self._is_held_out, (self._seed, 3))
        noise = (self._noise[0] + self._noise[1]) / 2
        steps = min(fit.rounds[0].steps for fit in fits)
        judging = self.held_out[0]
        judging += self.held_out[1]
        return self._fit("final", start, images, noise, judging, self.final_epochs, steps, report)

    def _fit(
        self,
        name: str,
        start: Start,
        images: TrainingSet,
        noise_power: torch.Tensor,
        held_out: NormalEquations,
        epochs: int,
        steps_before: int,
        report: Report,
    ) -> Fit:
        judge = None
        if held_out.n_particles > 0:
            judge = NormalOperator(held_out, grid_of(held_out, start.support_A))
        return fit_images(
            start.gaussians,
            self._observations,
            ImageLoss(self._observations, noise_power, held_out.radius),
            images,
            judge,
            epochs=epochs,
            steps_before=steps_before,
            shapes=self._shapes,
            checkpoint=Checkpoint(self._checkpoints / f"{name}.safetensors"),
            progress=report,
        )

"""Fitting Gaussians to the images themselves, block by block: the training that the GEM paper describes.

Each step projects the Gaussians at the poses of a block of images, multiplies by their CTFs, compares with them and
moves every Gaussian along the gradient of that. At SNR 0.01 the gradient of 32 images is nearly all noise. From the
second epoch on it is refined by what every other block has said (`gem3d.fit.gradient_table`), which has the noise of
the whole set only. Steps shrink as 1 / t, and what is judged and returned is an average over the last of them.

The held-out particles are the judge, as they are of the volume fit; they join in the last epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d import ranks
from gem3d.assess.overfit import LikelihoodGain, likelihood_gain
from gem3d.fit.arrivals import Arrivals, Arrived
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.descent import Descent, Shapes, StepSizes
from gem3d.fit.graph import Repeated
from gem3d.fit.image_loss import ImageLoss, Measured
from gem3d.fit.observations import Observations
from gem3d.fit.operator import NormalOperator, voxelize_on
from gem3d.fit.result import Fit, Progress, Round, Watch
from gem3d.fit.stopping import BestSoFar
from gem3d.fit.training_set import BATCH_SIZE, TrainingSet, batch_sizes
from gem3d.fit.training_state import TrainingState
from gem3d.gaussians import Gaussians

STEP_SIZES = StepSizes(centre_voxels=0.08, log_scale=0.008, quaternion=0.04, raw_mass=0.015)
BETAS = (0.6, 0.98)
DECAY_STEPS = 100.0
# Shapes rest for this share of the steps, until gradients have little noise: from noisy ones they widen, which costs
# the fine shells.
SHAPES_REST = 0.36
# The average is judged twice an epoch, but not more often than after so many steps. Training ends after so many
# evaluations without a gain in held-out likelihood, or so many with next to none.
EVALUATION_STEPS = 75
PATIENCE, GAIN_WINDOW = 3, 4


def train_on_images(
    start: Gaussians,
    observations: Observations,
    noise_power: torch.Tensor,
    last_shell: int,
    images: TrainingSet,
    *,
    device: str = "cpu",
    **options: Any,
) -> Fit:
    """Train Gaussians on images, on all ranks; parameters as of `ImageLoss` and `ImageTraining`."""
    loss = ImageLoss(observations, noise_power, last_shell, device)
    training = ImageTraining(
        start=start.to(device), observations=observations, loss=loss, images=images, **options
    )
    return training.run().to("cpu")


@dataclass(kw_only=True)
class ImageTraining:
    """A fit of Gaussians to images.

    Parameters
    ----------
    start: where it begins, unless the checkpoint stands further on.
    judge: operator of the held-out images; None where there are none, and on all ranks but the first.
    voxel_size_A: of the coarsest grid that carries the images' frequencies: the unit of steps and smallest scales.
    epochs: at most; the last takes in the held-out images.
    checkpoint: written now and then, and at the end.
    judged: whether any rank has a judge; None where this one knows.
    progress: called with (images done, images expected, what the last evaluation found).
    """

    start: Gaussians
    observations: Observations
    loss: ImageLoss
    images: TrainingSet
    judge: NormalOperator | None = None
    voxel_size_A: float
    epochs: int
    shapes: Shapes = Shapes()  # noqa: RUF009
    checkpoint: Checkpoint | None = None
    progress: Progress | None = None
    watch: Watch | None = None
    judged: bool | None = None

    def __post_init__(self) -> None:
        if self.judged is None:
            self.judged = self.judge is not None
        descent = Descent(self.start, self.voxel_size_A, STEP_SIZES, BETAS, self.shapes)
        self.state = TrainingState(descent, BestSoFar(PATIENCE, GAIN_WINDOW), len(self.images.blocks))
        gather = partial(_gather_gradient, self.loss, descent.current, self.state.block_loss)
        self.gather = Repeated(gather, descent.gradient.device)
        self.note = ""
        self.seconds, self.seen = time.perf_counter(), 0

    def run(self) -> Fit:
        """Train to the end."""
        state = self.state
        if not self.restored():
            self.evaluate()
        while state.epoch < self.epochs:
            if self.gains_nothing and not self.folding:
                state.epoch, state.block = self.epochs - 1, 0
            if self.folding and state.block == 0:
                if state.loss_count > 0:
                    self.evaluate()  # the last steps may make the best average
                state.fold()
            if self.run_epoch():
                state.epoch, state.block = state.epoch + 1, 0
        self.save()
        found = Round(len(self.start), state.steps, tuple(state.training_loss), tuple(state.best.losses))
        assert state.best.gaussians is not None
        return Fit(state.average, state.best.gaussians, (found,), self.gain_of(state.best.gaussians))

    def restored(self) -> bool:
        """Go on from what a killed run has left, if it has."""
        state = self.state
        here = self.checkpoint is not None and self.checkpoint.restore(state.restore)
        on_host = {name: tensor.cpu() for name, tensor in state.tensors().items()} if here else {}
        saved = ranks.from_first((on_host, state.numbers()) if here else None)
        if saved is not None and not ranks.is_first():
            state.restore(*saved)
        return saved is not None

    @property
    def folding(self) -> bool:
        return self.state.epoch >= self.epochs - 1

    def run_epoch(self) -> bool:
        """What is left of the state's epoch; False if the held-out images end it before."""
        state, images = self.state, self.images
        order = images.order(state.epoch, with_held_out=self.folding)[state.block :]
        if len(order) == 0:
            return True
        # Of each block every rank has a part.
        parts = [images.blocks[block][_share_of_block(images.blocks[block])] for block in order]
        sizes = [size for rows in parts for size in batch_sizes(rows)]
        batches = self._arrivals(np.concatenate(parts), sizes)
        every = max(EVALUATION_STEPS, -(-images.n_training_blocks // 2))
        for block, part in zip(order, parts, strict=True):
            for _ in batch_sizes(part):
                self.gather(*self._measured(next(batches)))
            rate, n_images = 1 / (1 + state.steps / DECAY_STEPS), len(images.blocks[block])
            state.step(int(block), n_images, rate, 0.0 if self.shapes_rest else rate)
            self.seen += n_images
            if not self.folding and state.steps % every == 0:
                self.evaluate()
                self.save()
                if self.gains_nothing:
                    return False
            self.report()
            if self.checkpoint is not None and self.checkpoint.due:
                self.save()
        return True

    def _arrivals(self, rows: NDArray[np.int64], sizes: int | Sequence[int]) -> Arrivals:
        """Images that were found to be good."""
        return Arrivals(self.observations, rows, sizes, self.start.centres_A.device)

    def _measured(self, batch: Arrived) -> Measured:
        transforms = self.observations.transform(batch.images, batch.rows)
        return self.loss.measured(torch.from_numpy(batch.rows), transforms)

    @property
    def gains_nothing(self) -> bool:
        return self.state.best.finished and not self.shapes_rest

    @property
    def shapes_rest(self) -> bool:
        return self.state.steps < SHAPES_REST * self.images.n_training_blocks * self.epochs

    def evaluate(self) -> None:
        """Judge the average by the held-out images."""
        state = self.state
        if self.judged:
            state.best.see(state.average, ranks.from_first(self._held_out_loss()))
            if self.watch is not None:
                self.watch(state.average, state.best.losses[-1])
        if state.loss_count == 0:
            return
        state.end_interval()
        held_out = f", held-out {state.best.losses[-1]:.5g}" if self.judged else ""
        rate = self.seen / (time.perf_counter() - self.seconds)
        self.note = f"{rate:.0f} images/s, loss {state.training_loss[-1]:.5g}{held_out}"

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """Of the average, per particle; the first rank knows it."""
        if self.judge is None:
            return math.nan
        judged, _, _ = self.judge.loss_and_gradient(voxelize_on(self.state.average, self.judge.grid))
        return float(judged) / self.judge.n_particles

    def gain_of(self, gaussians: Gaussians) -> LikelihoodGain | None:
        """What Gaussians explain of the held-out images, and of as many of the others."""
        if not self.judged:
            return None
        sample, held_out = self.images.sample, self.images.rows[self.images.held_out]
        seen, unseen = (self.loss_by_shell(gaussians, rows) for rows in (sample, held_out))
        return likelihood_gain(seen, unseen, len(sample), len(held_out), self.observations.box_size_px)

    def loss_by_shell(self, gaussians: Gaussians, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Loss of some images in each shell, see `ImageLoss.by_shell`."""
        total = torch.zeros(2, self.loss.last_shell + 1, dtype=torch.float64)
        for batch in self._arrivals(rows[_share_of_block(rows)], BATCH_SIZE):
            total += torch.from_numpy(self.loss.by_shell(gaussians, self._measured(batch)))
        ranks.sum_everywhere(total)
        return total.numpy()

    def report(self) -> None:
        if self.progress is not None:
            n, n_all = self.images.n_training, len(self.images.rows)
            of_epoch, n_blocks = n, self.images.n_training_blocks
            if self.folding:
                of_epoch, n_blocks = n_all, len(self.images.blocks)
            done = n * self.state.epoch + round(of_epoch * self.state.block / n_blocks)
            self.progress(done, n * (self.epochs - 1) + n_all, self.note)

    def save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self.state.tensors(), self.state.numbers())


def _gather_gradient(
    loss: ImageLoss, gaussians: Gaussians, block_loss: torch.Tensor, *images: torch.Tensor
) -> None:
    """Add gradient and loss of some images to those of their block."""
    block_loss += loss.backward(gaussians, Measured(*images))


def _share_of_block(rows: NDArray[np.int64]) -> slice:
    """The part of some images that is for this rank."""
    share = ranks.share_of(len(rows))
    return slice(share.start, share.stop)

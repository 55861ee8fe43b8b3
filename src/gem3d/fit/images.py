"""Fitting Gaussians to the images themselves, batch by batch: the training that the GEM paper describes.

Each step projects the Gaussians at the poses of a few images, multiplies by their CTFs, compares with them and moves
every Gaussian along the gradient of that. The noise of a step is far larger than what it has to say (at SNR 0.01,
batch 32: some twenty times); what counts is the sum of many. So the steps shrink as 1 / t, by which every image of
every epoch weighs alike in the result, and what is judged and returned is an average over the last of them.

The held-out particles are the judge, as they are of the volume fit; they join in the last epoch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.descent import Descent, Shapes, StepSizes
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.observations import Observations, transform
from gem3d.fit.operator import NormalOperator
from gem3d.fit.result import Fit, Progress, Round, Watch
from gem3d.fit.stopping import BestSoFar
from gem3d.fit.training_state import TrainingState
from gem3d.fit.volume import voxelize_on
from gem3d.gaussians import Gaussians

STEP_SIZES = StepSizes(centre_voxels=0.3, log_scale=0.012, quaternion=0.1, raw_mass=0.0375)
BETAS = (0.9, 0.98)
DECAY_STEPS = 100.0
BATCH_SIZE = 32
EPOCHS = 5
# A small set is gone through more often, until there have been so many steps.
FEWEST_STEPS = 700
# A batch holds so many groups of images that are neighbours in their file, which keeps reading sequential: at 128 px
# a group is half a megabyte.
NEIGHBOURS = 8
# The average is judged twice an epoch, but not more often than after so many steps. Training ends after so many
# evaluations without a gain in held-out likelihood, or so many with next to none.
EVALUATION_STEPS = 75
PATIENCE, GAIN_WINDOW = 3, 4


@dataclass(frozen=True)
class TrainingSet:
    """The images of one fit.

    Attributes
    ----------
    rows: `(n,)` particles in file order.
    held_out: `(n,)` which of them judge, until the last epoch.
    stream: seeds the order in which the images come.
    """

    rows: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    stream: tuple[int, ...]

    @property
    def training(self) -> NDArray[np.int64]:
        """Rows that are not held out."""
        return self.rows[~self.held_out]

    def order(self, epoch: int, *, with_held_out: bool) -> NDArray[np.int64]:
        """Rows in the order of one epoch, groups of neighbours shuffled: a pure function of stream and epoch."""
        rows = self.rows if with_held_out else self.training
        rng = np.random.default_rng([*self.stream, epoch + 1])  # 0 would be the stream itself
        group = (np.arange(len(rows)) + rng.integers(NEIGHBOURS)) // NEIGHBOURS
        place = rng.permutation(len(rows) // NEIGHBOURS + 2)[group]
        shuffled: NDArray[np.int64] = rows[np.argsort(place, kind="stable")]
        return shuffled


def epochs_for(n_images: int, batch_size: int = BATCH_SIZE) -> int:
    """Epochs of a training, the last of which takes in the held-out images."""
    return max(EPOCHS, math.ceil(FEWEST_STEPS / max(1, math.ceil(n_images / batch_size))))


@dataclass(kw_only=True)
class ImageTraining:
    """A fit of Gaussians to images.

    Parameters
    ----------
    start: where it begins, unless the checkpoint stands further on.
    judge: operator of the held-out images; None where there are none.
    voxel_size_A: of the coarsest grid that carries the images' frequencies: the unit of steps and smallest scales.
    epochs: at most; the last takes in the held-out images.
    checkpoint: written now and then, and at the end.
    progress: called with (images done, images expected, what the last evaluation found).
    """

    start: Gaussians
    observations: Observations
    loss: ImageLoss
    images: TrainingSet
    judge: NormalOperator | None
    voxel_size_A: float
    epochs: int
    batch_size: int = BATCH_SIZE
    shapes: Shapes = Shapes()  # noqa: RUF009
    checkpoint: Checkpoint | None = None
    progress: Progress | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        descent = Descent(self.start, self.voxel_size_A, STEP_SIZES, BETAS, self.shapes)
        self.state = TrainingState.begin(descent, BestSoFar(PATIENCE, GAIN_WINDOW))
        self.note = ""
        self.seconds, self.seen = time.perf_counter(), 0

    def run(self) -> Fit:
        """Train to the end."""
        state = self.state
        if not self.restored():
            self.evaluate()
        while state.epoch < self.epochs:
            if state.best.finished and not self.folding:
                state.epoch, state.batch = self.epochs - 1, 0
            if self.folding and state.batch == 0:
                if state.loss_count > 0:
                    self.evaluate()  # the last steps may make the best average
                state.fold()
            if self.run_epoch():
                state.epoch, state.batch = state.epoch + 1, 0
        self.save()
        found = Round(len(self.start), state.steps, tuple(state.training_loss), tuple(state.best.losses))
        assert state.best.gaussians is not None
        return Fit(state.average, state.best.gaussians, (found,))

    def restored(self) -> bool:
        """Go on from what a killed run has left, if it has."""
        saved = None if self.checkpoint is None else self.checkpoint.load()
        if self.checkpoint is None or saved is None:
            return False
        try:
            self.state.restore(*saved)
        except (KeyError, ValueError) as error:
            raise self.checkpoint.unusable(error) from error
        return True

    @property
    def folding(self) -> bool:
        return self.state.epoch >= self.epochs - 1

    def run_epoch(self) -> bool:
        """What is left of the state's epoch; False if the held-out images end it before."""
        state = self.state
        order = self.images.order(state.epoch, with_held_out=self.folding)
        every = max(EVALUATION_STEPS, -(-len(self.images.training) // self.batch_size) // 2)
        for batch in self.observations.batches(order[state.batch * self.batch_size :], self.batch_size):
            rows = torch.from_numpy(batch.rows)
            loss = self.loss.backward(state.descent.current, rows, transform(batch.images))
            rate = 1 / (1 + state.steps / DECAY_STEPS)
            state.step(rate, float(loss), len(rows))
            self.seen += len(rows)
            if not self.folding and state.steps % every == 0:
                self.evaluate()
                self.save()
                if state.best.finished:
                    return False
            self.report()
            if self.checkpoint is not None and self.checkpoint.due:
                self.save()
        return True

    def evaluate(self) -> None:
        """Judge the average by the held-out images."""
        state, judge = self.state, self.judge
        if judge is not None:
            with torch.no_grad():
                judged, _, _ = judge.loss_and_gradient(voxelize_on(state.average, judge.grid))
            state.best.see(state.average, judged / judge.n_particles)
            if self.watch is not None:
                self.watch(state.average, state.best.losses[-1])
        if state.loss_count == 0:
            return
        state.end_interval()
        held_out = f", held-out {state.best.losses[-1]:.5g}" if judge is not None else ""
        rate = self.seen / (time.perf_counter() - self.seconds)
        self.note = f"{rate:.0f} images/s, loss {state.training_loss[-1]:.5g}{held_out}"

    def report(self) -> None:
        if self.progress is not None:
            n, n_all = int((~self.images.held_out).sum()), len(self.images.rows)
            of_epoch = min(self.batch_size * self.state.batch, n_all if self.folding else n)
            self.progress(n * self.state.epoch + of_epoch, n * (self.epochs - 1) + n_all, self.note)

    def save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self.state.tensors(), self.state.numbers())

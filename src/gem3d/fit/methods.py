"""The two ways to fit, behind one face: each half on its own, then the final map from both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d import ranks
from gem3d.device import Device
from gem3d.fit.checkpoint import CheckpointOf, no_checkpoint
from gem3d.fit.descent import Shapes
from gem3d.fit.half_sets import HalfSet, is_held_out
from gem3d.fit.images import train_on_images
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.observations import Observations
from gem3d.fit.operator import NormalOperator
from gem3d.fit.result import Fit, Progress, Watch
from gem3d.fit.start import Spread, Start, Support, mean_of, support_around
from gem3d.fit.training_set import TrainingSet
from gem3d.fit.volume import fit_operators, grid_of, operators_of
from gem3d.gaussians import Gaussians
from gem3d.particles import file_order
from gem3d.place import Place


class Method(Protocol):
    """A way to fit.

    Attributes
    ----------
    unit: of what its progress counts; `final_unit`: that of the final map, "" where nothing is worth counting.
    spread: the Gaussians that it likes to start from.
    held_out: equations of the held-out particles of each half.
    fits_both: other processes can fit one half while this one fits the other.
    """

    unit: str
    final_unit: str
    spread: Spread
    held_out: tuple[NormalEquations, NormalEquations]
    fits_both: bool

    def fit_half(self, number: int, start: Start, report: Progress, watch: Watch | None = None) -> Fit:
        """Fit half 1 or 2 from its start; `watch` sees the Gaussians and their held-out loss as they are judged."""

    def fit_both(self, starts: Sequence[Start], report: Progress) -> tuple[Fit, Fit]:
        """Fit both halves at the same time; only where `fits_both`."""

    def fit_final(self, fits: tuple[Fit, Fit], report: Progress) -> Fit:
        """The map of all data, given those of the halves; may use up what the method holds."""


class FromEquations:
    """To the normal equations: fast, whatever the number of particles.

    Parameters
    ----------
    checkpoint_of: gives the checkpoint of a stage, from which a killed run goes on; None for none.
    place: where to fit; the equations may lie on the host meanwhile.

    Attributes
    ----------
    noise_power: of each half, see `HalfSet`.
    """

    unit = final_unit = "steps"
    spread = Spread(volume_per_gaussian_A3=80.0, voxels_per_gaussian=8.0, scale_per_spacing=0.5)

    def __init__(
        self,
        sets: Sequence[HalfSet],
        shapes: Shapes,
        checkpoint_of: CheckpointOf = no_checkpoint,
        place: Place | None = None,
    ) -> None:
        self._place = place or Place()
        self.held_out = (sets[0].held_out, sets[1].held_out)
        self.noise_power = (sets[0].noise_power, sets[1].noise_power)
        self.fits_both = ranks.n_ranks() > 1
        self._training = [half.training for half in sets]
        self._shapes, self._checkpoint_of = shapes, checkpoint_of

    def fit_half(self, number: int, start: Start, report: Progress, watch: Watch | None = None) -> Fit:
        return self._fit(
            number,
            start.gaussians,
            start.support_A,
            most_gaussians=start.most_gaussians,
            checkpoint=self._checkpoint_of(f"half{number}"),
            progress=report,
            watch=watch,
        )

    def _fit(self, number: int, start: Gaussians, support_A: Support, **options: Any) -> Fit:
        """Fit a half, with options of `fit_operators`."""
        return self._place.compute(
            lambda device: fit_operators(
                start, *self._operators(number, support_A, device), shapes=self._shapes, **options
            )
        )

    def _operators(
        self, number: int, support_A: Support, device: Device
    ) -> tuple[NormalOperator, NormalOperator | None]:
        """Of a half, on the device."""
        training, held_out = self._training[number - 1], self.held_out[number - 1]
        return operators_of(training, held_out, support_A, device.of_tensors)

    def fit_both(self, starts: Sequence[Start], report: Progress) -> tuple[Fit, Fit]:
        tasks = []
        for number, start in enumerate(starts, start=1):
            there = self._place.compute(partial(self._operators, number, start.support_A))
            operators = [each and each.to("cpu") for each in there]
            tasks.append((start.gaussians, *operators, start.most_gaussians, self._shapes, self._place))
        # Half 1 is done here, by the first rank; it alone writes, so half 2 has no checkpoint.
        here = {"checkpoint": self._checkpoint_of("half1"), "progress": report}
        one, other = ranks.each(_fit_half, tasks, here)
        return one, other

    def fit_final(self, fits: tuple[Fit, Fit], report: Progress) -> Fit:
        # From the maps that have not seen the held-out particles, so that these can still tell when to stop.
        start = mean_of(fits[0].stopped, fits[1].stopped)
        # Both halves are added up in the memory of half 1.
        training, held_out = self._training[0], self.held_out[0]
        training += self._training[1]
        held_out += self.held_out[1]
        # The sum is that of half 1 now.
        return self._fit(
            1,
            start,
            support_around(start),
            restart=True,
            checkpoint=self._checkpoint_of("final"),
            progress=report,
        )


def _fit_half(
    start: Gaussians,
    operator: NormalOperator,
    judge: NormalOperator | None,
    most_gaussians: int,
    shapes: Shapes,
    place: Place,
    **of_first: Any,
) -> Fit:
    """A task of `ranks.each`."""

    def fit_on(device: Device) -> Fit:
        there = operator.to(device.of_tensors), judge and judge.to(device.of_tensors)
        return fit_operators(start, *there, most_gaussians=most_gaussians, shapes=shapes, **of_first)

    return place.compute(fit_on)


class FromImages:
    """To the images, batch by batch, as the paper does.

    Parameters
    ----------
    held_out: equations of the held-out particles of each half.
    noise_power: of each half, see `HalfSet`.
    halves: `(n,)`, 1 or 2.
    epochs: of each half; None to choose.
    checkpoint_of: gives the checkpoint of a stage, from which a killed run goes on; None for none.
    place: where to train.
    """

    unit, final_unit = "images", ""
    fits_both = False  # every process is at one half already
    # Narrower, since wide ones narrow slowly; and more, since fewer so narrow fit noise: docs/training.md.
    spread = Spread(volume_per_gaussian_A3=50.0, voxels_per_gaussian=5.0, scale_per_spacing=0.43)

    def __init__(
        self,
        held_out: Sequence[NormalEquations],
        noise_power: Sequence[torch.Tensor],
        shapes: Shapes,
        observations: Observations,
        halves: NDArray[np.int8],
        *,
        seed: int,
        epochs: int | None,
        checkpoint_of: CheckpointOf,
        place: Place | None = None,
    ) -> None:
        self._place = place or Place()
        self.held_out = (held_out[0], held_out[1])
        self._noise = noise_power
        self._shapes, self._observations, self._seed, self._epochs = shapes, observations, seed, epochs
        self._checkpoint_of = checkpoint_of
        # Every image has been seen: from here on the batches have the sizes that are asked for.
        particles = observations.images.particles
        self._rows = observations.excluded.without(file_order(particles))
        self._half = halves[self._rows]
        self._is_held_out = is_held_out(particles.source_row[self._rows], seed)

    def fit_half(self, number: int, start: Start, report: Progress, watch: Watch | None = None) -> Fit:
        mine = self._half == number
        images = TrainingSet(self._rows[mine], self._is_held_out[mine], (self._seed, number))
        held_out = self.held_out[number - 1]
        grid = grid_of(held_out, start.support_A)
        judged = held_out.n_particles > 0

        def fit_on(device: Device) -> Fit:
            there = device.of_tensors
            return ranks.together(
                train_on_images,
                start.gaussians,
                self._observations,
                self._noise[number - 1],
                held_out.radius,
                images,
                device=there,
                judged=judged,
                voxel_size_A=grid.voxel_size_A,
                epochs=self._epochs or images.epochs,
                shapes=self._shapes,
                only_here={
                    "judge": NormalOperator(held_out.to(there), grid) if judged else None,
                    "checkpoint": self._checkpoint_of(f"half{number}"),
                    "progress": report,
                    "watch": watch,
                },
            )

        return self._place.compute(fit_on, with_others=True)

    def fit_both(self, starts: Sequence[Start], report: Progress) -> tuple[Fit, Fit]:
        raise NotImplementedError

    def fit_final(self, fits: tuple[Fit, Fit], report: Progress) -> Fit:
        # Two more epochs from here over all images take nearly as long as the halves, and gain in the last shells
        # hardly more than they lose in the middle.
        both = mean_of(fits[0].gaussians, fits[1].gaussians)
        return Fit(both, mean_of(fits[0].stopped, fits[1].stopped), ())

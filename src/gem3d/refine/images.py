"""Images of one half against its map: what each of the refinement's passes does with a batch of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.fit.observations import Observations
from gem3d.kernels.compare_slices import SliceComparison, compare_slices
from gem3d.kernels.insert_slices import half_plane_weight
from gem3d.optics import defocus_rates
from gem3d.refine.estimates import Estimates
from gem3d.refine.slices import transform_for_slices

BATCH_SIZE = 128


@dataclass(frozen=True)
class ImagesInHand:
    """Images that are stored on one grid, and what they are compared with.

    Attributes
    ----------
    where: `(b,)` places of its particles among those of the half.
    """

    where: torch.Tensor
    transforms: torch.Tensor
    ctf_coefficients: torch.Tensor
    rates: torch.Tensor
    volume: torch.Tensor
    sample_weight: torch.Tensor
    frequency_step_per_A: float

    def compare(self, who: torch.Tensor, estimates: Estimates) -> SliceComparison:
        """Compare some images of the batch with their slices at the given estimates of theirs."""
        return self.compare_to(self.sample_weight, who, estimates)

    def compare_to(
        self, sample_weight: torch.Tensor, who: torch.Tensor, estimates: Estimates
    ) -> SliceComparison:
        """The same with another weight, that may end at a lower radius."""
        rates = self.rates[who]
        coefficients = self.ctf_coefficients[who]  # a copy
        coefficients[:, 0] += rates * estimates.defocus_A
        coefficients[:, 2] += rates * estimates.defocus_A
        return compare_slices(
            self.volume,
            self.transforms[who],
            estimates.rotations,
            estimates.shifts_px,
            coefficients,
            rates,
            estimates.contrasts,
            sample_weight,
            self.frequency_step_per_A,
        )


class ImagesOfHalf:
    """The images of one half set, and the map of that half that they are compared with.

    Parameters
    ----------
    observations: of all particles, as the particle file gives them.
    rows: `(n,)` the half's particles, sorted by their place in the stacks.
    density: `(D, D, D)` map of the half.
    shell_weight: `(radius + 1,)` how much of the map to believe in each shell; slices end at the last.
    noise_power: `(n_grids, shells)` of the half.
    """

    def __init__(
        self,
        observations: Observations,
        rows: NDArray[np.int64],
        density: torch.Tensor,
        shell_weight: torch.Tensor,
        noise_power: torch.Tensor,
    ) -> None:
        self._observations, self.rows = observations, rows
        self._place = np.full(len(observations.images.particles), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        self._rates = torch.from_numpy(defocus_rates(observations.images.particles))
        self._volume = transform_for_slices(density, shell_weight)
        weight = 1 / noise_power[:, : len(shell_weight)]
        # The mean of an image is that of its background, taken away with an error far above the noise.
        weight[:, 0] = 0
        self._sample_weights = [half_plane_weight(of_grid) for of_grid in weight]
        self._step_per_A = 1 / (observations.box_size_px * observations.pixel_size_A)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, places: NDArray[np.int64]) -> Iterator[ImagesInHand]:
        """The images at some places among those of the half, in rising order but for those that cannot be used.

        Of a batch that holds several grids, those of one come after those of the other.
        """
        for batch in self._observations.batches(self.rows[places], BATCH_SIZE):
            grid_index = self._observations.images.grid_index[batch.rows]
            for grid in np.unique(grid_index).tolist():
                mine = grid_index == grid
                rows = torch.from_numpy(batch.rows[mine])
                yield ImagesInHand(
                    torch.from_numpy(self._place[batch.rows[mine]]),
                    self._observations.transform(
                        batch.images if mine.all() else batch.images[mine], batch.rows[mine]
                    ),
                    self._observations.ctf_coefficients[rows],
                    self._rates[rows],
                    self._volume,
                    self._sample_weights[grid],
                    self._step_per_A,
                )

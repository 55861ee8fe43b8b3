"""Weighted slices of one set of images, on their way into its normal equations."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from gem3d.fit.normal_equations import NormalEquations
from gem3d.kernels.insert_slices import insert_slices, slice_shape, weigh_slices

# Weighted slices that wait for their insertion.
WAITING_BYTES = 32 << 20


class SlicesOfSet:
    """Weighted slices on their way into the equations of one set.

    The accumulator is far larger than a cache; many slices at once visit it once.

    Attributes
    ----------
    equations: with the slices inserted so far, without the number of their particles.
    """

    def __init__(self, box_size_px: int, pixel_size_A: float, radius: int, device: torch.device) -> None:
        self.equations = NormalEquations.zeros(box_size_px, pixel_size_A, radius, device)
        shape = slice_shape(radius)
        self._waiting = torch.empty((max(8, WAITING_BYTES // (4 * math.prod(shape))), *shape), device=device)
        self._cameras = torch.empty((len(self._waiting), 3, 3), dtype=torch.float64, device=device)
        self._n_waiting = 0

    def add(
        self,
        transforms: torch.Tensor,
        ctf_coefficients: torch.Tensor,
        shifts_px: torch.Tensor,
        cameras: torch.Tensor,
        sample_weight: torch.Tensor,
        weight: torch.Tensor | None = None,
    ) -> None:
        """Take the slices of some images; parameters as of `weigh_slices` and `insert_slices`.

        Parameters
        ----------
        weight: `(b,)` a further factor of each slice.
        """
        done = 0
        step_per_A = 1 / (self.equations.box_size_px * self.equations.pixel_size_A)
        while done < len(transforms):
            if self._n_waiting == len(self._waiting):
                self.insert()
            n = min(len(transforms) - done, len(self._waiting) - self._n_waiting)
            taken, slots = slice(done, done + n), slice(self._n_waiting, self._n_waiting + n)
            weigh_slices(
                transforms[taken],
                ctf_coefficients[taken],
                shifts_px[taken],
                sample_weight,
                step_per_A,
                out=self._waiting[slots],
            )
            if weight is not None:
                self._waiting[slots] *= weight[taken, None, None, None]
            self._cameras[slots] = cameras[taken]
            self._n_waiting += n
            done += n

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name. Slices that wait go along: inserted sooner, they would be added in another order."""
        waiting = slice(0, self._n_waiting)
        return {
            "accumulator": self.equations.accumulator,
            "waiting": self._waiting[waiting],
            "cameras": self._cameras[waiting],
        }

    def restore(self, accumulator: torch.Tensor, waiting: torch.Tensor, cameras: torch.Tensor) -> None:
        """Go on from such tensors.

        Raises
        ------
        ValueError: they are of another grid.
        """
        if accumulator.shape != self.equations.accumulator.shape or len(waiting) > len(self._waiting):
            raise ValueError("it is of images of another size, or of another resolution")
        there = self._waiting.device
        self.equations = replace(self.equations, accumulator=accumulator.to(there))
        self._n_waiting = len(waiting)
        self._waiting[: self._n_waiting] = waiting
        self._cameras[: self._n_waiting] = cameras

    def finish(self, n_particles: int) -> NormalEquations:
        """The equations of every image added, of which so many count."""
        self.insert()
        return replace(self.equations, n_particles=n_particles)

    def insert(self) -> None:
        """Insert the slices that wait."""
        waiting = slice(0, self._n_waiting)
        insert_slices(self.equations.accumulator, self._waiting[waiting], self._cameras[waiting])
        self._n_waiting = 0

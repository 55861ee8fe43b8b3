"""What a refinement changes: pose, shift, defocus and contrast of every particle, and how far from the start."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.spatial.transform import Rotation

TURN, SHIFT, DEFOCUS, CONTRAST = slice(0, 3), slice(3, 5), slice(5, 6), slice(6, 7)
"""Where each kind of parameter is among the seven of `gem3d.kernels.compare_slices`."""


@dataclass(frozen=True)
class Estimates:
    """Values of `n` particles.

    Attributes
    ----------
    rotations: `(n, 3, 3)` float64 poses A.
    shifts_px: `(n, 2)` float64.
    defocus_A: `(n,)` float64, added to what the particle file gives for both axes.
    contrasts: `(n,)` float64, factor of the particle's projection.
    """

    rotations: torch.Tensor
    shifts_px: torch.Tensor
    defocus_A: torch.Tensor
    contrasts: torch.Tensor

    def __len__(self) -> int:
        return len(self.rotations)

    @classmethod
    def start(cls, rotations: torch.Tensor, shifts_px: torch.Tensor) -> Estimates:
        """Poses and shifts as given, no change of defocus, contrast 1."""
        n = len(rotations)
        return cls(
            rotations.clone(),
            shifts_px.clone(),
            torch.zeros(n, dtype=torch.float64),
            torch.ones(n, dtype=torch.float64),
        )

    def copy(self) -> Estimates:
        """The same values in memory of their own."""
        return Estimates(*(getattr(self, f.name).clone() for f in fields(self)))

    def select(self, index: torch.Tensor) -> Estimates:
        """Those of some particles."""
        return Estimates(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: torch.Tensor, values: Estimates) -> None:
        """Replace those of some particles, in place."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(values, f.name)

    def changed(self, change: torch.Tensor) -> Estimates:
        """After a step.

        Parameters
        ----------
        change: `(n, 7)` turn (radians, in the camera frame), shift (pixels), defocus (A), contrast.
        """
        turns = torch.from_numpy(Rotation.from_rotvec(change[:, TURN].numpy()).as_matrix())
        return Estimates(
            turns @ self.rotations,
            self.shifts_px + change[:, SHIFT],
            self.defocus_A + change[:, 5],
            self.contrasts + change[:, 6],
        )

    def distance_from(self, start: Estimates) -> torch.Tensor:
        """`(n, 7)` the change that leads from `start` here."""
        turns = self.rotations @ start.rotations.transpose(1, 2)
        vectors = Rotation.from_matrix(np.ascontiguousarray(turns.numpy())).as_rotvec()
        return torch.cat(
            [
                torch.from_numpy(vectors),
                self.shifts_px - start.shifts_px,
                (self.defocus_A - start.defocus_A)[:, None],
                (self.contrasts - start.contrasts)[:, None],
            ],
            dim=1,
        )

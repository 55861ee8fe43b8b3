"""Eleven trainable values a Gaussian, and what they stand for.

V(X) = sum_j a_j N(X; mu_j, Sigma_j),  Sigma_j = R(q_j) diag(s_j^2) R(q_j)^T,  N the normalised 3D Gaussian.

The mass a_j is `unit_mass` times the softplus of a trained value; the paper's density coefficient (GEM, arXiv
2509.25075, Eq. 3.4) is rho_j = a_j / ((2 pi)^(3/2) |Sigma_j|^(1/2)).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch.nn.functional import softplus

from gem3d.kernels.voxelize import voxelize


@dataclass(frozen=True)
class Gaussians:
    """`n` Gaussians, in angstroms from the box centre.

    Attributes
    ----------
    centres_A: `(n, 3)` x, y, z.
    log_scales: `(n, 3)` natural logarithm of the standard deviations in A along the Gaussian's own axes.
    quaternions: `(n, 4)` w, x, y, z, of any length but zero.
    raw_masses: `(n,)`; the mass is `unit_mass * softplus(raw_mass)`.
    unit_mass: scale of the masses, in density times A^3.
    """

    centres_A: torch.Tensor
    log_scales: torch.Tensor
    quaternions: torch.Tensor
    raw_masses: torch.Tensor
    unit_mass: float

    def __len__(self) -> int:
        return len(self.centres_A)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The trained tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "unit_mass"}

    @property
    def masses(self) -> torch.Tensor:
        """`(n,)`, density times A^3."""
        return self.unit_mass * softplus(self.raw_masses)

    def rotations(self) -> torch.Tensor:
        """`(n, 3, 3)`: column k is the direction of the Gaussian's own axis k."""
        return torch.stack([torch.stack(row, dim=1) for row in self._rotation_rows()], dim=1)

    def _rotation_rows(self) -> tuple[tuple[torch.Tensor, ...], ...]:
        w, x, y, z = torch.nn.functional.normalize(self.quaternions, dim=1).unbind(1)
        return (
            (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        )

    def covariances_A2(self) -> torch.Tensor:
        """`(n, 6)` xx, yy, zz, xy, xz, yz in A^2."""
        rows = self._rotation_rows()
        variances = torch.exp(2 * self.log_scales).unbind(1)

        def entry(i: int, j: int) -> torch.Tensor:
            return rows[i][0] * rows[j][0] * variances[0] + sum(
                rows[i][k] * rows[j][k] * variances[k] for k in (1, 2)
            )

        return torch.stack([entry(*ij) for ij in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], dim=1)

    def replaced(self, parameters: dict[str, torch.Tensor]) -> Gaussians:
        """The same with other parameters, by name."""
        return Gaussians(**parameters, unit_mass=self.unit_mass)

    def detached(self) -> Gaussians:
        """A copy outside any graph."""
        return self.replaced({name: t.detach().clone() for name, t in self.parameters.items()})

    @torch.no_grad()
    def copy_(self, other: Gaussians) -> None:
        """Take on the values of as many others of the same unit mass, in the memory of these."""
        for name, tensor in self.parameters.items():
            tensor.copy_(other.parameters[name])

    def to(self, device: torch.device | str) -> Gaussians:
        """The same on a device."""
        return self.replaced({name: t.to(device) for name, t in self.parameters.items()})

    def select(self, index: torch.Tensor) -> Gaussians:
        """The Gaussians of a torch index or mask."""
        return self.replaced({name: t[index] for name, t in self.parameters.items()})

    def joined(self, other: Gaussians) -> Gaussians:
        """Both sets together, in the unit mass of this one."""
        raw = inverse_softplus(other.masses / self.unit_mass)
        theirs = replace(other, raw_masses=raw).parameters
        return self.replaced({name: torch.cat([t, theirs[name]]) for name, t in self.parameters.items()})

    def scaled(self, factor: float) -> Gaussians:
        """The same Gaussians with every mass multiplied by `factor`."""
        return replace(self, unit_mass=self.unit_mass * factor)

    def density(self, box_size: int, voxel_size_A: float) -> torch.Tensor:
        """`(box, box, box)` float32 [z, y, x]: the density at each voxel centre, the box centre at box//2."""
        volume_A3 = voxel_size_A**3
        return voxelize(
            self.masses / volume_A3,
            self.centres_A / voxel_size_A + box_size // 2,
            self.covariances_A2() / voxel_size_A**2,
            (box_size,) * 3,
        )


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """Solve softplus(x) = value for x, value > 0."""
    return value + torch.log(-torch.expm1(-value))

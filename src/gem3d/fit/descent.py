"""The descent of both fits: Adam on Gaussians, with steps in units that have a meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gem3d.fit.adam import Adam
from gem3d.gaussians import Gaussians

# Smallest standard deviation in voxels. Sharper Gaussians reach further towards Nyquist and alias more: the mass of
# one of 0.5 voxels depends by 1.4 % on where it lies between the voxels, of 0.45 by 4 %.
MIN_SCALE_VOXELS = 0.5
_OF_SHAPES = ("log_scales", "quaternions")


@dataclass(frozen=True)
class StepSizes:
    """How far each kind of value moves in a step of Adam at rate 1.

    Attributes
    ----------
    centre_voxels: in voxels of the grid that the Gaussians are fitted on.
    log_scale: share of a standard deviation.
    quaternion: of a unit quaternion.
    raw_mass: of the softplus' argument; for small masses a share of the mass.
    """

    centre_voxels: float
    log_scale: float
    quaternion: float
    raw_mass: float


@dataclass(frozen=True)
class Shapes:
    """Which shapes Gaussians may take: the ablations of the paper's Table 5.

    Attributes
    ----------
    rotations: the axes of the Gaussians turn.
    isotropic: each is a ball; nothing is left to turn then.
    """

    rotations: bool = True
    isotropic: bool = False


class Descent:
    """Gaussians on their way down a loss.

    Attributes
    ----------
    current: their parameters are leaves that gather gradients.
    gradient: `(values,)`, of all parameters, one after the other; theirs are views of it.
    """

    def __init__(
        self,
        start: Gaussians,
        voxel_size_A: float,
        sizes: StepSizes,
        betas: tuple[float, float],
        shapes: Shapes,
    ) -> None:
        trained = {name: t.detach().clone().requires_grad_() for name, t in start.parameters.items()}
        if shapes.isotropic:
            mean = trained["log_scales"].detach().mean(dim=1, keepdim=True)
            trained["log_scales"] = mean.repeat(1, 3).requires_grad_()
        self.current = start.replaced(trained)
        self.gradient = torch.cat([torch.zeros_like(leaf).flatten() for leaf in trained.values()])
        parts = torch.split(self.gradient, [leaf.numel() for leaf in trained.values()])
        for leaf, part in zip(trained.values(), parts, strict=True):
            leaf.grad = part.view_as(leaf)
        self._shapes = shapes
        self._min_log_scale = math.log(MIN_SCALE_VOXELS * voxel_size_A)
        sizes_in_order = {
            "centres_A": sizes.centre_voxels * voxel_size_A,
            "log_scales": sizes.log_scale,
            "quaternions": sizes.quaternion,
            "raw_masses": sizes.raw_mass,
        }
        self.adam = Adam(list(trained.values()), [sizes_in_order[name] for name in trained], betas)

    def set_rates(self, rate: float, rate_of_shapes: float | None = None) -> None:
        """Let the next step be one of `rate` times the step sizes.

        Parameters
        ----------
        rate_of_shapes: that of scales and rotations, if it is another.
        """
        of_shapes = rate if rate_of_shapes is None else rate_of_shapes
        self.adam.set_rates([of_shapes if name in _OF_SHAPES else rate for name in self.current.parameters])

    @torch.no_grad()
    def step(self) -> None:
        """Move by the gradients gathered, at the rates that were set, and clear them."""
        log_scales = self.current.log_scales
        of_scales, of_quaternions = log_scales.grad, self.current.quaternions.grad
        assert of_scales is not None
        assert of_quaternions is not None
        if not self._shapes.rotations or self._shapes.isotropic:
            of_quaternions.zero_()
        else:
            # A ball has no axes: its gradient is nothing but rounding, which Adam would make whole steps of. Two runs
            # whose sums differ in the last digit would part at once.
            is_ball = (log_scales == log_scales[:, :1]).all(dim=1, keepdim=True)
            of_quaternions.masked_fill_(is_ball, 0.0)
        if self._shapes.isotropic:
            of_scales.copy_(of_scales.mean(dim=1, keepdim=True).expand_as(of_scales))
        self.adam.step()
        log_scales.clamp_(min=self._min_log_scale)
        self.gradient.zero_()

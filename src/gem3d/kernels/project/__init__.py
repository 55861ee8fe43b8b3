"""Projection of 3D Gaussians: the images of a particle at given poses, in closed form.

    I_b(r) = sum_j a_j N2(r; (A_b mu_j)_xy + t_b, (A_b Sigma_j A_b^T)_2x2)        r = (x - D//2, y - D//2)

N2 is the normalised 2D Gaussian, so `a_j` is the Gaussian's mass: the sum of its pixels, once it lies inside
the image and is wide enough for the pixel grid to sample it (standard deviation above some 0.7 px).

`reference.py` is that formula in plain torch and defines what is right; `cpu.py` and, in Triton, `gpu.py` are the
fast ones, which leave out what lies beyond the cutoff ellipse. This is the only place that looks at the device.
"""

from __future__ import annotations

from typing import Any

import torch

from gem3d.kernels.backend import deterministic, load_gpu, uses_triton
from gem3d.kernels.project.cpu import project_backward_cpu, project_forward_cpu

__all__ = ["TAIL_CUTOFF", "project"]

TAIL_CUTOFF = 1e-5
"""Relative height at which a Gaussian is cut by default. In two dimensions the mass beyond equals it: at most 1e-5 of
each Gaussian's mass is left out, and no pixel is wrong by more than 1e-5 of the Gaussian's peak."""


def project(
    amplitudes: torch.Tensor,
    means: torch.Tensor,
    covariances: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    box_size: int,
    tail: float = TAIL_CUTOFF,
) -> torch.Tensor:
    """Project Gaussians at `b` poses; differentiable with respect to all five tensors.

    A Gaussian whose projection is not finite or not positive definite adds nothing to the image.

    Parameters
    ----------
    amplitudes: `(n,)` masses.
    means: `(n, 3)` centres (x, y, z) from the rotation centre, in pixels.
    covariances: `(n, 6)` as xx, yy, zz, xy, xz, yz, in square pixels; positive definite.
    rotations: `(b, 3, 3)` a point X appears in the camera frame at `rotations[b] @ X`.
    shifts_px: `(b, 2)` where the rotation centre appears (x, y) from the image centre (D//2), in pixels.
    box_size: D, in pixels.
    tail: each Gaussian is cut where it is below this share of its peak, which leaves out at most that share of its
        mass.

    Returns
    -------
    `(b, D, D)` float32 images, `[image, y, x]`.

    Raises
    ------
    TypeError
        if a tensor is not float32.
    ValueError
        if shapes or devices do not fit together.
    """
    tensors = {
        "amplitudes": (amplitudes, ("n",)),
        "means": (means, ("n", 3)),
        "covariances": (covariances, ("n", 6)),
        "rotations": (rotations, ("b", 3, 3)),
        "shifts_px": (shifts_px, ("b", 2)),
    }
    sizes: dict[str, int] = {}
    for name, (tensor, shape) in tensors.items():
        _check(name, tensor, shape, sizes, amplitudes.device)
    if box_size < 1:
        raise ValueError(f"box_size must be at least 1, not {box_size}")
    if amplitudes.device.type != "cpu" and not uses_triton(amplitudes):
        raise ValueError(f"no projection kernel for device {amplitudes.device}; move the tensors to the CPU")
    if not 0 < tail < 1:
        raise ValueError(f"tail must lie between 0 and 1, not {tail}")
    images: torch.Tensor = _Project.apply(  # type: ignore[no-untyped-call]
        amplitudes, means, covariances, rotations, shifts_px, box_size, tail
    )
    return images


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> torch.Tensor:
        *tensors, box_size, tail = arguments
        if uses_triton(tensors[0]):
            inputs = [t.detach().contiguous() for t in tensors]
            images: torch.Tensor = load_gpu(__name__).forward(
                *inputs, box_size, tail, reproducible=deterministic()
            )
            return images
        return project_forward_cpu(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.tail = inputs[6]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, m, c, r, s = ctx.saved_tensors
        if uses_triton(a):
            *inputs, gradient = (t.detach().contiguous() for t in (a, m, c, r, s, grad_outputs[0]))
            of_poses = any(ctx.needs_input_grad[3:5])
            return (*load_gpu(__name__).backward(*inputs, ctx.tail, gradient, of_poses), None, None)
        return (*project_backward_cpu(a, m, c, r, s, ctx.tail, grad_outputs[0]), None, None)


def _check(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int | str, ...],
    sizes: dict[str, int],
    device: torch.device,
) -> None:
    """Compare one argument with its shape; letters stand for sizes that must agree between arguments."""
    if tensor.dtype != torch.float32:
        raise TypeError(f"{name} must be float32, not {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, amplitudes are on {device}")
    fits = tensor.ndim == len(shape) and all(
        got == (sizes.setdefault(want, got) if isinstance(want, str) else want)
        for got, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape} with {sizes}")

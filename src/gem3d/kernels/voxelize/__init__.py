"""Density of a sum of Gaussians on a voxel grid."""

from __future__ import annotations

from typing import Any

import torch

from gem3d.kernels.backend import deterministic, load_gpu, uses_triton
from gem3d.kernels.voxelize import cpu


def voxelize(
    amplitudes: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor, shape: tuple[int, int, int]
) -> torch.Tensor:
    """Evaluate V(X) = sum_j a_j N(X; mu_j, Sigma_j) at every voxel centre; differentiable.

    A Gaussian is cut where it has fallen to `exp(-cpu.CUTOFF**2 / 2)` of its peak. On a GPU one that is not finite or
    not positive definite adds nothing.

    Parameters
    ----------
    amplitudes: `(n,)` float32 masses.
    means: `(n, 3)` float32 x, y, z in index coordinates: voxel `[k, j, i]` lies at (i, j, k).
    covariances: `(n, 6)` float32 xx, yy, zz, xy, xz, yz in voxels squared; positive definite.
    shape: `(nz, ny, nx)`.

    Returns
    -------
    `shape` float32, mass per voxel.
    """
    for name, tensor, width in (("means", means, 3), ("covariances", covariances, 6)):
        if tensor.shape != (len(amplitudes), width):
            raise ValueError(f"{name} must be ({len(amplitudes)}, {width}), not {tuple(tensor.shape)}")
    for name, tensor in (("amplitudes", amplitudes), ("means", means), ("covariances", covariances)):
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name} must be float32, not {tensor.dtype}")
    volume: torch.Tensor = _Voxelize.apply(amplitudes, means, covariances, shape)  # type: ignore[no-untyped-call]
    return volume


class _Voxelize(torch.autograd.Function):
    @staticmethod
    def forward(
        amplitudes: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor, shape: tuple[int, int, int]
    ) -> torch.Tensor:
        inputs = [t.detach().contiguous() for t in (amplitudes, means, covariances)]
        if uses_triton(amplitudes):
            volume: torch.Tensor = load_gpu(__name__).forward(*inputs, shape, reproducible=deterministic())
            return volume
        a, m, c = (t.numpy() for t in inputs)
        return torch.from_numpy(cpu.forward(a, m, c, shape))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = [t.detach().contiguous() for t in (*ctx.saved_tensors, grad_outputs[0])]
        if uses_triton(inputs[0]):
            return (*load_gpu(__name__).backward(*inputs), None)
        return (
            *(torch.from_numpy(gradient) for gradient in cpu.backward(*(t.numpy() for t in inputs))),
            None,
        )

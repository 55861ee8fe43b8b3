"""Projection of Gaussians on the CPU (numba), forward.

Each image is made by one thread, so no two threads write one pixel and results do not depend on their number.
A Gaussian is evaluated inside the ellipse where it is above `TAIL_CUTOFF` of its peak: rows of the bounding
box, and in each row the interval inside the ellipse, rounded up to blocks of `BLOCK` pixels. The trip count
of the inner loop is a constant and its exponential a polynomial, so that it compiles to vector instructions
without a remainder; the image is padded by a block on the right to let the last block run over.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
Scalar: TypeAlias = Any  # float32 or float64, as numba infers

TAIL_CUTOFF = 1e-5
"""Relative height at which a Gaussian is cut. In two dimensions the mass beyond equals it: at most 1e-5 of
each Gaussian's mass is left out, and no pixel is wrong by more than 1e-5 of the Gaussian's peak."""

MAX_MAHALANOBIS = -2.0 * math.log(TAIL_CUTOFF)
BLOCK = 16
"""Pixels a step: two vectors of eight. With 8 LLVM unrolls the loop into scalar code, half as fast."""

# Everything of fastmath but "no NaN" and "no infinity": bad input must not become undefined behaviour.
FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
LOG2_E = np.float32(math.log2(math.e))


def project_forward_cpu(
    amplitudes: torch.Tensor,
    means: torch.Tensor,
    covariances: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    box_size: int,
) -> torch.Tensor:
    """Images `(b, D, D)` of float32 arguments already checked; see `gem3d.kernels.project.project`."""
    images = torch.empty((len(rotations), box_size, box_size), dtype=torch.float32)
    _project_images(
        _as_numpy(amplitudes),
        _as_numpy(means),
        _as_numpy(covariances),
        _as_numpy(rotations),
        _as_numpy(shifts_px),
        images.numpy(),
    )
    return images


def _as_numpy(tensor: torch.Tensor) -> Float32Array:
    array: Float32Array = tensor.detach().contiguous().numpy()
    return array


@njit(parallel=True, fastmath=FASTMATH, cache=True)
def _project_images(
    amplitudes: Float32Array,
    means: Float32Array,
    covariances: Float32Array,
    rotations: Float32Array,
    shifts_px: Float32Array,
    images: Float32Array,
) -> None:
    size = images.shape[1]
    for b in prange(images.shape[0]):
        padded = np.zeros((size, size + BLOCK), dtype=np.float32)
        for j in range(amplitudes.shape[0]):
            x, y = _project_mean(means[j], rotations[b], shifts_px[b], size)
            xx, yy, xy = _project_covariance(covariances[j], rotations[b])
            _add_gaussian(padded, amplitudes[j], x, y, xx, yy, xy)
        images[b] = padded[:, :size]


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _project_mean(
    mean: Float32Array, rotation: Float32Array, shift_px: Float32Array, size: int
) -> tuple[Scalar, Scalar]:
    """Centre in pixel indices: (A mu)_xy + t + D//2."""
    centre = np.float32(size // 2)
    x = rotation[0, 0] * mean[0] + rotation[0, 1] * mean[1] + rotation[0, 2] * mean[2] + shift_px[0] + centre
    y = rotation[1, 0] * mean[0] + rotation[1, 1] * mean[1] + rotation[1, 2] * mean[2] + shift_px[1] + centre
    return x, y


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _project_covariance(covariance: Float32Array, rotation: Float32Array) -> tuple[Scalar, Scalar, Scalar]:
    """Entries xx, yy, xy of A Sigma A^T."""
    a0, a1, a2 = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    b0, b1, b2 = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    sxx, syy, szz = covariance[0], covariance[1], covariance[2]
    sxy, sxz, syz = covariance[3], covariance[4], covariance[5]
    u0 = sxx * a0 + sxy * a1 + sxz * a2
    u1 = sxy * a0 + syy * a1 + syz * a2
    u2 = sxz * a0 + syz * a1 + szz * a2
    v0 = sxx * b0 + sxy * b1 + sxz * b2
    v1 = sxy * b0 + syy * b1 + syz * b2
    v2 = sxz * b0 + syz * b1 + szz * b2
    return a0 * u0 + a1 * u1 + a2 * u2, b0 * v0 + b1 * v1 + b2 * v2, b0 * u0 + b1 * u1 + b2 * u2


@njit(fastmath=FASTMATH, cache=True)
def _add_gaussian(
    padded: Float32Array, amplitude: Scalar, x: Scalar, y: Scalar, xx: Scalar, yy: Scalar, xy: Scalar
) -> None:
    """Add one projected Gaussian to an image that is wider than high by `BLOCK` spare columns."""
    size = padded.shape[0]
    # float64: the determinant of a needle is a small difference of large products.
    det = np.float64(xx) * np.float64(yy) - np.float64(xy) * np.float64(xy)
    reach_x, reach_y = math.sqrt(MAX_MAHALANOBIS * xx), math.sqrt(MAX_MAHALANOBIS * yy)
    seen_x = x + reach_x >= 0.0 and x - reach_x <= size - 1.0
    seen_y = y + reach_y >= 0.0 and y - reach_y <= size - 1.0
    # Written so that NaN fails it: as an index it would lead out of the image.
    if not (seen_x and seen_y and det > 0.0 and det < np.inf):
        return
    height = np.float32(amplitude / (2.0 * math.pi * math.sqrt(det)))
    # exp(-q/2) = 2^(cx dx^2 + cxy dx dy + cy dy^2), (dx, dy) from the centre
    scale = -0.5 * LOG2_E / det
    cx, cxy, cy = np.float32(scale * yy), np.float32(-2.0 * scale * xy), np.float32(scale * xx)
    first_row = math.ceil(max(y - reach_y, 0.0))
    last_row = math.floor(min(y + reach_y, size - 1.0))
    slope = xy / yy
    conditional_variance = det / yy
    for row in range(first_row, last_row + 1):
        dy = np.float32(row) - y
        middle = x + slope * dy
        half_width = math.sqrt(max(MAX_MAHALANOBIS - dy * dy / yy, 0.0) * conditional_variance)
        first = math.ceil(max(middle - half_width, 0.0))
        last = math.floor(min(middle + half_width, size - 1.0))
        constant = cy * dy * dy
        linear = cxy * dy
        for start in range(first, last + 1, BLOCK):
            offset = np.float32(start) - x
            pixels = padded[row, start : start + BLOCK]
            for i in range(BLOCK):
                dx = offset + np.float32(i)
                pixels[i] += height * _exp2_of_negative(constant + dx * (linear + cx * dx))


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _exp2_of_negative(t: Scalar) -> Scalar:
    """2^t for -60 <= t <= 0 (2^-60 below), relative error 1e-7.

    Polynomial of degree 5 for 2^f on [-1/2, 1/2], least maximal relative error, times 2^n made from its bits.
    The floor keeps products out of the denormal range, where the processor is a hundred times slower.
    """
    t = max(t, np.float32(-60.0))
    n = np.int32(t - np.float32(0.5))  # rounds to nearest: conversion cuts towards zero and t is negative
    f = t - np.float32(n)
    p = np.float32(0.001327647129073739)
    p = p * f + np.float32(0.009675540961325169)
    p = p * f + np.float32(0.05550713092088699)
    p = p * f + np.float32(0.24022120237350464)
    p = p * f + np.float32(0.6931469440460205)
    p = p * f + np.float32(1.0)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

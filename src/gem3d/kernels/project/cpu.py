"""Projection of Gaussians on the CPU (numba), forward and backward.

A Gaussian is evaluated inside the ellipse where it is above a given share of its peak: rows of the bounding box, and
in each row the interval inside the ellipse, rounded up to blocks of `BLOCK` pixels. The trip count of the inner loop
is a constant and its exponential a polynomial, so that it compiles to vector instructions without a remainder; images
are padded by a block on the right to let the last block run over. Backward visits the same pixels as forward.

Forward, each image is made by one thread. Backward, each group of Gaussians gathers its gradients from all images;
what it adds to the gradients of poses and shifts is kept apart and summed in the order of the groups. So no two
threads write one number, and results do not depend on how many there are.
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

GAUSSIANS_PER_GROUP = 64
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
    tail: float,
) -> torch.Tensor:
    """Images `(b, D, D)` of float32 arguments already checked; see `gem3d.kernels.project.project`."""
    images = torch.empty((len(rotations), box_size, box_size), dtype=torch.float32)
    _project_images(
        _as_numpy(amplitudes),
        _as_numpy(means),
        _as_numpy(covariances),
        _as_numpy(rotations),
        _as_numpy(shifts_px),
        -2.0 * math.log(tail),
        images.numpy(),
    )
    return images


def project_backward_cpu(
    amplitudes: torch.Tensor,
    means: torch.Tensor,
    covariances: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    tail: float,
    gradient: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Gradients with respect to the five arguments, given that with respect to the images, `(b, D, D)`."""
    arguments = (amplitudes, means, covariances, rotations, shifts_px)
    n_groups = -(-len(amplitudes) // GAUSSIANS_PER_GROUP)
    padded = torch.nn.functional.pad(gradient, (0, BLOCK))
    of_gaussians = [torch.zeros(t.shape) for t in arguments[:3]]
    of_poses = torch.zeros(n_groups, len(rotations), 8)
    _project_gradients(
        *(_as_numpy(t) for t in arguments),
        -2.0 * math.log(tail),
        padded.numpy(),
        *(t.numpy() for t in of_gaussians),
        of_poses.numpy(),
    )
    total = of_poses.double().sum(0).float()
    of_rotations = torch.zeros(len(rotations), 3, 3)
    of_rotations[:, :2] = total[:, :6].view(-1, 2, 3)
    return (*of_gaussians, of_rotations, total[:, 6:])


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
    limit: float,
    images: Float32Array,
) -> None:
    size = images.shape[1]
    for b in prange(images.shape[0]):
        padded = np.zeros((size, size + BLOCK), dtype=np.float32)
        for j in range(amplitudes.shape[0]):
            x, y = _project_mean(means[j], rotations[b], shifts_px[b], size)
            xx, yy, xy = _project_covariance(covariances[j], rotations[b])
            _add_gaussian(padded, amplitudes[j], x, y, xx, yy, xy, limit)
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


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _ellipse(
    x: Scalar, y: Scalar, xx: Scalar, yy: Scalar, xy: Scalar, limit: float, size: int
) -> tuple[Scalar, Scalar, Scalar, Scalar, Scalar, int, int]:
    """Height of the unit mass, exponent, and rows of the ellipse where the Mahalanobis distance is below `limit`.

    The exponent: exp(-q/2) = 2^(cx dx^2 + cxy dx dy + cy dy^2), (dx, dy) from the centre. No rows where the Gaussian
    lies off the image or is none.
    """
    # float64: the determinant of a needle is a small difference of large products.
    det = np.float64(xx) * np.float64(yy) - np.float64(xy) * np.float64(xy)
    reach_x, reach_y = math.sqrt(limit * xx), math.sqrt(limit * yy)
    seen_x = x + reach_x >= 0.0 and x - reach_x <= size - 1.0
    seen_y = y + reach_y >= 0.0 and y - reach_y <= size - 1.0
    # Written so that NaN fails it: as an index it would lead out of the image.
    if not (seen_x and seen_y and det > 0.0 and det < np.inf):
        nothing = np.float32(0.0)
        return nothing, nothing, nothing, nothing, 0.0, 0, 0
    height = np.float32(1.0 / (2.0 * math.pi * math.sqrt(det)))
    scale = -0.5 * LOG2_E / det
    cx, cxy, cy = np.float32(scale * yy), np.float32(-2.0 * scale * xy), np.float32(scale * xx)
    first_row = math.ceil(max(y - reach_y, 0.0))
    end_row = math.floor(min(y + reach_y, size - 1.0)) + 1
    return height, cx, cxy, cy, det / yy, first_row, end_row


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _columns(
    x: Scalar, yy: Scalar, xy: Scalar, dy: Scalar, conditional_variance: Scalar, limit: float, size: int
) -> tuple[int, int]:
    """First column of a row inside the ellipse and the one after the last."""
    middle = x + xy / yy * dy
    half_width = math.sqrt(max(limit - dy * dy / yy, 0.0) * conditional_variance)
    return math.ceil(max(middle - half_width, 0.0)), math.floor(min(middle + half_width, size - 1.0)) + 1


@njit(fastmath=FASTMATH, cache=True)
def _add_gaussian(
    padded: Float32Array,
    amplitude: Scalar,
    x: Scalar,
    y: Scalar,
    xx: Scalar,
    yy: Scalar,
    xy: Scalar,
    limit: float,
) -> None:
    """Add one projected Gaussian to an image that is wider than high by `BLOCK` spare columns."""
    size = padded.shape[0]
    height, cx, cxy, cy, conditional_variance, first_row, end_row = _ellipse(x, y, xx, yy, xy, limit, size)
    height *= np.float32(amplitude)
    for row in range(first_row, end_row):
        dy = np.float32(row) - y
        first, end = _columns(x, yy, xy, dy, conditional_variance, limit, size)
        constant = cy * dy * dy
        linear = cxy * dy
        for start in range(first, end, BLOCK):
            offset = np.float32(start) - x
            pixels = padded[row, start : start + BLOCK]
            for i in range(BLOCK):
                dx = offset + np.float32(i)
                pixels[i] += height * _exp2_of_negative(constant + dx * (linear + cx * dx))


@njit(fastmath=FASTMATH, cache=True)
def _moments(
    padded: Float32Array, x: Scalar, y: Scalar, xx: Scalar, yy: Scalar, xy: Scalar, limit: float
) -> tuple[Scalar, Scalar, Scalar, Scalar, Scalar, Scalar]:
    """Sums of gradient times unit Gaussian times 1, dx, dy, dx^2, dy^2, dx dy, over the pixels of `_add_gaussian`."""
    size = padded.shape[0]
    height, cx, cxy, cy, conditional_variance, first_row, end_row = _ellipse(x, y, xx, yy, xy, limit, size)
    m0 = mx = my = mxx = myy = mxy = np.float32(0.0)
    for row in range(first_row, end_row):
        dy = np.float32(row) - y
        first, end = _columns(x, yy, xy, dy, conditional_variance, limit, size)
        constant = cy * dy * dy
        linear = cxy * dy
        for start in range(first, end, BLOCK):
            offset = np.float32(start) - x
            pixels = padded[row, start : start + BLOCK]
            s0 = s1 = s2 = np.float32(0.0)
            for i in range(BLOCK):
                dx = offset + np.float32(i)
                g = pixels[i] * _exp2_of_negative(constant + dx * (linear + cx * dx))
                s0 += g
                g *= dx
                s1 += g
                s2 += g * dx
            m0 += s0
            mx += s1
            my += s0 * dy
            mxx += s2
            myy += s0 * dy * dy
            mxy += s1 * dy
    return height * m0, height * mx, height * my, height * mxx, height * myy, height * mxy


@njit(parallel=True, fastmath=FASTMATH, cache=True)
def _project_gradients(
    amplitudes: Float32Array,
    means: Float32Array,
    covariances: Float32Array,
    rotations: Float32Array,
    shifts_px: Float32Array,
    limit: float,
    padded: Float32Array,
    grad_amplitudes: Float32Array,
    grad_means: Float32Array,
    grad_covariances: Float32Array,
    grad_poses: Float32Array,
) -> None:
    """`grad_poses` `(groups, b, 8)`: two rows of the rotation, then the shift, as far as each group contributes."""
    size = padded.shape[1]
    for group in prange(grad_poses.shape[0]):
        begin = group * GAUSSIANS_PER_GROUP
        for b in range(padded.shape[0]):
            r, pose = rotations[b], grad_poses[group, b]
            for j in range(begin, min(begin + GAUSSIANS_PER_GROUP, amplitudes.shape[0])):
                x, y = _project_mean(means[j], r, shifts_px[b], size)
                xx, yy, xy = _project_covariance(covariances[j], r)
                m0, mx, my, mxx, myy, mxy = _moments(padded[b], x, y, xx, yy, xy, limit)
                if m0 == 0 and mxx == 0 and myy == 0:
                    continue
                grad_amplitudes[j] += m0
                a = amplitudes[j]
                inverse = 1.0 / (np.float64(xx) * np.float64(yy) - np.float64(xy) * np.float64(xy))
                pxx, pyy, pxy = np.float32(yy * inverse), np.float32(xx * inverse), np.float32(-xy * inverse)
                # dI/dmu = I P d
                gx, gy = a * (pxx * mx + pxy * my), a * (pxy * mx + pyy * my)
                # dI/dSigma = I (P d d^T P - P) / 2, a symmetric matrix
                ux, uy = pxx * mxx + pxy * mxy, pxx * mxy + pxy * myy
                vx, vy = pxy * mxx + pyy * mxy, pxy * mxy + pyy * myy
                half = np.float32(0.5) * a
                gxx = half * (ux * pxx + uy * pxy - pxx * m0)
                gyy = half * (vx * pxy + vy * pyy - pyy * m0)
                gxy = half * (ux * pxy + uy * pyy - pxy * m0)
                _add_to_gaussian(grad_means[j], grad_covariances[j], r, gx, gy, gxx, gyy, gxy)
                _add_to_pose(pose, means[j], covariances[j], r, gx, gy, gxx, gyy, gxy)


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _add_to_gaussian(
    grad_mean: Float32Array,
    grad_covariance: Float32Array,
    r: Float32Array,
    gx: Scalar,
    gy: Scalar,
    gxx: Scalar,
    gyy: Scalar,
    gxy: Scalar,
) -> None:
    """Carry gradients of the projected mean and covariance back through A mu and A Sigma A^T."""
    for i in range(3):
        grad_mean[i] += r[0, i] * gx + r[1, i] * gy
        grad_covariance[i] += gxx * r[0, i] * r[0, i] + gyy * r[1, i] * r[1, i] + 2 * gxy * r[0, i] * r[1, i]
    # An off-diagonal entry stands for two elements of the matrix.
    for entry, i, j in ((3, 0, 1), (4, 0, 2), (5, 1, 2)):
        grad_covariance[entry] += 2 * (
            gxx * r[0, i] * r[0, j] + gyy * r[1, i] * r[1, j] + gxy * (r[0, i] * r[1, j] + r[1, i] * r[0, j])
        )


@njit(fastmath=FASTMATH, cache=True, inline="always")
def _add_to_pose(
    pose: Float32Array,
    mean: Float32Array,
    c: Float32Array,
    r: Float32Array,
    gx: Scalar,
    gy: Scalar,
    gxx: Scalar,
    gyy: Scalar,
    gxy: Scalar,
) -> None:
    """Add g mu^T + 2 G A Sigma, the gradient of the two rows of A, and that of the shift."""
    u0 = gxx * r[0, 0] + gxy * r[1, 0]
    u1 = gxx * r[0, 1] + gxy * r[1, 1]
    u2 = gxx * r[0, 2] + gxy * r[1, 2]
    v0 = gxy * r[0, 0] + gyy * r[1, 0]
    v1 = gxy * r[0, 1] + gyy * r[1, 1]
    v2 = gxy * r[0, 2] + gyy * r[1, 2]
    pose[0] += gx * mean[0] + 2 * (u0 * c[0] + u1 * c[3] + u2 * c[4])
    pose[1] += gx * mean[1] + 2 * (u0 * c[3] + u1 * c[1] + u2 * c[5])
    pose[2] += gx * mean[2] + 2 * (u0 * c[4] + u1 * c[5] + u2 * c[2])
    pose[3] += gy * mean[0] + 2 * (v0 * c[0] + v1 * c[3] + v2 * c[4])
    pose[4] += gy * mean[1] + 2 * (v0 * c[3] + v1 * c[1] + v2 * c[5])
    pose[5] += gy * mean[2] + 2 * (v0 * c[4] + v1 * c[5] + v2 * c[2])
    pose[6] += gx
    pose[7] += gy


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

"""Projection of Gaussians on the CPU (numba), forward and backward.

Gaussians are worked on in groups of `LANES`, which lie in memory value by value: projecting a group's centres and
covariances, and carrying gradients back through that, are loops over the group without a branch, which compile to
vector instructions.

Of each Gaussian the pixels inside the ellipse where it is above a given share of its peak are visited, in blocks of
`BLOCK` columns: most Gaussians need one, an inner loop of fixed length over its rows. Images are padded by a block on
the right to let the last block run over. Backward visits the same pixels as forward. It keeps sums for each column of
a block and adds up the columns at the end, as a sum across the lanes of a vector costs more than a row.

Forward, each image is made by one thread. Backward, each group of Gaussians gathers its gradients from all images;
what it adds to the gradients of poses and shifts is kept apart and summed in the order of the groups. So no two
threads write one number, and results do not depend on how many there are.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from gem3d.threads import in_shares

Float32Array: TypeAlias = NDArray[np.float32]
Scalar: TypeAlias = Any  # float32 or float64, as numba infers

LANES = 64
BLOCK = 16

# Everything of fastmath but "no NaN" and "no infinity": bad input must not become undefined behaviour. A division by
# zero gives infinity as in numpy; raising an exception for it would keep loops from becoming vector instructions.
OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"},
    "error_model": "numpy",
    "nogil": True,
    "cache": True,
}
INLINED: dict[str, Any] = {**OPTIONS, "forceinline": True}
F32 = np.float32
LOG2_E = F32(math.log2(math.e))

# What a group holds of each Gaussian, one after the other, each over all its lanes.
MASS, MEAN, COVARIANCE, N_VALUES = 0, 1, 4, 10
# What is known of each once it is projected: centre in pixel indices; entries of the inverse covariance; height of
# the unit mass; half widths of the ellipse, that in y negative where nothing is to be seen; column of the ellipse's
# top; slope and variance of the column's conditional distribution, and the inverse variance of the row.
X, Y, PXX, PYY, PXY, HEIGHT, REACH_X, REACH_Y, TOP, SLOPE, CONDITIONAL, INVERSE_XX = range(12)
# Sums over its pixels of gradient times unit Gaussian times 1, dx, dy, dx^2, dy^2, dx dy.
M0, MX, MY, MXX, MYY, MXY = range(12, 18)
N_PROJECTED = 18


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
    in_shares(
        _project_images,
        len(images),
        _in_groups(amplitudes, means, covariances).numpy(),
        _as_numpy(rotations),
        _as_numpy(shifts_px),
        F32(-2.0 * math.log(tail)),
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
    groups = _in_groups(amplitudes, means, covariances)
    of_groups = torch.zeros_like(groups)
    of_poses = torch.zeros(len(groups), len(rotations), 8)
    in_shares(
        _project_gradients,
        len(groups),
        groups.numpy(),
        _as_numpy(rotations),
        _as_numpy(shifts_px),
        F32(-2.0 * math.log(tail)),
        torch.nn.functional.pad(gradient, (0, BLOCK)).numpy(),
        of_groups.numpy(),
        of_poses.numpy(),
    )
    of_gaussians = (
        of_groups.view(-1, N_VALUES, LANES).transpose(1, 2).reshape(-1, N_VALUES)[: len(amplitudes)]
    )
    total = of_poses.double().sum(0).float()
    of_rotations = torch.zeros(len(rotations), 3, 3)
    of_rotations[:, :2] = total[:, :6].view(-1, 2, 3)
    return (
        of_gaussians[:, MASS],
        of_gaussians[:, MEAN:COVARIANCE],
        of_gaussians[:, COVARIANCE:],
        of_rotations,
        total[:, 6:],
    )


def _in_groups(amplitudes: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor) -> torch.Tensor:
    """`(groups, N_VALUES * LANES)`; the last group is filled up with Gaussians of no extent, which are not seen."""
    n_groups = -(-len(amplitudes) // LANES)
    values = torch.zeros(n_groups * LANES, N_VALUES)
    values[: len(amplitudes)] = torch.cat([amplitudes[:, None], means, covariances], dim=1).detach()
    return values.view(n_groups, LANES, N_VALUES).transpose(1, 2).reshape(n_groups, N_VALUES * LANES)


def _as_numpy(tensor: torch.Tensor) -> Float32Array:
    array: Float32Array = tensor.detach().contiguous().numpy()
    return array


@njit(**OPTIONS)
def _project_images(
    begin: int,
    end: int,
    groups: Float32Array,
    rotations: Float32Array,
    shifts_px: Float32Array,
    limit: Scalar,
    images: Float32Array,
) -> None:
    size = images.shape[1]
    for b in range(begin, end):
        padded = np.zeros((size, size + BLOCK), dtype=np.float32)
        projected = np.empty(N_PROJECTED * LANES, dtype=np.float32)
        for g in range(groups.shape[0]):
            _project_group(groups[g], rotations[b], shifts_px[b], limit, size, projected)
            for j in range(LANES):
                if projected[REACH_Y * LANES + j] >= F32(0):
                    _add_gaussian(padded, groups[g, j], projected, j, limit)
        images[b] = padded[:, :size]


@njit(**OPTIONS)
def _project_gradients(
    begin: int,
    end: int,
    groups: Float32Array,
    rotations: Float32Array,
    shifts_px: Float32Array,
    limit: Scalar,
    padded: Float32Array,
    grad_groups: Float32Array,
    grad_poses: Float32Array,
) -> None:
    """`grad_poses` `(groups, b, 8)`: two rows of the rotation, then the shift, as far as each group contributes."""
    for g in range(begin, end):
        projected = np.empty(N_PROJECTED * LANES, dtype=np.float32)
        columns = np.empty(3 * BLOCK, dtype=np.float32)
        for b in range(padded.shape[0]):
            _project_group(groups[g], rotations[b], shifts_px[b], limit, padded.shape[1], projected)
            for j in range(LANES):
                if projected[REACH_Y * LANES + j] >= F32(0):
                    _moments(padded[b], projected, j, limit, columns)
            _carry_back(groups[g], projected, rotations[b], grad_groups[g], grad_poses[g, b])


@njit(**INLINED)
def _project_group(
    group: Float32Array,
    rotation: Float32Array,
    shift_px: Float32Array,
    limit: Scalar,
    size: int,
    projected: Float32Array,
) -> None:
    """Centres (A mu)_xy + t + D//2, covariances A Sigma A^T, and what follows from them for the loops over pixels."""
    a0, a1, a2 = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    b0, b1, b2 = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    shift_x, shift_y, last = shift_px[0] + F32(size // 2), shift_px[1] + F32(size // 2), F32(size - 1)
    n, p, mean, cov = LANES, projected, MEAN * LANES, COVARIANCE * LANES
    for j in range(n):
        mx, my, mz = group[mean + j], group[mean + n + j], group[mean + 2 * n + j]
        sxx, syy, szz = group[cov + j], group[cov + n + j], group[cov + 2 * n + j]
        sxy, sxz, syz = group[cov + 3 * n + j], group[cov + 4 * n + j], group[cov + 5 * n + j]
        x = a0 * mx + a1 * my + a2 * mz + shift_x
        y = b0 * mx + b1 * my + b2 * mz + shift_y
        u0, u1, u2 = (
            sxx * a0 + sxy * a1 + sxz * a2,
            sxy * a0 + syy * a1 + syz * a2,
            sxz * a0 + syz * a1 + szz * a2,
        )
        v0, v1, v2 = (
            sxx * b0 + sxy * b1 + sxz * b2,
            sxy * b0 + syy * b1 + syz * b2,
            sxz * b0 + syz * b1 + szz * b2,
        )
        xx, yy, xy = a0 * u0 + a1 * u1 + a2 * u2, b0 * v0 + b1 * v1 + b2 * v2, b0 * u0 + b1 * u1 + b2 * u2
        # float64: the determinant of a needle is a small difference of large products.
        det = np.float64(xx) * np.float64(yy) - np.float64(xy) * np.float64(xy)
        inverse = 1.0 / det
        reach_x, reach_y = math.sqrt(limit * xx), math.sqrt(limit * yy)
        # Written so that NaN fails it: as an index it would lead out of the image.
        seen = (
            (x + reach_x >= F32(0)) & (x - reach_x <= last) & (y + reach_y >= F32(0)) & (y - reach_y <= last)
        )
        seen = seen & (det > 0.0) & (det < np.inf)
        p[X * n + j], p[Y * n + j] = x, y
        p[PXX * n + j], p[PYY * n + j] = F32(yy * inverse), F32(xx * inverse)
        p[PXY * n + j] = F32(-xy * inverse)
        p[HEIGHT * n + j] = F32(math.sqrt(inverse) * (0.5 / math.pi))
        p[REACH_X * n + j] = reach_x
        p[REACH_Y * n + j] = reach_y if seen else F32(-1)
        p[TOP * n + j] = xy / yy * reach_y
        p[SLOPE * n + j] = xy / xx
        p[CONDITIONAL * n + j] = F32(det / xx)
        p[INVERSE_XX * n + j] = F32(1) / xx


@njit(inline="always", **OPTIONS)
def _span(centre: Scalar, below: Scalar, above: Scalar, size: int) -> tuple[int, int]:
    """First pixel from `centre - below` to `centre + above`, and the one after the last."""
    return math.ceil(max(centre - below, F32(0))), math.floor(min(centre + above, F32(size - 1))) + 1


@njit(**INLINED)
def _rows(p: Float32Array, j: int, first: int, limit: Scalar, size: int) -> tuple[int, int]:
    """First row, and the one after the last, of the ellipse's part in the block that begins at column `first`."""
    n = LANES
    x, reach_x, top = p[X * n + j], p[REACH_X * n + j], p[TOP * n + j]
    below = above = p[REACH_Y * n + j]
    slope, conditional, inverse_xx = p[SLOPE * n + j], p[CONDITIONAL * n + j], p[INVERSE_XX * n + j]
    left = min(max(F32(first) - x, -reach_x), reach_x)
    right = min(max(F32(first + BLOCK - 1) - x, -reach_x), reach_x)
    half_left = math.sqrt(max(limit - left * left * inverse_xx, F32(0)) * conditional)
    half_right = math.sqrt(max(limit - right * right * inverse_xx, F32(0)) * conditional)
    # The upper edge of an ellipse is concave: over some columns it is highest at its top or at one of the ends.
    if not left <= top <= right:
        above = max(slope * left + half_left, slope * right + half_right)
    if not left <= -top <= right:
        below = max(half_left - slope * left, half_right - slope * right)
    rows: tuple[int, int] = _span(p[Y * n + j], below, above, size)
    return rows


@njit(inline="always", **OPTIONS)
def _exponent(p: Float32Array, j: int) -> tuple[Scalar, Scalar, Scalar]:
    """Factors in exp(-q/2) = 2^(cx dx^2 + cxy dx dy + cy dy^2), (dx, dy) from the centre."""
    half = F32(-0.5) * LOG2_E
    return half * p[PXX * LANES + j], -LOG2_E * p[PXY * LANES + j], half * p[PYY * LANES + j]


@njit(**INLINED)
def _add_gaussian(padded: Float32Array, mass: Scalar, p: Float32Array, j: int, limit: Scalar) -> None:
    """Add Gaussian `j` of a projected group to an image that is wider than high by `BLOCK` spare columns."""
    size, n = padded.shape[0], LANES
    x, y, peak = p[X * n + j], p[Y * n + j], p[HEIGHT * n + j] * mass
    cx, cxy, cy = _exponent(p, j)
    begin, end = _span(x, p[REACH_X * n + j], p[REACH_X * n + j], size)
    if end - begin <= BLOCK:
        first_row, end_row = _span(y, p[REACH_Y * n + j], p[REACH_Y * n + j], size)
        _add_block(padded, begin, first_row, end_row, x, y, peak, cx, cxy, cy)
    else:
        for first in range(begin, end, BLOCK):
            first_row, end_row = _rows(p, j, first, limit, size)
            _add_block(padded, first, first_row, end_row, x, y, peak, cx, cxy, cy)


@njit(inline="always", **OPTIONS)
def _add_block(
    padded: Float32Array,
    first: int,
    first_row: int,
    end_row: int,
    x: Scalar,
    y: Scalar,
    peak: Scalar,
    cx: Scalar,
    cxy: Scalar,
    cy: Scalar,
) -> None:
    offset = F32(first) - x
    for row in range(first_row, end_row):
        dy = F32(row) - y
        constant, linear = cy * dy * dy, cxy * dy
        pixels = padded[row, first : first + BLOCK]
        for i in range(BLOCK):
            dx = offset + F32(i)
            pixels[i] += peak * _exp2_of_negative(constant + dx * (linear + cx * dx))


@njit(**INLINED)
def _moments(padded: Float32Array, p: Float32Array, j: int, limit: Scalar, columns: Float32Array) -> None:
    """Sums over the pixels of `_add_gaussian`, into `M0` to `MXY` of Gaussian `j`; `columns` is memory to work in."""
    size, n = padded.shape[0], LANES
    for moment in range(M0, MXY + 1):
        p[moment * n + j] = F32(0)
    begin, end = _span(p[X * n + j], p[REACH_X * n + j], p[REACH_X * n + j], size)
    if end - begin <= BLOCK:
        first_row, end_row = _span(p[Y * n + j], p[REACH_Y * n + j], p[REACH_Y * n + j], size)
        _add_moments(padded, begin, first_row, end_row, p, j, columns)
    else:
        for first in range(begin, end, BLOCK):
            first_row, end_row = _rows(p, j, first, limit, size)
            _add_moments(padded, first, first_row, end_row, p, j, columns)


@njit(inline="always", **OPTIONS)
def _add_moments(
    padded: Float32Array,
    first: int,
    first_row: int,
    end_row: int,
    p: Float32Array,
    j: int,
    columns: Float32Array,
) -> None:
    """Add those of one block of columns."""
    n = LANES
    cx, cxy, cy = _exponent(p, j)
    y, offset = p[Y * n + j], F32(first) - p[X * n + j]
    columns[:] = F32(0)
    for row in range(first_row, end_row):
        dy = F32(row) - y
        constant, linear, dy_squared = cy * dy * dy, cxy * dy, dy * dy
        pixels = padded[row, first : first + BLOCK]
        for i in range(BLOCK):
            dx = offset + F32(i)
            value = pixels[i] * _exp2_of_negative(constant + dx * (linear + cx * dx))
            columns[i] += value
            columns[BLOCK + i] += value * dy
            columns[2 * BLOCK + i] += value * dy_squared
    m0 = mx = my = mxx = myy = mxy = F32(0)
    for i in range(BLOCK):
        dx = offset + F32(i)
        m0 += columns[i]
        mx += columns[i] * dx
        mxx += columns[i] * dx * dx
        my += columns[BLOCK + i]
        mxy += columns[BLOCK + i] * dx
        myy += columns[2 * BLOCK + i]
    height = p[HEIGHT * n + j]
    p[M0 * n + j] += height * m0
    p[MX * n + j] += height * mx
    p[MY * n + j] += height * my
    p[MXX * n + j] += height * mxx
    p[MYY * n + j] += height * myy
    p[MXY * n + j] += height * mxy


@njit(**INLINED)
def _carry_back(
    group: Float32Array, p: Float32Array, r: Float32Array, grad_group: Float32Array, grad_pose: Float32Array
) -> None:
    """From the moments to the gradients of the group's values, added to what is there, and of pose and shift.

    With P the inverse of the projected covariance and d the way from the centre to a pixel, dI/dmu = I P d and
    dI/dSigma = I (P d d^T P - P) / 2, a symmetric matrix G; both are carried back through A mu and A Sigma A^T.
    """
    a0, a1, a2 = r[0, 0], r[0, 1], r[0, 2]
    b0, b1, b2 = r[1, 0], r[1, 1], r[1, 2]
    n, mean, cov, two, zero = LANES, MEAN * LANES, COVARIANCE * LANES, F32(2), F32(0)
    p0 = p1 = p2 = p3 = p4 = p5 = p6 = p7 = zero
    for j in range(n):
        # What is not seen may hold anything, NaN too.
        seen = p[REACH_Y * n + j] >= zero
        m0 = p[M0 * n + j] if seen else zero
        mx, my = (p[MX * n + j], p[MY * n + j]) if seen else (zero, zero)
        mxx, myy = (p[MXX * n + j], p[MYY * n + j]) if seen else (zero, zero)
        mxy, pxy = (p[MXY * n + j], p[PXY * n + j]) if seen else (zero, zero)
        pxx, pyy = (p[PXX * n + j], p[PYY * n + j]) if seen else (zero, zero)
        a, x = (group[j], group[mean + j]) if seen else (zero, zero)
        y, z = (group[mean + n + j], group[mean + 2 * n + j]) if seen else (zero, zero)
        sxx, syy = (group[cov + j], group[cov + n + j]) if seen else (zero, zero)
        szz, sxy = (group[cov + 2 * n + j], group[cov + 3 * n + j]) if seen else (zero, zero)
        sxz, syz = (group[cov + 4 * n + j], group[cov + 5 * n + j]) if seen else (zero, zero)

        gx, gy = a * (pxx * mx + pxy * my), a * (pxy * mx + pyy * my)
        ux, uy = pxx * mxx + pxy * mxy, pxx * mxy + pxy * myy
        vx, vy = pxy * mxx + pyy * mxy, pxy * mxy + pyy * myy
        half = F32(0.5) * a
        gxx = half * (ux * pxx + uy * pxy - pxx * m0)
        gyy = half * (vx * pxy + vy * pyy - pyy * m0)
        gxy = half * (ux * pxy + uy * pyy - pxy * m0)

        grad_group[j] += m0
        grad_group[mean + j] += a0 * gx + b0 * gy
        grad_group[mean + n + j] += a1 * gx + b1 * gy
        grad_group[mean + 2 * n + j] += a2 * gx + b2 * gy
        # G A, two rows
        u0, u1, u2 = gxx * a0 + gxy * b0, gxx * a1 + gxy * b1, gxx * a2 + gxy * b2
        v0, v1, v2 = gxy * a0 + gyy * b0, gxy * a1 + gyy * b1, gxy * a2 + gyy * b2
        # A^T G A; an off-diagonal entry stands for two elements of the matrix.
        grad_group[cov + j] += a0 * u0 + b0 * v0
        grad_group[cov + n + j] += a1 * u1 + b1 * v1
        grad_group[cov + 2 * n + j] += a2 * u2 + b2 * v2
        grad_group[cov + 3 * n + j] += two * (a0 * u1 + b0 * v1)
        grad_group[cov + 4 * n + j] += two * (a0 * u2 + b0 * v2)
        grad_group[cov + 5 * n + j] += two * (a1 * u2 + b1 * v2)
        # g mu^T + 2 G A Sigma
        p0 += gx * x + two * (u0 * sxx + u1 * sxy + u2 * sxz)
        p1 += gx * y + two * (u0 * sxy + u1 * syy + u2 * syz)
        p2 += gx * z + two * (u0 * sxz + u1 * syz + u2 * szz)
        p3 += gy * x + two * (v0 * sxx + v1 * sxy + v2 * sxz)
        p4 += gy * y + two * (v0 * sxy + v1 * syy + v2 * syz)
        p5 += gy * z + two * (v0 * sxz + v1 * syz + v2 * szz)
        p6 += gx
        p7 += gy
    grad_pose[0], grad_pose[1], grad_pose[2], grad_pose[3] = p0, p1, p2, p3
    grad_pose[4], grad_pose[5], grad_pose[6], grad_pose[7] = p4, p5, p6, p7


@njit(inline="always", **OPTIONS)
def _exp2_of_negative(t: Scalar) -> Scalar:
    """2^t for -60 <= t <= 0 (2^-60 below), relative error 1e-7.

    Polynomial of degree 5 for 2^f on [-1/2, 1/2], least maximal relative error, times 2^n made from its bits.
    The floor keeps products out of the denormal range, where the processor is a hundred times slower.
    """
    t = max(t, F32(-60.0))
    n = np.int32(t - F32(0.5))  # rounds to nearest: conversion cuts towards zero and t is negative
    f = t - F32(n)
    p = F32(0.001327647129073739)
    p = p * f + F32(0.009675540961325169)
    p = p * f + F32(0.05550713092088699)
    p = p * f + F32(0.24022120237350464)
    p = p * f + F32(0.6931469440460205)
    p = p * f + F32(1.0)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

"""Voxelize on the CPU: each Gaussian touches only the voxels inside its ellipsoid, forward and backward.

Most Gaussians are narrower than `LANES` voxels. Their rows are computed `LANES` voxels at a time whatever their
width: a loop of fixed length becomes a few vector instructions, cheaper than one exponential a row and a
recurrence along it. Voxels outside the ellipsoid get zero.

Forward, the grid is cut into slabs of planes and each slab is written by one thread, which visits the Gaussians
that reach into it: no two threads write one voxel, and the sum's order does not depend on the number of threads.
Backward, each Gaussian gathers its own moments of the incoming gradient.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.threads import in_shares

PLANES_PER_SLAB = 4

# Mahalanobis radius at which a Gaussian is cut: exp(-4.0^2 / 2) = 3.4e-4 of its peak, 1.1e-3 of its mass.
CUTOFF = 4.0

# Voxels of a row computed at once.
LANES = 16


@numba.njit(cache=True, fastmath=True, forceinline=True)
def _shape_of(covariance, cutoff):  # type: ignore[no-untyped-def]
    """Precision matrix (xx, yy, zz, xy, xz, yz), determinant and half widths of the cut ellipsoid's box."""
    xx, yy, zz, xy, xz, yz = covariance
    cxx = yy * zz - yz * yz
    cxy = xz * yz - xy * zz
    cxz = xy * yz - xz * yy
    det = xx * cxx + xy * cxy + xz * cxz
    inv = np.float32(1.0) / det
    precision = (
        cxx * inv,
        (xx * zz - xz * xz) * inv,
        (xx * yy - xy * xy) * inv,
        cxy * inv,
        cxz * inv,
        (xy * xz - xx * yz) * inv,
    )
    half = (cutoff * math.sqrt(xx), cutoff * math.sqrt(yy), cutoff * math.sqrt(zz))
    return precision, det, half


@numba.njit(cache=True, fastmath=True, inline="always")
def _window(mean, half, n):  # type: ignore[no-untyped-def]
    """First and one past the last grid index within `half` of `mean`."""
    first = max(0, math.ceil(mean - half))
    last = min(n, math.floor(mean + half) + 1)
    return first, last


@numba.njit(cache=True)
def _gaussians_of_slabs(means, covariances, cutoff, nz):  # type: ignore[no-untyped-def]
    """For each slab the Gaussians that reach into it, as offsets into one list."""
    n_slabs = (nz + PLANES_PER_SLAB - 1) // PLANES_PER_SLAB
    offsets = np.zeros(n_slabs + 1, np.int64)
    spans = np.empty((len(means), 2), np.int32)
    for j in range(len(means)):
        half = cutoff * math.sqrt(covariances[j, 2])
        first = max(0, math.ceil(means[j, 2] - half))
        last = min(nz - 1, math.floor(means[j, 2] + half))
        spans[j, 0] = first // PLANES_PER_SLAB
        spans[j, 1] = last // PLANES_PER_SLAB if last >= first else -1
        for s in range(spans[j, 0], spans[j, 1] + 1):
            offsets[s + 1] += 1
    for s in range(n_slabs):
        offsets[s + 1] += offsets[s]
    members = np.empty(offsets[n_slabs], np.int32)
    filled = offsets[:-1].copy()
    for j in range(len(means)):
        for s in range(spans[j, 0], spans[j, 1] + 1):
            members[filled[s]] = j
            filled[s] += 1
    return offsets, members


@numba.njit(cache=True, fastmath=True, inline="always")
def _exp_of_half(q):  # type: ignore[no-untyped-def]
    """exp(-q / 2) for 0 <= q <= CUTOFF^2 by arithmetic alone, so that it vectorises: exp(t)^32 with t = -q / 64.

    The series ends at t^5: relative error 32 t^6 / 720, 1e-5 where the Gaussian is cut and far less near its peak.
    """
    t = np.float32(-1 / 64) * q
    e = np.float32(1 / 24) + t * np.float32(1 / 120)
    e = np.float32(1.0) + t * (np.float32(1.0) + t * (np.float32(1 / 2) + t * (np.float32(1 / 6) + t * e)))
    e *= e
    e *= e
    e *= e
    e *= e
    return e * e


@numba.njit(cache=True, fastmath=True, inline="always")
def _add_row(row, first, count, u, peak, c, b2, p, limit):  # type: ignore[no-untyped-def]
    """Add peak exp(-q / 2), q = c + b2 d + p d^2 with d = u + i, to `count` voxels of a row."""
    for i in range(count):
        d = u + np.float32(i)
        q = c + d * (b2 + p * d)
        e = peak * _exp_of_half(q)
        row[first + i] += e if q <= limit else np.float32(0.0)


@numba.njit(cache=True, fastmath=True, inline="always")
def _row_moments(row, first, count, u, c, b2, p, limit):  # type: ignore[no-untyped-def]
    """Sums of g exp(-q / 2) times 1, d and d^2 over a row; see `_add_row`."""
    s0 = s1 = s2 = np.float32(0.0)
    for i in range(count):
        d = u + np.float32(i)
        q = c + d * (b2 + p * d)
        e = row[first + i] * _exp_of_half(q)
        t = e if q <= limit else np.float32(0.0)
        s0 += t
        t *= d
        s1 += t
        s2 += t * d
    return s0, s1, s2


@numba.njit(cache=True, nogil=True, fastmath=True)
def _forward(begin, end, amplitudes, means, covariances, cutoff, offsets, members, volume):  # type: ignore[no-untyped-def]
    nz, ny, nx = volume.shape
    limit = cutoff * cutoff
    for slab in range(begin, end):
        slab_first = slab * PLANES_PER_SLAB
        slab_last = min(nz, slab_first + PLANES_PER_SLAB)
        volume[slab_first:slab_last] = 0
        for m in range(offsets[slab], offsets[slab + 1]):
            j = members[m]
            (pxx, pyy, pzz, pxy, pxz, pyz), det, half = _shape_of(covariances[j], cutoff)
            peak = amplitudes[j] / math.sqrt(det * np.float32(248.05021344239853))  # (2 pi)^3
            mx, my, mz = means[j]
            z0, z1 = _window(mz, half[2], nz)
            y0, y1 = _window(my, half[1], ny)
            first, last = _window(mx, half[0], nx)
            narrow = nx >= LANES and last - first <= LANES
            if narrow:
                first = min(first, nx - LANES)
            u = np.float32(first) - mx
            inv_pxx = np.float32(1.0) / pxx
            for z in range(max(z0, slab_first), min(z1, slab_last)):
                dz = np.float32(z) - mz
                for y in range(y0, y1):
                    dy = np.float32(y) - my
                    b = pxy * dy + pxz * dz
                    c = pyy * dy * dy + np.float32(2.0) * pyz * dy * dz + pzz * dz * dz
                    if c - b * b * inv_pxx >= limit:
                        continue
                    b2 = np.float32(2.0) * b
                    if narrow:
                        _add_row(volume[z, y], first, LANES, u, peak, c, b2, pxx, limit)
                    else:
                        _add_row(volume[z, y], first, last - first, u, peak, c, b2, pxx, limit)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _backward(begin, end, amplitudes, means, covariances, cutoff, gradient, grad_a, grad_mean, grad_cov):  # type: ignore[no-untyped-def]
    nz, ny, nx = gradient.shape
    limit = cutoff * cutoff
    for j in range(begin, end):
        (pxx, pyy, pzz, pxy, pxz, pyz), det, half = _shape_of(covariances[j], cutoff)
        unit_peak = np.float32(1.0) / math.sqrt(det * np.float32(248.05021344239853))  # (2 pi)^3
        mx, my, mz = means[j]
        z0, z1 = _window(mz, half[2], nz)
        y0, y1 = _window(my, half[1], ny)
        first, last = _window(mx, half[0], nx)
        narrow = nx >= LANES and last - first <= LANES
        if narrow:
            first = min(first, nx - LANES)
        u = np.float32(first) - mx
        inv_pxx = np.float32(1.0) / pxx
        # Moments of the incoming gradient under the Gaussian: of order 0, 1 (d) and 2 (d d^T).
        m0 = mdx = mdy = mdz = mxx = myy = mzz = mxy = mxz = myz = np.float32(0.0)
        for z in range(z0, z1):
            dz = np.float32(z) - mz
            # Over the plane.
            plane_0 = plane_x = plane_y = plane_yy = plane_xy = np.float32(0.0)
            for y in range(y0, y1):
                dy = np.float32(y) - my
                b = pxy * dy + pxz * dz
                c = pyy * dy * dy + np.float32(2.0) * pyz * dy * dz + pzz * dz * dz
                if c - b * b * inv_pxx >= limit:
                    continue
                b2 = np.float32(2.0) * b
                if narrow:
                    s0, s1, s2 = _row_moments(gradient[z, y], first, LANES, u, c, b2, pxx, limit)
                else:
                    s0, s1, s2 = _row_moments(gradient[z, y], first, last - first, u, c, b2, pxx, limit)
                plane_0 += s0
                plane_x += s1
                plane_y += s0 * dy
                plane_yy += s0 * dy * dy
                plane_xy += s1 * dy
                mxx += s2
            m0 += plane_0
            mdx += plane_x
            mdy += plane_y
            mdz += plane_0 * dz
            myy += plane_yy
            mzz += plane_0 * dz * dz
            mxy += plane_xy
            mxz += plane_x * dz
            myz += plane_y * dz
        grad_a[j] = unit_peak * m0
        v = amplitudes[j] * unit_peak
        # dV/dmu = V P d
        grad_mean[j, 0] = v * (pxx * mdx + pxy * mdy + pxz * mdz)
        grad_mean[j, 1] = v * (pxy * mdx + pyy * mdy + pyz * mdz)
        grad_mean[j, 2] = v * (pxz * mdx + pyz * mdy + pzz * mdz)
        # dV/dSigma = V (P d d^T P - P) / 2; an off-diagonal entry stands for two elements of the matrix.
        ax = pxx * mxx + pxy * mxy + pxz * mxz
        ay = pxx * mxy + pxy * myy + pxz * myz
        az = pxx * mxz + pxy * myz + pxz * mzz
        bx = pxy * mxx + pyy * mxy + pyz * mxz
        by = pxy * mxy + pyy * myy + pyz * myz
        bz = pxy * mxz + pyy * myz + pyz * mzz
        cx = pxz * mxx + pyz * mxy + pzz * mxz
        cy = pxz * mxy + pyz * myy + pzz * myz
        cz = pxz * mxz + pyz * myz + pzz * mzz
        half_v = np.float32(0.5) * v
        grad_cov[j, 0] = half_v * (ax * pxx + ay * pxy + az * pxz - pxx * m0)
        grad_cov[j, 1] = half_v * (bx * pxy + by * pyy + bz * pyz - pyy * m0)
        grad_cov[j, 2] = half_v * (cx * pxz + cy * pyz + cz * pzz - pzz * m0)
        grad_cov[j, 3] = v * (ax * pxy + ay * pyy + az * pyz - pxy * m0)
        grad_cov[j, 4] = v * (ax * pxz + ay * pyz + az * pzz - pxz * m0)
        grad_cov[j, 5] = v * (bx * pxz + by * pyz + bz * pzz - pyz * m0)


def forward(
    amplitudes: NDArray[np.float32],
    means: NDArray[np.float32],
    covariances: NDArray[np.float32],
    shape: tuple[int, int, int],
) -> NDArray[np.float32]:
    """See `reference.voxelize`."""
    volume = np.empty(shape, np.float32)
    cutoff = np.float32(CUTOFF)
    offsets, members = _gaussians_of_slabs(means, covariances, cutoff, shape[0])
    in_shares(_forward, len(offsets) - 1, amplitudes, means, covariances, cutoff, offsets, members, volume)
    return volume


def backward(
    amplitudes: NDArray[np.float32],
    means: NDArray[np.float32],
    covariances: NDArray[np.float32],
    gradient: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Gradients with respect to amplitudes, means and covariances, given that with respect to the volume."""
    grads = (np.empty_like(amplitudes), np.empty_like(means), np.empty_like(covariances))
    in_shares(
        _backward, len(amplitudes), amplitudes, means, covariances, np.float32(CUTOFF), gradient, *grads
    )
    return grads

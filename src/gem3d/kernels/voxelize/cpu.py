"""Voxelize on the CPU: each Gaussian touches only the voxels inside its ellipsoid, forward and backward.

Along a row of voxels a 3D Gaussian is a 1D Gaussian, so a row costs two exponentials and the voxels of the row
follow by recurrence: with e_i = exp(-p (u + i)^2 / 2), e_{i+1} = e_i r_i and r_{i+1} = r_i exp(-p).

Forward, the grid is cut into slabs of planes and each slab is written by one thread, which visits the Gaussians
that reach into it: no two threads write one voxel, and the sum's order does not depend on the number of threads.
Backward, each Gaussian gathers its own moments of the incoming gradient.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

PLANES_PER_SLAB = 4

# Mahalanobis radius at which a Gaussian is cut: exp(-4.0^2 / 2) = 3.4e-4 of its peak, 1.1e-3 of its mass.
CUTOFF = 4.0


@numba.njit(cache=True, fastmath=True)
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


@numba.njit(cache=True, parallel=True, fastmath=True)
def _forward(amplitudes, means, covariances, cutoff, offsets, members, volume):  # type: ignore[no-untyped-def]
    nz, ny, nx = volume.shape
    for slab in numba.prange(len(offsets) - 1):
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
            step = math.exp(-pxx)
            inv_pxx = np.float32(1.0) / pxx
            for z in range(max(z0, slab_first), min(z1, slab_last)):
                dz = np.float32(z) - mz
                for y in range(y0, y1):
                    dy = np.float32(y) - my
                    # q(dx) = pxx (dx - x0)^2 + q0 along the row
                    x0 = -(pxy * dy + pxz * dz) * inv_pxx
                    q0 = pyy * dy * dy + np.float32(2.0) * pyz * dy * dz + pzz * dz * dz - pxx * x0 * x0
                    room = cutoff * cutoff - q0
                    if room <= 0:
                        continue
                    first, last = _window(mx + x0, math.sqrt(room * inv_pxx), nx)
                    if last <= first:
                        continue
                    u = np.float32(first) - mx - x0
                    e = peak * math.exp(np.float32(-0.5) * (q0 + pxx * u * u))
                    r = math.exp(-pxx * (u + np.float32(0.5)))
                    row = volume[z, y]
                    for x in range(first, last):
                        row[x] += e
                        e *= r
                        r *= step


@numba.njit(cache=True, parallel=True, fastmath=True)
def _backward(amplitudes, means, covariances, cutoff, gradient, grad_a, grad_mean, grad_cov):  # type: ignore[no-untyped-def]
    nz, ny, nx = gradient.shape
    for j in numba.prange(len(amplitudes)):
        (pxx, pyy, pzz, pxy, pxz, pyz), det, half = _shape_of(covariances[j], cutoff)
        unit_peak = np.float32(1.0) / math.sqrt(det * np.float32(248.05021344239853))  # (2 pi)^3
        mx, my, mz = means[j]
        z0, z1 = _window(mz, half[2], nz)
        y0, y1 = _window(my, half[1], ny)
        step = math.exp(-pxx)
        inv_pxx = np.float32(1.0) / pxx
        # Moments of the incoming gradient under the Gaussian: of order 0, 1 (d) and 2 (d d^T).
        m0 = mdx = mdy = mdz = mxx = myy = mzz = mxy = mxz = myz = np.float32(0.0)
        for z in range(z0, z1):
            dz = np.float32(z) - mz
            for y in range(y0, y1):
                dy = np.float32(y) - my
                x0 = -(pxy * dy + pxz * dz) * inv_pxx
                q0 = pyy * dy * dy + np.float32(2.0) * pyz * dy * dz + pzz * dz * dz - pxx * x0 * x0
                room = cutoff * cutoff - q0
                if room <= 0:
                    continue
                first, last = _window(mx + x0, math.sqrt(room * inv_pxx), nx)
                if last <= first:
                    continue
                u = np.float32(first) - mx - x0
                e = math.exp(np.float32(-0.5) * (q0 + pxx * u * u))
                r = math.exp(-pxx * (u + np.float32(0.5)))
                dx = np.float32(first) - mx
                row = gradient[z, y]
                s0 = s1 = s2 = np.float32(0.0)
                for x in range(first, last):
                    t = row[x] * e
                    s0 += t
                    t *= dx
                    s1 += t
                    s2 += t * dx
                    dx += np.float32(1.0)
                    e *= r
                    r *= step
                m0 += s0
                mdx += s1
                mdy += s0 * dy
                mdz += s0 * dz
                mxx += s2
                myy += s0 * dy * dy
                mzz += s0 * dz * dz
                mxy += s1 * dy
                mxz += s1 * dz
                myz += s0 * dy * dz
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
    _forward(amplitudes, means, covariances, cutoff, offsets, members, volume)
    return volume


def backward(
    amplitudes: NDArray[np.float32],
    means: NDArray[np.float32],
    covariances: NDArray[np.float32],
    gradient: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Gradients with respect to amplitudes, means and covariances, given that with respect to the volume."""
    grads = (np.empty_like(amplitudes), np.empty_like(means), np.empty_like(covariances))
    _backward(amplitudes, means, covariances, np.float32(CUTOFF), gradient, *grads)
    return grads

"""Slices on the CPU: weighing in vectorised rows, insertion into slabs that one thread owns at a time.

Insertion is bound by scattered memory access, so the accumulator is cut into slabs of z planes and the whole batch
is inserted slab by slab: the slab stays in the cache while the images pass. A sample writes to two planes; slabs of
even number are done first and odd ones after them, so that no two threads write one voxel. The order of additions
into a voxel is fixed by the slabs, not by the threads: the result does not depend on their number.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.kernels.ctf import half_turns, magnified, of_image, sin_pi
from gem3d.kernels.insert_slices.reference import PADDING
from gem3d.threads import in_shares

PLANES_PER_SLAB = 16

_FAR = 1e9


@numba.njit(cache=True, nogil=True, fastmath=True)
def _weigh_slices(begin, end, transforms, coefficients, shifts_px, sample_weight, out):  # type: ignore[no-untyped-def]
    box_size = transforms.shape[1]
    radius = sample_weight.shape[1] - 1
    for b in range(begin, end):
        phase_x = np.empty((2, radius + 1), np.float32)
        step_x = 2 * math.pi / box_size * (shifts_px[b, 0] + box_size // 2)
        for i in range(radius + 1):
            phase_x[0, i] = math.cos(step_x * i)
            phase_x[1, i] = math.sin(step_x * i)
        step_y = 2 * math.pi / box_size * (shifts_px[b, 1] + box_size // 2)
        ctf = np.ones(radius + 1, np.float32)
        has_ctf = coefficients.shape[1] > 0
        for row in range(2 * radius + 1):
            ky = row - radius
            source = transforms[b, ky if ky >= 0 else ky + box_size]
            cy = np.float32(math.cos(step_y * ky))
            sy = np.float32(math.sin(step_y * ky))
            weight = sample_weight[row]
            target = out[b, row]
            if has_ctf:
                gamma, blur, scale, magnification = of_image(coefficients[b])
                fy = np.float32(ky)
                for i in range(radius + 1):
                    u, v = magnified(magnification, np.float32(i), fy)
                    ctf[i] = -scale * sin_pi(half_turns(gamma, u, v))
                if blur != 0:
                    for i in range(radius + 1):
                        u, v = magnified(magnification, np.float32(i), fy)
                        ctf[i] *= math.exp(-blur * (u * u + v * v))
            for i in range(radius + 1):
                c = ctf[i]
                cw = c * weight[i]
                re = source[i, 0]
                im = source[i, 1]
                pr = phase_x[0, i] * cy - phase_x[1, i] * sy
                pi = phase_x[0, i] * sy + phase_x[1, i] * cy
                target[i, 0] = (re * pr - im * pi) * cw
                target[i, 1] = (re * pi + im * pr) * cw
                target[i, 2] = c * cw


@numba.njit(cache=True, fastmath=True, inline="always")
def _add_pair(flat, cell, share, fx, re, im, w):  # type: ignore[no-untyped-def]
    """Add one sample to two cells that are neighbours in x."""
    right = share * fx
    left = share - right
    # An unsigned index spares the test for negative ones, once per access.
    c = np.uint64(cell)
    flat[c] += left * re
    flat[c + np.uint64(1)] += left * im
    flat[c + np.uint64(2)] += left * w
    flat[c + np.uint64(3)] += right * re
    flat[c + np.uint64(4)] += right * im
    flat[c + np.uint64(5)] += right * w


@numba.njit(cache=True, fastmath=True, inline="always")
def _where_between(start, step, low, high):  # type: ignore[no-untyped-def]
    """Integers i, give or take one at each end, with low <= start + step * i < high, as (first, last)."""
    if abs(step) < 1e-7:
        return -int(_FAR), int(_FAR)
    inverse = 1.0 / step
    a = min(max((low - start) * inverse, -_FAR), _FAR)
    b = min(max((high - start) * inverse, -_FAR), _FAR)
    return int(min(a, b)) - 1, int(max(a, b)) + 1


@numba.njit(cache=True)
def _keeps_lengths(camera):  # type: ignore[no-untyped-def]
    """Whether a camera matrix magnifies nothing, so that no sample leaves the accumulator, however large the box."""
    xx = xy = yy = 0.0
    for axis in range(3):
        xx += camera[0, axis] * camera[0, axis]
        xy += camera[0, axis] * camera[1, axis]
        yy += camera[1, axis] * camera[1, axis]
    return abs(xx - 1) < 1e-9 and abs(xy) < 1e-9 and abs(yy - 1) < 1e-9


@numba.njit(cache=True)
def _where_within(x, y, z, dx, dy, dz, extent):  # type: ignore[no-untyped-def]
    """First and last integer i with |(x, y, z) + i (dx, dy, dz)| < extent, where what is added has a place."""
    square, along = dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz
    limit = extent * (1 - 1e-9)
    discriminant = along * along - square * (x * x + y * y + z * z - limit * limit)
    if not discriminant > 0:
        return 0, -1
    root = math.sqrt(discriminant)
    return math.floor((-along - root) / square) + 1, math.ceil((root - along) / square) - 1


@numba.njit(cache=True, inline="always")
def _belongs(i, sign, x, dx, z, dz, slab_first, slab_last):  # type: ignore[no-untyped-def]
    """Whether sample i of a row lies at x >= 0 after folding and in the slab."""
    px = sign * (x + dx * i)
    pz = sign * (z + dz * i)
    return (px > 0 or (px == 0 and sign > 0)) and slab_first <= pz < slab_last


@numba.njit(cache=True, nogil=True, fastmath=True)
def _insert_slabs(begin, end, flat, extent, weighted, rotations, row_length, slabs):  # type: ignore[no-untyped-def]
    """Insert the samples whose floor(z) lies in one of the given slabs.

    `flat` is the accumulator as one dimension: views of its rows would cost more than the additions.
    """
    radius = weighted.shape[2] - 1
    in_row = 3 * (extent + 1)
    in_plane = in_row * (2 * extent + 1)
    centre = extent * in_plane + extent * in_row
    one = np.float32(1.0)
    # Of rotations every sample of the disc lies inside.
    stretched = np.empty(len(weighted), np.bool_)
    for b in range(len(weighted)):
        stretched[b] = not _keeps_lengths(rotations[b])
    for s in range(begin, end):
        fraction = np.empty((3, radius + 1), np.float32)
        cells = np.empty(radius + 1, np.int64)
        slab_first = slabs[s] * PLANES_PER_SLAB - extent
        slab_last = min(extent, slab_first + PLANES_PER_SLAB)
        for b in range(len(weighted)):
            dx = PADDING * rotations[b, 0, 0]
            dy = PADDING * rotations[b, 0, 1]
            dz = PADDING * rotations[b, 0, 2]
            for row in range(2 * radius + 1):
                ky = row - radius
                z = PADDING * rotations[b, 1, 2] * ky
                z_end = z + dz * row_length[row]
                z_low, z_high = min(z, z_end), max(z, z_end)
                # Where the row lies at x >= 0, and where it does not and is folded through the origin.
                for sign in (1, -1):
                    if sign < 0:
                        z_low, z_high = -z_high, -z_low
                    if z_high < slab_first or z_low >= slab_last:
                        continue
                    x = PADDING * rotations[b, 1, 0] * ky
                    y = PADDING * rotations[b, 1, 1] * ky
                    x0, x1 = _where_between(sign * x, sign * dx, 0.0, _FAR)
                    z0, z1 = _where_between(sign * z, sign * dz, slab_first, slab_last)
                    # On the line kx = 0 the half with ky < 0 repeats the other as complex conjugates.
                    first = max(1 if ky < 0 else 0, x0, z0)
                    last = min(row_length[row], x1, z1)
                    if stretched[b]:
                        b0, b1 = _where_within(x, y, z, dx, dy, dz, extent)
                        first, last = max(first, b0), min(last, b1)
                    # The bounds may be one off by rounding; position and slab are monotonic along the row, so
                    # that after these two loops the next one needs no test.
                    while first <= last and not _belongs(first, sign, x, dx, z, dz, slab_first, slab_last):
                        first += 1
                    while last > first and not _belongs(last, sign, x, dx, z, dz, slab_first, slab_last):
                        last -= 1
                    # Positions first, in a loop that vectorises, then the scattered additions.
                    n = last + 1 - first
                    sx, sdx = sign * (x + dx * first), sign * dx
                    sy, sdy = sign * (y + dy * first), sign * dy
                    sz, sdz = sign * (z + dz * first), sign * dz
                    for i in range(n):
                        px, py, pz = sx + sdx * i, sy + sdy * i, sz + sdz * i
                        ix, iy, iz = np.floor(px), np.floor(py), np.floor(pz)
                        fraction[0, i], fraction[1, i], fraction[2, i] = px - ix, py - iy, pz - iz
                        cells[i] = (
                            np.int32(iz) * in_plane + np.int32(iy) * in_row + np.int32(3) * np.int32(ix)
                        )
                    flip = np.float32(sign)
                    for i in range(n):
                        sample = weighted[b, row, first + i]
                        re, im, w = sample[0], sample[1] * flip, sample[2]
                        fx, fy, fz = fraction[0, i], fraction[1, i], fraction[2, i]
                        cell = centre + cells[i]
                        a11 = fz * fy
                        a10 = fz - a11
                        a01 = fy - a11
                        a00 = one - fz - a01
                        _add_pair(flat, cell, a00, fx, re, im, w)
                        _add_pair(flat, cell + in_row, a01, fx, re, im, w)
                        _add_pair(flat, cell + in_plane, a10, fx, re, im, w)
                        _add_pair(flat, cell + in_plane + in_row, a11, fx, re, im, w)


def weigh_slices(
    transforms: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    shifts_px: NDArray[np.float64],
    sample_weight: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """See `reference.weigh_slices`.

    Parameters
    ----------
    transforms: `(b, D, D//2 + 1, 2)`, real and imaginary.
    coefficients: `(b, 15)` of the CTF per Fourier pixel, the phase in half turns, or shape `(b, 0)` for no CTF.
    out: `(b, 2 radius + 1, radius + 1, 3)`.
    """
    in_shares(_weigh_slices, len(transforms), transforms, coefficients, shifts_px, sample_weight, out)


def insert_slices(
    accumulator: NDArray[np.float32], weighted: NDArray[np.float32], rotations: NDArray[np.float64]
) -> None:
    """See `reference.insert_slices`."""
    radius = weighted.shape[2] - 1
    ky = np.arange(-radius, radius + 1)
    row_length = np.ceil(np.sqrt((radius + 0.5) ** 2 - ky**2)).astype(np.int64) - 1
    slabs = np.arange(-(-(accumulator.shape[0] - 1) // PLANES_PER_SLAB))
    flat, extent = accumulator.reshape(-1), accumulator.shape[2] - 1
    for colour in (slabs[::2], slabs[1::2]):
        in_shares(_insert_slabs, len(colour), flat, extent, weighted, rotations, row_length, colour)

"""Slices against images on the CPU: one image after the other, row by row.

Of a row, the volume and its gradient are gathered first (eight scattered corners a sample); CTF, derivatives and the
sums of their products then run over the row in loops that vectorise. Sums of a row are of single precision, those of
an image of double.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from gem3d.kernels.compare_slices.reference import N_PARAMETERS
from gem3d.kernels.ctf import half_turns, magnified, of_image, sin_pi
from gem3d.kernels.insert_slices.reference import PADDING
from gem3d.threads import in_shares

_RESIDUAL = N_PARAMETERS


@numba.njit(cache=True, fastmath=True, forceinline=True)
def _gather(flat, extent, rotation, magnification, ky, n, slice_):  # type: ignore[no-untyped-def]
    """Value and derivatives of a row of the slice, into `slice_` `(6, n)`.

    Rows: value, derivative along the camera's z axis, and along (v, -u) in its plane; real and imaginary each. (u, v)
    is the magnified frequency.
    """
    in_row = 2 * (extent + 1)
    in_plane = in_row * (2 * extent + 1)
    centre = extent * in_plane + extent * in_row
    a = rotation
    one = np.float32(1.0)
    limit = extent * extent * (1 - 1e-9)
    for i in range(n):
        u, v = magnified(magnification, i, ky)
        x = PADDING * (a[0, 0] * u + a[1, 0] * v)
        y = PADDING * (a[0, 1] * u + a[1, 1] * v)
        z = PADDING * (a[0, 2] * u + a[1, 2] * v)
        if not x * x + y * y + z * z < limit:
            slice_[:, i] = 0.0
            continue
        # The half space x < 0 is not stored: V(-k) is the complex conjugate of V(k).
        sign = np.float32(1.0)
        if x < 0:
            x, y, z, sign = -x, -y, -z, np.float32(-1.0)
        bx, by, bz = math.floor(x), math.floor(y), math.floor(z)
        fx, fy, fz = np.float32(x - bx), np.float32(y - by), np.float32(z - bz)
        # An unsigned index spares the test for negative ones, once per access.
        cell = np.uint64(centre + int(bz) * in_plane + int(by) * in_row + 2 * int(bx))
        # Directions of the derivatives in the volume, in Fourier pixels of the box.
        zx, zy, zz = np.float32(a[2, 0]), np.float32(a[2, 1]), np.float32(a[2, 2])
        tx = np.float32(v * a[0, 0] - u * a[1, 0])
        ty = np.float32(v * a[0, 1] - u * a[1, 1])
        tz = np.float32(v * a[0, 2] - u * a[1, 2])
        for part in range(2):
            c = cell + np.uint64(part)
            up = c + np.uint64(in_plane)
            v000, v001 = flat[c], flat[c + np.uint64(2)]
            v010, v011 = flat[c + np.uint64(in_row)], flat[c + np.uint64(in_row + 2)]
            v100, v101 = flat[up], flat[up + np.uint64(2)]
            v110, v111 = flat[up + np.uint64(in_row)], flat[up + np.uint64(in_row + 2)]
            d00, d01, d10, d11 = v001 - v000, v011 - v010, v101 - v100, v111 - v110
            w00, w01, w10, w11 = v000 + fx * d00, v010 + fx * d01, v100 + fx * d10, v110 + fx * d11
            e0, e1 = w01 - w00, w11 - w10
            u0, u1 = w00 + fy * e0, w10 + fy * e1
            gz = u1 - u0
            gy = (one - fz) * e0 + fz * e1
            gx = (one - fz) * ((one - fy) * d00 + fy * d01) + fz * ((one - fy) * d10 + fy * d11)
            # The derivative of an even part is odd, and the other way round.
            even = one if part == 0 else sign
            odd = sign if part == 0 else one
            slice_[part, i] = even * (u0 + fz * gz)
            slice_[2 + part, i] = PADDING * odd * (zx * gx + zy * gy + zz * gz)
            slice_[4 + part, i] = PADDING * odd * (tx * gx + ty * gy + tz * gz)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _compare_slices(  # type: ignore[no-untyped-def]
    begin,
    end,
    flat,
    extent,
    transforms,
    rotations,
    shifts_px,
    coefficients,
    defocus_rates,
    contrasts,
    root_weight,
    row_length,
    losses,
    gradients,
    normals,
):
    box_size = transforms.shape[1]
    radius = root_weight.shape[1] - 1
    slice_ = np.empty((6, radius + 1), np.float32)
    # Derivatives in the seven parameters and the residual, all times the root of the weight.
    fields = np.empty((N_PARAMETERS + 1, 2 * (radius + 1)), np.float32)
    ctf = np.empty((2, radius + 1), np.float32)
    us, vs = np.empty(radius + 1, np.float32), np.empty(radius + 1, np.float32)
    phase = np.empty((2, radius + 1), np.float32)
    products = np.empty((N_PARAMETERS + 1, N_PARAMETERS), np.float64)
    per_px = np.float32(2 * math.pi / box_size)
    pi = np.float32(math.pi)
    for b in range(begin, end):
        step_x = 2 * math.pi / box_size * (shifts_px[b, 0] + box_size // 2)
        step_y = 2 * math.pi / box_size * (shifts_px[b, 1] + box_size // 2)
        for i in range(radius + 1):
            phase[0, i] = math.cos(step_x * i)
            phase[1, i] = math.sin(step_x * i)
        gamma, blur, scale, magnification = of_image(coefficients[b])
        rate, contrast = defocus_rates[b], contrasts[b]
        products[:] = 0.0
        for row in range(2 * radius + 1):
            ky = row - radius
            n = row_length[row] + 1
            _gather(flat, extent, rotations[b], magnification, ky, n, slice_)
            fy = np.float32(ky)
            for i in range(n):
                u, v = magnified(magnification, np.float32(i), fy)
                s = u * u + v * v
                g = half_turns(gamma, u, v)
                us[i], vs[i] = u, v
                ctf[0, i] = -scale * sin_pi(g)
                ctf[1, i] = -scale * sin_pi(g + np.float32(0.5)) * pi * rate * s
            if blur != 0:
                for i in range(n):
                    envelope = math.exp(-blur * (us[i] * us[i] + vs[i] * vs[i]))
                    ctf[0, i] *= envelope
                    ctf[1, i] *= envelope
            source = transforms[b, ky if ky >= 0 else ky + box_size]
            cy = np.float32(math.cos(step_y * ky))
            sy = np.float32(math.sin(step_y * ky))
            weight = root_weight[row]
            for i in range(n):
                j = i + n  # imaginary parts follow the real ones
                fx = np.float32(i)
                w = weight[i]
                cw = ctf[0, i] * w
                dw = ctf[1, i] * w * contrast
                pr, pi_ = slice_[0, i], slice_[1, i]
                qr, qi = pr * cw, pi_ * cw
                mr, mi = contrast * qr, contrast * qi
                zr, zi = slice_[2, i] * cw * contrast, slice_[3, i] * cw * contrast
                fields[0, i], fields[0, j] = -vs[i] * zr, -vs[i] * zi
                fields[1, i], fields[1, j] = us[i] * zr, us[i] * zi
                fields[2, i], fields[2, j] = slice_[4, i] * cw * contrast, slice_[5, i] * cw * contrast
                fields[3, i], fields[3, j] = per_px * fx * mi, -per_px * fx * mr
                fields[4, i], fields[4, j] = per_px * fy * mi, -per_px * fy * mr
                fields[5, i], fields[5, j] = pr * dw, pi_ * dw
                fields[6, i], fields[6, j] = qr, qi
                er = phase[0, i] * cy - phase[1, i] * sy
                ei = phase[0, i] * sy + phase[1, i] * cy
                re, im = source[i, 0], source[i, 1]
                fields[_RESIDUAL, i] = mr - w * (re * er - im * ei)
                fields[_RESIDUAL, j] = mi - w * (re * ei + im * er)
            for p in range(N_PARAMETERS + 1):
                for q in range(min(p + 1, N_PARAMETERS)):
                    total = np.float32(0.0)
                    for i in range(2 * n):
                        total += fields[p, i] * fields[q, i]
                    products[p, q] += total
        # M = s dM/ds, so that <M, M> and <M, residual> are among the products.
        last = N_PARAMETERS - 1
        losses[b] = 2 * contrast * products[_RESIDUAL, last] - contrast * contrast * products[last, last]
        for p in range(N_PARAMETERS):
            gradients[b, p] = 2 * products[_RESIDUAL, p]
            for q in range(p + 1):
                normals[b, p, q] = 2 * products[p, q]
                normals[b, q, p] = 2 * products[p, q]


def compare_slices(
    volume: NDArray[np.float32],
    transforms: NDArray[np.float32],
    rotations: NDArray[np.float64],
    shifts_px: NDArray[np.float64],
    coefficients: NDArray[np.float32],
    defocus_rates: NDArray[np.float32],
    contrasts: NDArray[np.float32],
    sample_weight: NDArray[np.float32],
    out: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """See the face.

    Parameters
    ----------
    transforms: `(b, D, D//2 + 1, 2)`, real and imaginary.
    coefficients: `(b, 15)` of the CTF per Fourier pixel, the phase in half turns, and so `defocus_rates` `(b,)`.
    out: losses `(b,)`, gradients `(b, 7)`, normal matrices `(b, 7, 7)`.
    """
    radius = sample_weight.shape[1] - 1
    ky = np.arange(-radius, radius + 1)
    row_length = np.ceil(np.sqrt((radius + 0.5) ** 2 - ky**2)).astype(np.int64) - 1
    in_shares(
        _compare_slices,
        len(transforms),
        volume.reshape(-1),
        volume.shape[2] - 1,
        transforms,
        rotations,
        shifts_px,
        coefficients,
        defocus_rates,
        contrasts,
        np.sqrt(sample_weight),
        row_length,
        *out,
    )

"""Gradients of the projection in Triton, gathered by tiles of Gaussians; see `gpu`."""

from __future__ import annotations

import triton
import triton.language as tl

from gem3d.kernels.project.gpu_tile import HALF_LOG2_E, blocks_of_rows, load_tile, project_tile
from gem3d.kernels.tiles import largest, window

N_POSE = tl.constexpr(8)
"""Values of a pose that have gradients: two rows of the rotation, then the shift."""


@triton.jit
def gather_gradients(  # type: ignore[no-untyped-def]
    amplitudes,
    means,
    covariances,
    rotations,
    shifts_px,
    gradient,
    grad_a,
    grad_mean,
    grad_cov,
    grad_poses,
    n,
    n_images,
    size,
    limit,
    of_poses: tl.constexpr,
    tile: tl.constexpr,
    lanes: tl.constexpr,
):
    """Gradients of a tile; `grad_poses` `(tiles, b, N_POSE)`, what it contributes to those of poses and shifts.

    With P the inverse of the projected covariance and d the way from the centre to a pixel, dI/dmu = I P d and
    dI/dSigma = I (P d d^T P - P) / 2, a symmetric matrix G; both are carried back through A mu and A Sigma A^T.
    In terms of u and dy, P d = (u / c, dy / yy - s u / c).
    """
    index = tl.program_id(0)
    j, inside, amplitude, mean, covariance = load_tile(amplitudes, means, covariances, n, index, tile)
    mx, my, mz = mean
    sxx, syy, szz, sxy, sxz, syz = covariance
    lane = tl.arange(0, lanes)[None, :]
    zero = tl.zeros((tile, 1), tl.float32)
    da, dmx, dmy, dmz = zero, zero, zero, zero
    dxx, dyy, dzz, dxy, dxz, dyz = zero, zero, zero, zero, zero, zero
    rotation, shift, image = rotations, shifts_px, gradient
    of_image = grad_poses + index.to(tl.int64) * n_images * N_POSE + lane
    for _ in range(0, n_images):
        seen, r, x, y, yy, slope, conditional, height = project_tile(
            inside, amplitude, mean, covariance, rotation, shift, size, limit
        )
        inverse_yy, inverse_conditional = 1.0 / yy, 1.0 / conditional
        y0, y_count = window(y, tl.sqrt(limit * yy), seen, size)
        reach = tl.sqrt(limit * conditional)
        blocks = blocks_of_rows(seen, reach, size, lanes)
        # Moments of the incoming gradient under the Gaussian, still spread over lanes.
        m0 = tl.zeros((tile, lanes), tl.float32)
        mu, my_, muu, muy, myy = m0, m0, m0, m0, m0
        for iy in range(0, largest(y_count)):
            row = y0 + iy
            dy = row.to(tl.float32) - y
            middle = x + slope * dy
            q_row = dy * dy * inverse_yy
            first = tl.ceil(tl.minimum(tl.maximum(middle - reach, 0.0), 1.0 * size)).to(tl.int32)
            in_row = iy < y_count
            for block in range(0, blocks):
                column = first + block * lanes + lane
                u = column.to(tl.float32) - middle
                q = q_row + u * u * inverse_conditional
                keep = in_row & (column < size) & (q <= limit)
                incoming = tl.load(image + row * size + column, keep, 0.0)
                t = tl.where(keep, incoming * tl.exp2(q * -HALF_LOG2_E), 0.0)
                tu, ty = t * u, t * dy
                m0 += t
                mu += tu
                my_ += ty
                muu += tu * u
                muy += tu * dy
                myy += ty * dy
        # Of u / c and dy / yy instead of u and dy. From left to right: squares of the inverse may overflow.
        m0 = tl.sum(m0, 1, keep_dims=True) * height
        mu = tl.sum(mu, 1, keep_dims=True) * height * inverse_conditional
        my_ = tl.sum(my_, 1, keep_dims=True) * height * inverse_yy
        muu = tl.sum(muu, 1, keep_dims=True) * height * inverse_conditional * inverse_conditional
        muy = tl.sum(muy, 1, keep_dims=True) * height * inverse_conditional * inverse_yy
        myy = tl.sum(myy, 1, keep_dims=True) * height * inverse_yy * inverse_yy
        mass = tl.where(seen, amplitude, 0.0)
        gx = mass * mu
        gy = mass * my_ - slope * gx
        half = 0.5 * mass
        gxx = half * (muu - m0 * inverse_conditional)
        gxy = half * muy - slope * gxx
        gyy = half * (myy - m0 * inverse_yy) - slope * (half * muy + gxy)
        a0, a1, a2, b0, b1, b2 = r
        da += m0
        dmx += a0 * gx + b0 * gy
        dmy += a1 * gx + b1 * gy
        dmz += a2 * gx + b2 * gy
        # G A, two rows; then A^T G A, where an off-diagonal entry stands for two elements of the matrix.
        u0, u1, u2 = gxx * a0 + gxy * b0, gxx * a1 + gxy * b1, gxx * a2 + gxy * b2
        v0, v1, v2 = gxy * a0 + gyy * b0, gxy * a1 + gyy * b1, gxy * a2 + gyy * b2
        dxx += a0 * u0 + b0 * v0
        dyy += a1 * u1 + b1 * v1
        dzz += a2 * u2 + b2 * v2
        dxy += 2.0 * (a0 * u1 + b0 * v1)
        dxz += 2.0 * (a0 * u2 + b0 * v2)
        dyz += 2.0 * (a1 * u2 + b1 * v2)
        if of_poses:
            # g mu^T + 2 G A Sigma, a value a lane: one sum over the tile for all of them.
            upper = lane < 3
            g = tl.where(upper, gx, gy)
            w0, w1, w2 = tl.where(upper, u0, v0), tl.where(upper, u1, v1), tl.where(upper, u2, v2)
            k = lane % 3
            value = g * tl.where(k == 0, mx, tl.where(k == 1, my, mz))
            value += 2.0 * w0 * tl.where(k == 0, sxx, tl.where(k == 1, sxy, sxz))
            value += 2.0 * w1 * tl.where(k == 0, sxy, tl.where(k == 1, syy, syz))
            value += 2.0 * w2 * tl.where(k == 0, sxz, tl.where(k == 1, syz, szz))
            value = tl.where(lane < 6, value, tl.where(lane == 6, gx, gy))
            total = tl.sum(tl.where(seen, value, 0.0), 0, keep_dims=True)
            tl.store(of_image, total, lane < N_POSE)
            of_image += N_POSE
        rotation += 9
        shift += 2
        image += size * size
    tl.store(grad_a + j, da, inside)
    tl.store(grad_mean + 3 * j, dmx, inside)
    tl.store(grad_mean + 3 * j + 1, dmy, inside)
    tl.store(grad_mean + 3 * j + 2, dmz, inside)
    tl.store(grad_cov + 6 * j, dxx, inside)
    tl.store(grad_cov + 6 * j + 1, dyy, inside)
    tl.store(grad_cov + 6 * j + 2, dzz, inside)
    tl.store(grad_cov + 6 * j + 3, dxy, inside)
    tl.store(grad_cov + 6 * j + 4, dxz, inside)
    tl.store(grad_cov + 6 * j + 5, dyz, inside)

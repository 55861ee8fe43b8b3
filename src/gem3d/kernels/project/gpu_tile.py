"""A tile of Gaussians projected, for the kernels of `gpu` and `gpu_backward`."""

from __future__ import annotations

import triton
import triton.language as tl

from gem3d.kernels.tiles import largest

HALF_LOG2_E = tl.constexpr(0.7213475204444817)


@triton.jit
def load_tile(amplitudes, means, covariances, n, index, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tile of Gaussians of a given index, as columns: index, mask, amplitude, mean and covariance."""
    j = (index * tile + tl.arange(0, tile))[:, None]
    inside = j < n
    amplitude = tl.load(amplitudes + j, inside, 0.0)
    mx = tl.load(means + 3 * j, inside, 0.0)
    my = tl.load(means + 3 * j + 1, inside, 0.0)
    mz = tl.load(means + 3 * j + 2, inside, 0.0)
    sxx = tl.load(covariances + 6 * j, inside, 1.0)
    syy = tl.load(covariances + 6 * j + 1, inside, 1.0)
    szz = tl.load(covariances + 6 * j + 2, inside, 1.0)
    sxy = tl.load(covariances + 6 * j + 3, inside, 0.0)
    sxz = tl.load(covariances + 6 * j + 4, inside, 0.0)
    syz = tl.load(covariances + 6 * j + 5, inside, 0.0)
    return j, inside, amplitude, (mx, my, mz), (sxx, syy, szz, sxy, sxz, syz)


@triton.jit
def project_tile(inside, amplitude, mean, covariance, rotation, shift, size, limit):  # type: ignore[no-untyped-def]
    """A tile as one image shows it; `rotation` and `shift` point to the pose.

    Returns
    -------
    seen: false where a Gaussian is off the image, not finite or not positive definite; all else is harmless there.
    r: upper two rows of the rotation.
    x, y: centre, in pixel indices.
    yy, slope, conditional: variance of y, and the line and variance of x given y.
    height: peak of the unit mass.
    """
    mx, my, mz = mean
    sxx, syy, szz, sxy, sxz, syz = covariance
    a0, a1, a2 = tl.load(rotation), tl.load(rotation + 1), tl.load(rotation + 2)
    b0, b1, b2 = tl.load(rotation + 3), tl.load(rotation + 4), tl.load(rotation + 5)
    x = a0 * mx + a1 * my + a2 * mz + (tl.load(shift) + size // 2)
    y = b0 * mx + b1 * my + b2 * mz + (tl.load(shift + 1) + size // 2)
    u0 = sxx * a0 + sxy * a1 + sxz * a2
    u1 = sxy * a0 + syy * a1 + syz * a2
    u2 = sxz * a0 + syz * a1 + szz * a2
    v0 = sxx * b0 + sxy * b1 + sxz * b2
    v1 = sxy * b0 + syy * b1 + syz * b2
    v2 = sxz * b0 + syz * b1 + szz * b2
    xx, yy, xy = a0 * u0 + a1 * u1 + a2 * u2, b0 * v0 + b1 * v1 + b2 * v2, b0 * u0 + b1 * u1 + b2 * u2
    # float64: the determinant of a needle is a small difference of large products.
    det = (xx.to(tl.float64) * yy.to(tl.float64) - xy.to(tl.float64) * xy.to(tl.float64)).to(tl.float32)
    conditional = det / yy
    height = 0.15915494309189535 / tl.sqrt(det)  # 1 / 2 pi
    reach_x, reach_y = tl.sqrt(limit * xx), tl.sqrt(limit * yy)
    last, infinity = size - 1.0, float("inf")
    # Written so that NaN fails it.
    seen = (x + reach_x >= 0) & (x - reach_x <= last) & (y + reach_y >= 0) & (y - reach_y <= last)
    # Variances whose inverse is a float32 too.
    seen = seen & (xx > 0) & (yy > 1e-37) & (det > 0) & (det < infinity) & (conditional > 1e-37)
    seen = seen & inside & (tl.abs(amplitude * height) < infinity)
    r = (
        tl.where(seen, a0, 0.0),
        tl.where(seen, a1, 0.0),
        tl.where(seen, a2, 0.0),
        tl.where(seen, b0, 0.0),
        tl.where(seen, b1, 0.0),
        tl.where(seen, b2, 0.0),
    )
    x, y, slope = tl.where(seen, x, 0.0), tl.where(seen, y, 0.0), tl.where(seen, xy / yy, 0.0)
    yy, conditional = tl.where(seen, yy, 1.0), tl.where(seen, conditional, 1.0)
    return seen, r, x, y, yy, slope, conditional, tl.where(seen, height, 0.0)


@triton.jit
def blocks_of_rows(seen, reach, size, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """How many blocks of lanes hold the longest row of a tile, in columns up to `reach` from its middle."""
    columns = tl.minimum(2.0 * reach + 1.0, 1.0 * size).to(tl.int32)
    return tl.cdiv(largest(tl.where(seen, columns, 0)), lanes)

"""The CTF in kernels of the CPU: see `gem3d.optics.ctf_coefficients`, here per Fourier pixel and in half turns."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, fastmath=True, inline="always")
def sin_pi(g):  # type: ignore[no-untyped-def]
    """sin(pi g) to 1e-7, without a branch or a call, so that loops over it vectorise."""
    n = np.floor(g + np.float32(0.5))
    f = g - n
    t = f * f
    # Taylor series of sin(pi f) on |f| <= 1/2
    p = np.float32(-0.0073704309)
    p = p * t + np.float32(0.0821458866)
    p = p * t - np.float32(0.5992645293)
    p = p * t + np.float32(2.5501640399)
    p = p * t - np.float32(5.1677127800)
    p = p * t + np.float32(3.1415926536)
    odd = np.int32(n) & np.int32(1)
    return f * p * (np.float32(1.0) - np.float32(2.0) * np.float32(odd))


@numba.njit(cache=True, inline="always")
def of_image(c):  # type: ignore[no-untyped-def]
    """An image's coefficients by what they are of: gamma (nine), blur, scale and magnification (four)."""
    return (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]), c[9], c[10], (c[11], c[12], c[13], c[14])


@numba.njit(cache=True, fastmath=True, inline="always")
def magnified(m, kx, ky):  # type: ignore[no-untyped-def]
    """The frequency M k."""
    return m[0] * kx + m[1] * ky, m[2] * kx + m[3] * ky


@numba.njit(cache=True, fastmath=True, inline="always")
def half_turns(c, u, v):  # type: ignore[no-untyped-def]
    """Gamma over pi at M k = (u, v)."""
    uu, uv, vv = u * u, u * v, v * v
    quartic = uu * (c[3] * uu + c[4] * uv + c[5] * vv) + vv * (c[6] * uv + c[7] * vv)
    return c[8] + c[0] * uu + c[1] * uv + c[2] * vv + quartic

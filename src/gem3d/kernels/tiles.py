"""What Triton kernels share that give a tile of Gaussians windows of a grid, each its own."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def window(mean, half, valid, n):  # type: ignore[no-untyped-def]
    """First grid index within `half` of `mean`, and how many there are."""
    # Clamped before they become integers: a mean may lie beyond what they hold.
    first = tl.ceil(tl.minimum(tl.maximum(mean - half, 0.0), 1.0 * n)).to(tl.int32)
    last = tl.floor(tl.minimum(tl.maximum(mean + half, -1.0), n - 1.0)).to(tl.int32)
    return first, tl.where(valid, tl.maximum(last + 1 - first, 0), 0)


@triton.jit
def largest(count):  # type: ignore[no-untyped-def]
    """Largest entry of a column, as a scalar."""
    return tl.max(tl.max(count, axis=1), axis=0)

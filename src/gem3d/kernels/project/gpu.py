"""Projection of Gaussians on a GPU, in Triton: a program takes a tile of Gaussians, each with its own rows of pixels.

Lanes are (Gaussian, x): consecutive lanes hold consecutive pixels of a row. Forward, a program adds a tile to one
image by atomic additions. Backward, it gathers a tile's gradients from all images in registers, without atomics; what
it adds to the gradients of poses and shifts is kept apart and summed in float64. The order of atomic additions
changes from run to run; where sums must be reproducible the images are summed in 64-bit integers, as multiples of a
unit so small that it costs no accuracy.

The density is taken apart into that of y and that of x given y: with the offset u from the centre of its row,

    q = dy^2 / yy + u^2 / c        u = dx - s dy,   s = xy / yy,   c = det / yy

a sum of two squares, in which nothing cancels however thin a needle is. A row begins at its own first column, so that
the windows of needles are as narrow as their rows.

Reckoned, not measured, for an image of 256 pixels and 50,000 Gaussians of standard deviation 1.2 px cut at 1e-3: each
reaches 4.5 px, 62 pixels in 9 rows, which occupy 144 lanes. A pass has 3.1 million pixel visits in 7.2 million lanes,
each with an exp2 (2 us of an H100 at 16 a clock and multiprocessor). Counted in the PTX, two Gaussians, a warp, take
some 680 instructions forward and 870 backward, half of them outside the rows: 17 and 22 million warp instructions,
18 and 24 us at 4 a clock and multiprocessor. Forward adds 3.1 million floats in 0.8 million sectors, all in one image
of 0.26 MB, in the L2 cache: 23 us if a slice of L2 adds one float a clock, 6 us if it adds a sector. So a floor of 42
to 47 us an image; 5,000 images a second, 200 us, leave a factor of four. Instructions bound backward, and forward
either they or the atomics. The contributions to poses, 0.8 MB an image, are 0.5 us of memory traffic.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from gem3d.kernels.project.gpu_backward import N_POSE, gather_gradients
from gem3d.kernels.project.gpu_tile import HALF_LOG2_E, blocks_of_rows, load_tile, project_tile
from gem3d.kernels.tiles import largest, window

# Reckoned, not measured. A Gaussian of standard deviation 1.2 px cut at 1e-3 is 9 pixels wide, at 1e-5 12: 16 lanes
# hold its rows in one block. One pixel a thread: small tiles, because the largest Gaussian of a tile sets its pace.
LANES = 16
FORWARD_TILE, FORWARD_WARPS = 8, 4
# One warp: no barrier in the loop over images, where four would wait for each other twice an image, and spill.
BACKWARD_TILE, BACKWARD_WARPS = 2, 1
HIGHEST_TILE, HIGHEST_WARPS = 32, 1


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    amplitudes,
    means,
    covariances,
    rotations,
    shifts_px,
    images,
    per_unit,
    n,
    size,
    limit,
    fixed_point: tl.constexpr,
    tile: tl.constexpr,
    lanes: tl.constexpr,
):
    """Add a tile to an image; in fixed point `images` count units, `per_unit` to one mass per pixel."""
    # Programs that run at one time add to one image, which stays in L2.
    tiles = tl.cdiv(n, tile)
    index = tl.program_id(0) % tiles
    b = (tl.program_id(0) // tiles).to(tl.int64)
    _, inside, amplitude, mean, covariance = load_tile(amplitudes, means, covariances, n, index, tile)
    seen, _, x, y, yy, slope, conditional, height = project_tile(
        inside, amplitude, mean, covariance, rotations + 9 * b, shifts_px + 2 * b, size, limit
    )
    peak = amplitude * height
    inverse_yy, inverse_conditional = 1.0 / yy, 1.0 / conditional
    y0, y_count = window(y, tl.sqrt(limit * yy), seen, size)
    reach = tl.sqrt(limit * conditional)
    blocks = blocks_of_rows(seen, reach, size, lanes)
    if fixed_point:
        scale = tl.load(per_unit)
    lane = tl.arange(0, lanes)[None, :]
    image = images + b * size * size
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
            value = peak * tl.exp2(q * -HALF_LOG2_E)
            pixel = image + row * size + column
            if fixed_point:
                units = tl.where(keep, value.to(tl.float64) * scale, 0.0).to(tl.int64)
                tl.atomic_add(pixel, units, mask=keep, sem="relaxed")
            else:
                tl.atomic_add(pixel, value, mask=keep, sem="relaxed")


@triton.jit
def _highest(  # type: ignore[no-untyped-def]
    amplitudes,
    means,
    covariances,
    rotations,
    shifts_px,
    highest,
    n,
    n_images,
    size,
    limit,
    tile: tl.constexpr,
):
    """Highest absolute value of each Gaussian of a tile in any image."""
    j, inside, amplitude, mean, covariance = load_tile(
        amplitudes, means, covariances, n, tl.program_id(0), tile
    )
    found = tl.zeros((tile, 1), tl.float32)
    rotation, shift = rotations, shifts_px
    for _ in range(0, n_images):
        seen, _, _, _, _, _, _, height = project_tile(
            inside, amplitude, mean, covariance, rotation, shift, size, limit
        )
        found = tl.maximum(found, tl.where(seen, tl.abs(amplitude * height), 0.0))
        rotation += 9
        shift += 2
    tl.store(highest + j, found, inside)


def forward(
    amplitudes: torch.Tensor,
    means: torch.Tensor,
    covariances: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    box_size: int,
    tail: float,
    reproducible: bool,
) -> torch.Tensor:
    """Images `(b, D, D)` of contiguous float32 arguments already checked; see `gem3d.kernels.project.project`.

    If `reproducible`, the same bits in any order of the Gaussians.
    """
    n, b = len(amplitudes), len(rotations)
    images = torch.zeros(
        (b, box_size, box_size),
        dtype=torch.int64 if reproducible else torch.float32,
        device=amplitudes.device,
    )
    if n == 0 or b == 0:
        return images.float()
    inputs = (amplitudes, means, covariances, rotations, shifts_px)
    limit = -2.0 * math.log(tail)
    per_unit = amplitudes
    if reproducible:
        highest = torch.empty_like(amplitudes)
        _highest[(triton.cdiv(n, HIGHEST_TILE),)](
            *inputs, highest, n, b, box_size, limit, tile=HIGHEST_TILE, num_warps=HIGHEST_WARPS
        )
        # n times the highest peak makes 2^61 units: no pixel can overflow, and with a million Gaussians a peak still
        # has 2^41. The maximum, unlike a sum, does not depend on the order.
        per_unit = 2.0**61 / (n * highest.amax().double().clamp(min=1e-30))
    _forward[(triton.cdiv(n, FORWARD_TILE) * b,)](
        *inputs,
        images,
        per_unit,
        n,
        box_size,
        limit,
        fixed_point=reproducible,
        tile=FORWARD_TILE,
        lanes=LANES,
        num_warps=FORWARD_WARPS,
    )
    return (images / per_unit).float() if reproducible else images


def backward(
    amplitudes: torch.Tensor,
    means: torch.Tensor,
    covariances: torch.Tensor,
    rotations: torch.Tensor,
    shifts_px: torch.Tensor,
    tail: float,
    gradient: torch.Tensor,
    of_poses: bool,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients with respect to the five arguments, given that with respect to the images, `(b, D, D)`.

    Those of rotations and shifts are None unless `of_poses`.
    """
    n, b = len(amplitudes), len(rotations)
    tiles = triton.cdiv(n, BACKWARD_TILE)
    of_gaussians = (torch.empty_like(amplitudes), torch.empty_like(means), torch.empty_like(covariances))
    of_tiles = torch.empty((tiles, b if of_poses else 0, N_POSE.value), device=amplitudes.device)
    if n > 0:
        gather_gradients[(tiles,)](
            amplitudes,
            means,
            covariances,
            rotations,
            shifts_px,
            gradient,
            *of_gaussians,
            of_tiles,
            n,
            b,
            gradient.shape[1],
            -2.0 * math.log(tail),
            of_poses=of_poses,
            tile=BACKWARD_TILE,
            lanes=LANES,
            num_warps=BACKWARD_WARPS,
        )
    if not of_poses:
        return (*of_gaussians, None, None)
    total = of_tiles.sum(0, dtype=torch.float64).float()
    of_rotations = torch.zeros_like(rotations)
    of_rotations[:, :2] = total[:, :6].view(-1, 2, 3)
    return (*of_gaussians, of_rotations, total[:, 6:])

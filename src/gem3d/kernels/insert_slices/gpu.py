"""Slices on a GPU, in Triton: weighing in one pass, insertion by atomic additions or, reproducibly, by gathering.

Insertion. Two cells that are neighbours in x hold six consecutive floats, so the lanes are (sample, value of a pair
of cells): one instruction adds 24 consecutive bytes for each of its samples, 1.6 sectors of 32 bytes on average,
where a sample per lane would take six instructions of one float a sector. Positions are float64: the cell of a
sample on a border between cells, as in views along the axes, is that of the CPU.

Reckoned, not measured, for an image of 256 pixels (radius 127): 25,500 samples inside the disc, 613,000 additions of
float32, in 102,000 pairs of cells and 166,000 sectors. The accumulator (0.8 GB) is far larger than the L2 cache and
samples lie two cells apart, so nearly each sector is read from memory and written back: 11 MB an image, up to twice
that where memory moves 64 bytes at a time. An H100 (3.3 TB/s) would do 150,000 to 300,000 images a second if it
reached its bandwidth at random sectors; weighing moves 0.65 MB an image, and is small beside it. That the sectors
are random is what bounds insertion, not the number of additions: 12 billion float additions for 20,000 images a
second are 3.3 billion sectors, where L2 takes one a clock and slice.

The order of atomic additions changes from run to run. In the reproducible version each cell has one owner, which
visits the images in turn and gathers the samples that reach it: no atomics, no memory besides the accumulator, and
the same bits however the images are shared out between calls. (A volume of 64-bit integers would add twice the
accumulator's size, and its unit would tie the bits to the call.) It computes the distance of every cell from every
slice, some 50 times the work: reckoned at some thousand images a second at 256 pixels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gem3d.kernels.insert_slices.reference import PADDING
from gem3d.optics import MOST_DISTORTION

# Reckoned, not measured. Weighing: a sample a thread in blocks of four warps; rows of 128 at 256 pixels fill one.
WEIGH_BLOCK = 128
# Insertion: 64 samples of 8 lanes (six at work) are four to a thread with four warps, which hides the division and
# the float64 positions behind the additions; the half disc fills 78 % of its rectangle.
INSERT_BLOCK = 64
# Gathering: a block is skipped as a whole where the slice passes by, so it must be short.
GATHER_BLOCK = 64
NUM_WARPS = 4
GATHER_WARPS = 2
_SHORTEST = tl.constexpr(1 - MOST_DISTORTION)


@triton.jit
def _weigh_slices(  # type: ignore[no-untyped-def]
    transforms,
    coefficients,
    shifts_px,
    sample_weight,
    out,
    box_size,
    radius,
    has_ctf: tl.constexpr,
    block: tl.constexpr,
):
    """A block of one row of one slice; `transforms` and `out` as float32."""
    rows = 2 * radius + 1
    b = tl.program_id(0) // rows
    row = tl.program_id(0) % rows
    i = tl.program_id(1) * block + tl.arange(0, block)
    inside = i <= radius
    ky = row - radius
    fx, fy = i.to(tl.float32), ky.to(tl.float32)
    # The phase grows to hundreds of turns: whole ones are taken off in float64.
    centre = box_size // 2
    shift_x, shift_y = tl.load(shifts_px + 2 * b), tl.load(shifts_px + 2 * b + 1)
    turns = (i.to(tl.float64) * (shift_x + centre) + ky.to(tl.float64) * (shift_y + centre)) / box_size
    phase = 6.283185307179586 * (turns - tl.floor(turns + 0.5)).to(tl.float32)
    cos, sin = tl.cos(phase), tl.sin(phase)
    in_transform = (b.to(tl.int64) * box_size + (ky + box_size) % box_size) * (box_size // 2 + 1) + i
    re = tl.load(transforms + 2 * in_transform, inside, 0.0)
    im = tl.load(transforms + 2 * in_transform + 1, inside, 0.0)
    weight = tl.load(sample_weight + row * (radius + 1) + i, inside, 0.0)
    c = tl.full((block,), 1.0, tl.float32)
    if has_ctf:
        of_image = coefficients + 15 * b
        q0, q1, q2 = tl.load(of_image), tl.load(of_image + 1), tl.load(of_image + 2)
        p0, p1, p2 = tl.load(of_image + 3), tl.load(of_image + 4), tl.load(of_image + 5)
        p3, p4, offset = tl.load(of_image + 6), tl.load(of_image + 7), tl.load(of_image + 8)
        blur, scale = tl.load(of_image + 9), tl.load(of_image + 10)
        u = tl.load(of_image + 11) * fx + tl.load(of_image + 12) * fy
        v = tl.load(of_image + 13) * fx + tl.load(of_image + 14) * fy
        uu, uv, vv = u * u, u * v, v * v
        quartic = uu * (p0 * uu + p1 * uv + p2 * vv) + vv * (p3 * uv + p4 * vv)
        half_turns = offset + q0 * uu + q1 * uv + q2 * vv + quartic
        reduced = half_turns - 2.0 * tl.floor(0.5 * half_turns + 0.5)
        c = -scale * tl.sin(3.141592653589793 * reduced) * tl.exp(-blur * (uu + vv))
    cw = c * weight
    target = out + 3 * ((b.to(tl.int64) * rows + row) * (radius + 1) + i)
    tl.store(target, (re * cos - im * sin) * cw, inside)
    tl.store(target + 1, (re * sin + im * cos) * cw, inside)
    tl.store(target + 2, c * cw, inside)


@triton.jit
def _insert_slices(accumulator, weighted, rotations, radius, padding: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add a block of samples of one slice."""
    rows, columns = 2 * radius + 1, radius + 1
    extent = padding * radius + 1
    blocks = tl.cdiv(rows * columns, block)
    b = tl.program_id(0) // blocks
    sample = ((tl.program_id(0) % blocks) * block + tl.arange(0, block))[:, None]
    kx, ky = sample % columns, sample // columns - radius
    # |k| < radius + 1/2; on the line kx = 0 the half with ky < 0 repeats the other as complex conjugates.
    inside = (kx * kx + ky * ky <= radius * (radius + 1)) & ((kx > 0) | (ky >= 0)) & (ky <= radius)
    of_image = rotations + 9 * b
    fx, fy = padding * kx.to(tl.float64), padding * ky.to(tl.float64)
    x = tl.load(of_image) * fx + tl.load(of_image + 3) * fy
    y = tl.load(of_image + 1) * fx + tl.load(of_image + 4) * fy
    z = tl.load(of_image + 2) * fx + tl.load(of_image + 5) * fy
    sign = tl.where(x < 0, -1.0, 1.0)
    x, y, z = sign * x, sign * y, sign * z
    # Nothing is written beyond the accumulator, be the matrix what it may.
    inside = inside & (x * x + y * y + z * z < 1.0 * extent * extent)
    x, y, z = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0), tl.where(inside, z, 0.0)
    x_cell, y_cell, z_cell = tl.floor(x), tl.floor(y), tl.floor(z)
    right = (x - x_cell).to(tl.float32)
    gy, gz = (y - y_cell).to(tl.float32), (z - z_cell).to(tl.float32)
    # Of eight lanes the first three add to the cell on the left, the next three to that on the right.
    lane = tl.arange(0, 8)[None, :]
    channel = lane % 3
    active = inside & (lane < 6)
    in_weighted = (b.to(tl.int64) * rows * columns + sample) * 3 + channel
    value = tl.load(weighted + in_weighted, active, 0.0) * tl.where(lane < 3, 1.0 - right, right)
    value = tl.where(channel == 1, sign.to(tl.float32) * value, value)
    in_row = 3 * (extent + 1)
    in_plane = in_row * (2 * extent + 1)
    row = (y_cell.to(tl.int32) + extent) * in_row + 3 * x_cell.to(tl.int32) + lane
    cell = accumulator + (z_cell.to(tl.int64) + extent) * in_plane + row
    a11 = gz * gy
    a10 = gz - a11
    a01 = gy - a11
    a00 = 1.0 - gz - a01
    tl.atomic_add(cell, a00 * value, mask=active, sem="relaxed")
    tl.atomic_add(cell + in_row, a01 * value, mask=active, sem="relaxed")
    tl.atomic_add(cell + in_plane, a10 * value, mask=active, sem="relaxed")
    tl.atomic_add(cell + in_plane + in_row, a11 * value, mask=active, sem="relaxed")


@triton.jit
def _gather_slices(accumulator, weighted, rotations, n, radius, padding: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add every slice to a block of consecutive cells, in the order of the slices.

    The cell X lies at u in the frame of the image: at A X / padding, or where A magnifies, at that of the nearest
    point of the slice, by least squares. A sample k reaches it where every coordinate of d = padding A^T k - X is
    smaller than 1, so that |k - u| < sqrt(3) / padding over the shortest that a length comes out: at most two whole
    numbers a axis. Of k and -k the one with kx > 0 is stored, its complex conjugate the other's value.
    """
    rows, columns = 2 * radius + 1, radius + 1
    extent = padding * radius + 1
    length = 2 * extent + 1
    cell = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    x, row = cell % (extent + 1), cell // (extent + 1)
    y, z = row % length - extent, row // length - extent
    in_grid = z <= extent
    cells = accumulator + 3 * cell
    re, im = tl.load(cells, in_grid, 0.0), tl.load(cells + 1, in_grid, 0.0)
    w = tl.load(cells + 2, in_grid, 0.0)
    px, py, pz = x.to(tl.float64), y.to(tl.float64), z.to(tl.float64)
    # From the slice; and within it, in Fourier pixels of the image, where lengths may come out shorter. Both with
    # room for rotations rounded to float32.
    reach: tl.constexpr = 1.7320508075688772 / padding + 1e-3
    reach_within: tl.constexpr = 1.7320508075688772 / padding / _SHORTEST + 1e-3
    of_image, slice_ = rotations, weighted
    for _ in range(0, n):
        xx, xy, xz = tl.load(of_image), tl.load(of_image + 1), tl.load(of_image + 2)
        yx, yy, yz = tl.load(of_image + 3), tl.load(of_image + 4), tl.load(of_image + 5)
        zx, zy, zz = tl.load(of_image + 6), tl.load(of_image + 7), tl.load(of_image + 8)
        height = (zx * px + zy * py + zz * pz) / padding
        near = in_grid & (tl.abs(height) < reach)
        if tl.max(near.to(tl.int32), axis=0) > 0:
            along_x, along_y = xx * px + xy * py + xz * pz, yx * px + yy * py + yz * pz
            gxx, gyy = xx * xx + xy * xy + xz * xz, yx * yx + yy * yy + yz * yz
            gxy = xx * yx + xy * yy + xz * yz
            scale = 1.0 / (padding * (gxx * gyy - gxy * gxy))
            kx_first = tl.ceil((gyy * along_x - gxy * along_y) * scale - reach_within)
            ky_first = tl.ceil((gxx * along_y - gxy * along_x) * scale - reach_within)
            # The slice's own sum first: the samples of one slice are added to a cell in one rounding.
            slice_re, slice_im, slice_w = tl.zeros_like(re), tl.zeros_like(im), tl.zeros_like(w)
            for candidate in tl.static_range(4):
                kx, ky = kx_first + candidate % 2, ky_first + candidate // 2
                qx, qy = padding * (xx * kx + yx * ky), padding * (xy * kx + yy * ky)
                qz = padding * (xz * kx + yz * ky)
                dx, dy, dz = tl.abs(qx - px), tl.abs(qy - py), tl.abs(qz - pz)
                ix, iy = kx.to(tl.int32), ky.to(tl.int32)
                stored = (ix > 0) | ((ix == 0) & (iy >= 0))
                # A stored sample at x < 0 is added at -q; so of samples that are not stored only x > 0 counts.
                keep = near & (dx < 1) & (dy < 1) & (dz < 1) & tl.where(stored, qx >= 0, qx > 0)
                keep = keep & (ix * ix + iy * iy <= radius * (radius + 1))
                keep = keep & (qx * qx + qy * qy + qz * qz < 1.0 * extent * extent)
                share = ((1 - dx) * (1 - dy) * (1 - dz)).to(tl.float32)
                sign = tl.where(stored, 1, -1)
                sample = slice_ + 3 * ((sign * iy + radius) * columns + sign * ix)
                slice_re += share * tl.load(sample, keep, 0.0)
                slice_im += share * sign.to(tl.float32) * tl.load(sample + 1, keep, 0.0)
                slice_w += share * tl.load(sample + 2, keep, 0.0)
            re += slice_re
            im += slice_im
            w += slice_w
        of_image += 9
        slice_ += 3 * rows * columns
    tl.store(cells, re, in_grid)
    tl.store(cells + 1, im, in_grid)
    tl.store(cells + 2, w, in_grid)


def weigh_slices(
    transforms: torch.Tensor,
    coefficients: torch.Tensor | None,
    shifts_px: torch.Tensor,
    sample_weight: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """See `reference.weigh_slices`; contiguous.

    Parameters
    ----------
    transforms: `(b, D, D//2 + 1, 2)` float32, real and imaginary.
    coefficients: `(b, 15)` float32 of the CTF per Fourier pixel, the phase in half turns, or None for no CTF.
    shifts_px: `(b, 2)` float64.
    out: `(b, 2 radius + 1, radius + 1, 3)` float32.
    """
    n, rows, columns, _ = out.shape
    if n == 0:
        return
    _weigh_slices[(n * rows, triton.cdiv(columns, WEIGH_BLOCK))](
        transforms,
        shifts_px if coefficients is None else coefficients,
        shifts_px,
        sample_weight,
        out,
        transforms.shape[1],
        columns - 1,
        has_ctf=coefficients is not None,
        block=WEIGH_BLOCK,
        num_warps=NUM_WARPS,
    )


def insert_slices(
    accumulator: torch.Tensor, weighted: torch.Tensor, rotations: torch.Tensor, reproducible: bool
) -> None:
    """See `reference.insert_slices`; contiguous, the rotations float64.

    If `reproducible`, sums have the same bits in every run and however the slices, in one order, are shared out
    between calls.
    """
    n, rows, columns, _ = weighted.shape
    if n == 0:
        return
    if reproducible:
        _gather_slices[(triton.cdiv(accumulator.numel() // 3, GATHER_BLOCK),)](
            accumulator,
            weighted,
            rotations,
            n,
            columns - 1,
            padding=PADDING,
            block=GATHER_BLOCK,
            num_warps=GATHER_WARPS,
        )
    else:
        _insert_slices[(n * triton.cdiv(rows * columns, INSERT_BLOCK),)](
            accumulator,
            weighted,
            rotations,
            columns - 1,
            padding=PADDING,
            block=INSERT_BLOCK,
            num_warps=NUM_WARPS,
        )

"""What the Triton kernels of volumes and slices are compiled with; see `ahead_of_time`."""

from __future__ import annotations

from ahead_of_time import KernelCode
from gem3d.kernels.insert_slices import gpu as insert_slices
from gem3d.kernels.insert_slices.reference import PADDING
from gem3d.kernels.voxelize import gpu as voxelize

_GAUSSIANS = dict.fromkeys(("amplitudes", "means", "covariances"), "*fp32")
_GRID = dict.fromkeys(("n", "nz", "ny", "nx"), "i32") | {"cutoff": "fp32"}
_TILE = {"tile": voxelize.GAUSSIANS_PER_TILE, "lanes": voxelize.LANES}
_GRADIENTS = dict.fromkeys(("gradient", "grad_a", "grad_mean", "grad_cov"), "*fp32")

VOXELIZE_CODES: list[KernelCode] = [
    KernelCode(
        "voxelize forward",
        voxelize._forward,
        _GAUSSIANS | {"volume": "*fp32", "per_unit": "*fp32"} | _GRID,
        _TILE | {"fixed_point": False},
        voxelize.NUM_WARPS,
    ),
    KernelCode(
        "voxelize forward, reproducible",
        voxelize._forward,
        _GAUSSIANS | {"volume": "*i64", "per_unit": "*fp64"} | _GRID,
        _TILE | {"fixed_point": True},
        voxelize.NUM_WARPS,
    ),
    KernelCode(
        "voxelize backward", voxelize._backward, _GAUSSIANS | _GRADIENTS | _GRID, _TILE, voxelize.NUM_WARPS
    ),
]

_WEIGH_TYPES = {
    "transforms": "*fp32",
    "coefficients": "*fp32",
    "shifts_px": "*fp64",
    "sample_weight": "*fp32",
    "out": "*fp32",
    "box_size": "i32",
    "radius": "i32",
}
_INSERT_TYPES = {"accumulator": "*fp32", "weighted": "*fp32", "rotations": "*fp64", "radius": "i32"}

INSERT_CODES: list[KernelCode] = [
    KernelCode(
        "weigh_slices",
        insert_slices._weigh_slices,
        _WEIGH_TYPES,
        {"has_ctf": True, "block": insert_slices.WEIGH_BLOCK},
        insert_slices.NUM_WARPS,
    ),
    KernelCode(
        "insert_slices",
        insert_slices._insert_slices,
        _INSERT_TYPES,
        {"padding": PADDING, "block": insert_slices.INSERT_BLOCK},
        insert_slices.NUM_WARPS,
    ),
    KernelCode(
        "insert_slices, reproducible",
        insert_slices._gather_slices,
        _INSERT_TYPES | {"n": "i32"},
        {"padding": PADDING, "block": insert_slices.GATHER_BLOCK},
        insert_slices.GATHER_WARPS,
    ),
]

"""What each Triton kernel is compiled with; see `ahead_of_time`. Importing this needs Triton."""

from __future__ import annotations

from ahead_of_time import KernelCode
from gem3d.kernels.insert_slices import gpu as insert_slices
from gem3d.kernels.insert_slices.reference import PADDING
from gem3d.kernels.project import gpu as project
from gem3d.kernels.project import gpu_backward as project_backward
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

_POSES = dict.fromkeys(("rotations", "shifts_px"), "*fp32")
_IMAGE = {"n": "i32", "size": "i32", "limit": "fp32"}
_PROJECT_FORWARD = {"tile": project.FORWARD_TILE, "lanes": project.LANES}
_PROJECT_BACKWARD = {"tile": project.BACKWARD_TILE, "lanes": project.LANES}
_PROJECT_GRADIENTS = _GAUSSIANS | _POSES | _GRADIENTS | {"grad_poses": "*fp32", "n_images": "i32"} | _IMAGE

PROJECT_CODES: list[KernelCode] = [
    KernelCode(
        "project forward",
        project._forward,
        _GAUSSIANS | _POSES | {"images": "*fp32", "per_unit": "*fp32"} | _IMAGE,
        _PROJECT_FORWARD | {"fixed_point": False},
        project.FORWARD_WARPS,
    ),
    KernelCode(
        "project forward, reproducible",
        project._forward,
        _GAUSSIANS | _POSES | {"images": "*i64", "per_unit": "*fp64"} | _IMAGE,
        _PROJECT_FORWARD | {"fixed_point": True},
        project.FORWARD_WARPS,
    ),
    KernelCode(
        "project forward, unit of fixed point",
        project._highest,
        _GAUSSIANS | _POSES | {"highest": "*fp32", "n_images": "i32"} | _IMAGE,
        {"tile": project.HIGHEST_TILE},
        project.HIGHEST_WARPS,
    ),
    KernelCode(
        "project backward",
        project_backward.gather_gradients,
        _PROJECT_GRADIENTS,
        _PROJECT_BACKWARD | {"of_poses": False},
        project.BACKWARD_WARPS,
    ),
    KernelCode(
        "project backward, with poses",
        project_backward.gather_gradients,
        _PROJECT_GRADIENTS,
        _PROJECT_BACKWARD | {"of_poses": True},
        project.BACKWARD_WARPS,
    ),
]

CODES: list[KernelCode] = VOXELIZE_CODES + INSERT_CODES + PROJECT_CODES

"""Where to compute: a GPU whose free memory holds what the job needs, or the CPU.

What a GPU has to hold is reckoned before anything is read. The most is held either while images are accumulated or
while a half is fitted; in between, normal equations wait in the memory of the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from gem3d import ranks
from gem3d.errors import SettingsError, warn
from gem3d.fit.accumulate import BATCH_SIZE
from gem3d.fit.set_slices import WAITING_BYTES
from gem3d.kernels.backend import interprets_triton
from gem3d.kernels.insert_slices import accumulator_shape

Asked = Literal["auto", "cpu", "cuda"]

# Of the free memory, what may be planned with: the rest is for what libraries take, and for fragmentation.
USABLE_SHARE = 0.9
# CUDA's own context, cuFFT's plans and compiled kernels.
CONTEXT_BYTES = 500 << 20
# What `gem3d.particles.measure_on_device` works in.
MEASURING_BYTES = 64 << 20
GB = 1e9


@dataclass(frozen=True)
class Device:
    """Where a job computes.

    Attributes
    ----------
    name: "cpu" or "cuda": with several processes, each has a GPU of its own.
    both_halves: both half sets are accumulated in one pass; else one after the other, in half the memory.
    """

    name: Literal["cpu", "cuda"] = "cpu"
    both_halves: bool = True

    @property
    def of_tensors(self) -> str:
        """Where tensors lie: on the CPU, which stands in for a GPU, where Triton's kernels are interpreted."""
        return "cpu" if interprets_triton() else self.name


CPU = Device()


def pass_bytes(box_size: int, last_shell: int, n_halves: int) -> int:
    """What accumulating takes: two accumulators a half, and a batch of images on its way."""
    accumulators = 2 * n_halves * 4 * math.prod(accumulator_shape(last_shell))
    # As stored (twice), as float32, its transform, and the same once more for the work of the FFT.
    batch = BATCH_SIZE * box_size * (box_size + 2) * 4 * 5
    return accumulators + batch + 2 * n_halves * WAITING_BYTES + MEASURING_BYTES


def linear_map_bytes(box_size: int, last_shell: int) -> int:
    """What a linear map takes: the two accumulators of its half, and lines along x of the padded grid."""
    lines = box_size**2 * (2 * last_shell + 2) * 8
    padded = box_size**2 * 2 * box_size * 4
    return 2 * 4 * math.prod(accumulator_shape(last_shell)) + lines + 2 * padded


def fit_bytes(support_voxels: int, last_shell: int) -> int:
    """What a fit inside a cube of so many voxels a side takes.

    While its operators are made: one accumulator, and transforms of twice the support. While it steps: the kernels of
    training and held-out particles, the volume's transform and the work of the FFT.
    """
    padded = (2 * support_voxels) ** 3 * 4
    making = 4 * math.prod(accumulator_shape(last_shell)) + 3 * padded
    return max(making, 4 * padded)


def needed_bytes(box_size: int, last_shell: int, support_voxels: int, *, both_halves: bool) -> int:
    """The most that a job holds on a GPU at a time."""
    return CONTEXT_BYTES + max(
        pass_bytes(box_size, last_shell, 2 if both_halves else 1),
        linear_map_bytes(box_size, last_shell),
        fit_bytes(support_voxels, last_shell),
    )


def choose_device(
    asked: Asked, *, box_size: int, pixel_size_A: float, last_shell: int, diameter_A: float
) -> Device:
    """The device of a job.

    Parameters
    ----------
    asked: "auto" takes a GPU where there is one with enough free memory, on all ranks.
    last_shell: last Fourier shell in use.
    diameter_A: of the sphere that holds the particle.

    Raises
    ------
    SettingsError: a GPU was asked for, and there is none or none that is large enough.
    """
    if asked == "cpu":
        return CPU
    if interprets_triton():
        return Device("cuda") if asked == "cuda" else CPU
    free = ranks.together(free_bytes)
    if free is None:
        if asked == "cuda":
            raise SettingsError(f"--device cuda: {why_no_gpu()}; use --device cpu, or auto")
        return CPU
    usable, width_A = int(USABLE_SHARE * free), box_size * pixel_size_A

    def needed(shell: int, *, both_halves: bool) -> int:
        voxels = math.ceil(diameter_A / width_A * min(box_size, 2 * shell + 2))
        return needed_bytes(box_size, shell, voxels, both_halves=both_halves)

    for both_halves in (True, False):
        if needed(last_shell, both_halves=both_halves) <= usable:
            return Device("cuda", both_halves)
    fitting = [shell for shell in range(4, last_shell) if needed(shell, both_halves=False) <= usable]
    advice = (
        f"--max-resolution {width_A / fitting[-1]:.2f} or coarser would fit"
        if fitting
        else "use a larger GPU"
    )
    least = needed(last_shell, both_halves=False)
    message = (
        f"{least / GB:.1f} GB of GPU memory are needed for one half at a time, and {usable / GB:.1f} are free"
    )
    if asked == "cuda":
        raise SettingsError(f"--device cuda: {message}; {advice}, or use --device cpu")
    warn(f"the CPU is used, as {message}; {advice}")
    return CPU


def free_bytes() -> int | None:
    """Free memory of the GPU, the least over all ranks; None where one has no GPU. For `ranks.together`."""
    here = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    everywhere = ranks.gather(here)
    known = [free for free in everywhere if free is not None]
    return min(known) if len(known) == len(everywhere) else None


def why_no_gpu() -> str:
    """Why torch sees no GPU."""
    if torch.version.cuda is None:
        return (
            f"this torch ({torch.__version__}) is built for the CPU only; install a CUDA build to use a GPU"
        )
    return "torch finds no GPU; see that `nvidia-smi` lists one, and CUDA_VISIBLE_DEVICES"


def describe(device: Device) -> str:
    """One line for the log and the screen."""
    if device.name == "cpu":
        return "computing on the CPU"
    if interprets_triton():
        return "computing with GPU kernels, interpreted on the CPU (TRITON_INTERPRET=1): for tests"
    free = torch.cuda.mem_get_info()[0]
    halves = "" if device.both_halves else ", one half after the other"
    return f"computing on {torch.cuda.get_device_name()}, {free / GB:.1f} GB free{halves}"


def peak_gpu_memory_GB() -> float | None:
    """Most memory that tensors have taken on the GPU of this process; None without one."""
    return torch.cuda.max_memory_allocated() / GB if torch.cuda.is_available() else None

"""Which version of a kernel works on a tensor: numba's on the CPU, Triton's on a GPU."""

from __future__ import annotations

import os

import torch


def uses_triton(tensor: torch.Tensor) -> bool:
    """Whether Triton's kernels work on this tensor.

    They do on CUDA devices; on the CPU where Triton interprets its kernels (TRITON_INTERPRET=1, set before Triton is
    imported), which is slow and meant for tests.
    """
    return tensor.device.type == "cuda" or interprets_triton()


def interprets_triton() -> bool:
    """Whether Triton's kernels are to be interpreted on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def deterministic() -> bool:
    """Whether sums must come out to the same bits in every run on a GPU, at some cost in time and memory.

    torch's own switch: `torch.use_deterministic_algorithms(True)`.
    """
    return torch.are_deterministic_algorithms_enabled()

"""Which version of a kernel works on a tensor: numba's on the CPU, Triton's on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

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


def load_gpu(package: str) -> ModuleType:
    """Triton's version of a kernel, `gpu.py` of its package, loaded when first needed.

    Raises
    ------
    ImportError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise ImportError("work on a GPU needs Triton, which is not installed: pip install 'gem3d[gpu]'")
    return importlib.import_module(f"{package}.gpu")

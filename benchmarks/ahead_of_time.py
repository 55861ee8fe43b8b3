"""Compile a Triton kernel for a GPU that is not there, and say what it needs of one.

`python benchmarks/run.py gpu_code` tabulates every kernel; the tests see that each compiles and spills nothing.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from context import Context
from registry import Measurement, Skipped, Target, benchmark

CAPABILITIES = (80, 90)


@dataclass(frozen=True)
class KernelCode:
    """What a kernel is compiled with.

    Attributes
    ----------
    kernel: a `triton.jit` function.
    types: of each argument that is not a constant, such as "*fp32" or "i32".
    constants: its `tl.constexpr` arguments.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4


@dataclass(frozen=True)
class Compiled:
    """The result: registers of a thread, bytes that it spills, bytes of shared memory of a block."""

    ptx: str
    registers: int
    spilled_bytes: int
    shared_bytes: int


def compile_for(code: KernelCode, capability: int) -> Compiled:
    """Compile for compute capability 80 (A100), 90 (H100, H200) and so on; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    signature = code.types | dict.fromkeys(code.constants, "constexpr")
    names = code.kernel.arg_names
    source = ASTSource(code.kernel, {name: signature[name] for name in names}, code.constants)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": code.num_warps}
    )
    ptx = compiled.asm["ptx"]
    target = re.search(r"\.target (\w+)", ptx)
    assert target is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        said = subprocess.run(
            [get_ptxas(capability).path, "-v", f"--gpu-name={target[1]}", "-o", "/dev/null", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", said)]
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    return Compiled(ptx, int(registers[1]), sum(spills), compiled.metadata.shared)


@benchmark("gpu_code", "registers, spills, shared memory and atomics of every Triton kernel; needs no GPU")
def gpu_code(context: Context) -> Iterator[Measurement]:
    """Atomics count the instructions in the PTX: reductions, which return nothing, and those that return a value."""
    if importlib.util.find_spec("triton") is None:
        raise Skipped("Triton is not installed")
    from gpu_code import CODES

    for capability in CAPABILITIES:
        for code in CODES:
            compiled = compile_for(code, capability)
            row = f"Triton kernels, sm_{capability}", code.name
            yield Measurement(*row, "threads", 32 * code.num_warps)
            yield Measurement(*row, "registers a thread", compiled.registers)
            yield Measurement(*row, "spilled (bytes)", compiled.spilled_bytes, Target(high=0))
            yield Measurement(*row, "shared memory (bytes)", compiled.shared_bytes)
            yield Measurement(*row, "reductions", len(re.findall(r"\bred\.", compiled.ptx)))
            yield Measurement(*row, "atomics with a result", len(re.findall(r"\batom\.", compiled.ptx)))

"""Compile a Triton kernel for a GPU that is not there, and say what it needs of one.

`python benchmarks/run.py gpu_code` tabulates every kernel; the tests see that each compiles and spills nothing.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

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

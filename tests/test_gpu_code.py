"""The Triton kernels compile for GPUs that are not there, and keep to their registers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "run.py").exists():
    pytest.skip("benchmarks/ is not part of this copy", allow_module_level=True)
pytest.importorskip("triton")
# They are scripts, not a package: `python benchmarks/run.py` puts their folder on the path.
sys.path.insert(0, str(BENCHMARKS))

from ahead_of_time import CAPABILITIES, compile_for  # noqa: E402
from gpu_code import CODES as ALL_CODES  # noqa: E402

CODES = {code.name: code for code in ALL_CODES}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", CODES)
def test_kernel_spills_nothing(name, capability):
    assert compile_for(CODES[name], capability).spilled_bytes == 0


@pytest.mark.parametrize("name", ["voxelize forward", "insert_slices", "project forward"])
def test_additions_return_nothing_and_order_nothing(name):
    ptx = compile_for(CODES[name], 90).ptx
    assert "red.global.gpu.relaxed.add.f32" in ptx
    assert "atom." not in ptx


@pytest.mark.parametrize(
    "name", ["voxelize backward", "insert_slices, reproducible", "project backward, with poses"]
)
def test_gathering_needs_no_atomics(name):
    ptx = compile_for(CODES[name], 90).ptx
    assert "red.global" not in ptx
    assert "atom." not in ptx

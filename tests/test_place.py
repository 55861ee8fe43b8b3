"""A job goes on in less memory where that of the GPU does not suffice after all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gem3d import ReconstructSettings, accumulate_shard, half_maps, ranks, reconstruct
from gem3d.device import CPU, Device
from gem3d.errors import Gem3dWarning
from gem3d.finish import Reconstruction
from gem3d.fit import methods
from gem3d.place import Place
from gem3d.settings import PassSettings
from gem3d.simulate import Simulation
from half_map_checks import assert_same_half_maps

BOTH, ONE = Device("cuda", both_halves=True), Device("cuda", both_halves=False)


def needing(*too_small: Device) -> Callable[[Device], Device]:
    def work(device: Device) -> Device:
        if device in too_small:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")
        return device

    return work


def test_work_is_begun_anew_in_less_memory() -> None:
    place = Place(BOTH, may_use_cpu=True)
    assert place.compute(needing()) == BOTH
    with pytest.warns(Gem3dWarning, match=r"one half set at a time \(CUDA out of memory.* 2\.00 GiB\.\)"):
        assert place.compute(needing(BOTH)) == ONE
    assert place.compute(needing(BOTH)) == ONE  # it stays there
    with pytest.warns(Gem3dWarning, match="on the CPU"):
        assert place.compute(needing(ONE)) == CPU


def test_cuda_asked_for_is_not_left() -> None:
    place = Place(BOTH, may_use_cpu=False)
    with (
        pytest.warns(Gem3dWarning, match="one half set at a time"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        place.compute(needing(BOTH, ONE))


def test_libraries_have_their_own_words() -> None:
    def work(device: Device) -> None:
        if device.name == "cuda":
            raise RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")

    place = Place(ONE, may_use_cpu=True)
    with pytest.warns(Gem3dWarning, match="on the CPU"):
        place.compute(work)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), RuntimeError("can't allocate memory: 8 GB"), MemoryError()]
)
def test_other_errors_end_the_work(error: Exception) -> None:
    def work(device: Device) -> None:
        raise error

    with pytest.raises(type(error)):
        Place(BOTH, may_use_cpu=True).compute(work)


def test_work_shared_with_other_processes_is_not_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "n_ranks", lambda: 2)
    place = Place(BOTH, may_use_cpu=True)
    with pytest.raises(torch.OutOfMemoryError):
        place.compute(needing(BOTH), with_others=True)
    with pytest.warns(Gem3dWarning, match="one half set at a time"):
        assert place.compute(needing(BOTH)) == ONE


@pytest.fixture
def on_small_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU, played by the CPU, that can neither accumulate two halves nor fit; what it was asked for."""
    asked: list[str] = []

    def accumulate(*arguments: Any, wanted: tuple[int, ...] = (1, 2), **options: Any) -> Any:
        asked.append(f"accumulate {len(wanted)} on {options['device']}")
        if options.pop("device") == "cuda" and len(wanted) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments, wanted=wanted, device="cpu", **options)

    def fit(*arguments: Any) -> Any:
        asked.append(f"fit on {arguments[-1]}")
        if arguments[-1] == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return operators_of(*arguments)

    whole, operators_of = half_maps.accumulate, methods.operators_of
    for module in (half_maps, accumulate_shard):
        monkeypatch.setattr(module, "accumulate", accumulate)
    monkeypatch.setattr(methods, "operators_of", fit)
    monkeypatch.setattr("gem3d.place.choose_device", lambda *_, **__: BOTH)
    for module in (import_module("gem3d.reconstruct"), accumulate_shard):
        monkeypatch.setattr(module, "describe", lambda device: "computing on a GPU")
    return asked


def reconstructed(made: Simulation, out: Path) -> Reconstruction:
    return reconstruct(made.star, out, ReconstructSettings(threads=1, quiet=True, gaussians=60))


def test_a_reconstruction_ends_on_the_cpu_with_the_same_maps(
    made: Simulation, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = reconstructed(made, tmp_path / "expected")
    asked = request.getfixturevalue("on_small_gpu")
    found = reconstructed(made, tmp_path / "found")
    assert asked == [
        "accumulate 2 on cuda",
        "accumulate 1 on cuda",
        "accumulate 1 on cuda",
        "fit on cuda",
        *["fit on cpu"] * 3,
    ]
    assert found.summary["device"] == "cpu"
    warnings = [line for line in found.summary["warnings"] if "does not suffice after all" in line]
    assert len(warnings) == 2
    for one, other in zip(found.linear_half_maps, expected.linear_half_maps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(np.abs(other).max()))
    assert_same_half_maps(found.half_maps, expected.half_maps)


def test_a_shard_is_written_all_the_same(made: Simulation, tmp_path: Path, on_small_gpu: list[str]) -> None:
    out = tmp_path / "shard.safetensors"
    accumulate_shard.accumulate_shard(made.star, out, PassSettings(threads=1, quiet=True))
    assert on_small_gpu == ["accumulate 2 on cuda", "accumulate 1 on cuda", "accumulate 1 on cuda"]
    assert out.exists()

"""Which device a job computes on: by memory needed against memory free, said, and never by an accident."""

from __future__ import annotations

import pytest
import torch

from gem3d import device as devices
from gem3d.device import CPU, Device, choose_device, needed_bytes
from gem3d.errors import Gem3dWarning, SettingsError

GB = 10**9
OF_256 = {"box_size": 256, "pixel_size_A": 1.06, "last_shell": 127, "diameter_A": 170.0}
OF_512 = {"box_size": 512, "pixel_size_A": 0.8, "last_shell": 255, "diameter_A": 0.9 * 512 * 0.8}


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: float | None) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda: None if n_bytes is None else int(n_bytes))
    monkeypatch.setattr(devices, "interprets_triton", lambda: False)


def test_without_a_gpu_auto_means_the_cpu_and_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, None)
    assert choose_device("auto", **OF_256) == CPU
    assert choose_device("cpu", **OF_256) == CPU
    with pytest.raises(SettingsError, match=r"--device cuda: .*(CUDA build|finds no GPU).*--device cpu"):
        choose_device("cuda", **OF_256)


def test_a_gpu_with_room_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 80 * GB)
    assert choose_device("auto", **OF_256) == Device("cuda", both_halves=True)
    assert choose_device("cpu", **OF_256) == CPU


def test_halves_come_one_after_the_other_where_both_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 4 * GB)
    assert choose_device("auto", **OF_256) == Device("cuda", both_halves=False)


def test_where_nothing_fits_auto_warns_and_cuda_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 12 * GB)
    with pytest.warns(Gem3dWarning, match=r"the CPU is used.*--max-resolution [\d.]+ or coarser would fit"):
        assert choose_device("auto", **OF_512) == CPU
    with pytest.raises(SettingsError, match=r"GB of GPU memory are needed.*10\.8 are free.*--device cpu"):
        choose_device("cuda", **OF_512)


def test_the_resolution_that_is_advised_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box of 512 px runs on a card of 12 GB."""
    free(monkeypatch, 12 * GB)
    with pytest.raises(SettingsError) as refused:
        choose_device("cuda", **OF_512)
    advised_A = float(str(refused.value).split("--max-resolution ")[1].split()[0])
    shell = int(OF_512["box_size"] * OF_512["pixel_size_A"] / advised_A)
    assert choose_device("cuda", **OF_512 | {"last_shell": shell}).name == "cuda"
    assert advised_A < 3  # Nyquist is 1.6 A


def test_what_is_needed_at_256_px() -> None:
    assert needed_bytes(256, 127, 160, both_halves=True) < 4.2 * GB
    assert needed_bytes(256, 127, 160, both_halves=False) < 2.6 * GB


def test_on_a_gpu_the_line_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")
    assert devices.describe(CPU) == "computing on the CPU"
    assert devices.describe(Device("cuda", False)) == (
        "computing on NVIDIA A10, 20.0 GB free, one half after the other"
    )

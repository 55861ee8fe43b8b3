"""Which version of a kernel works on a tensor, and what is said where Triton lacks."""

import importlib.util

import pytest
import torch

from gem3d.kernels.backend import load_gpu
from gem3d.kernels.insert_slices import half_plane_weight, per_fourier_pixel
from gem3d.optics import N_CTF_COEFFICIENTS


def test_work_on_a_gpu_without_triton_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"gem3d\[gpu\]"):
        load_gpu("gem3d.kernels.voxelize")


def test_weights_and_coefficients_stay_on_their_device():
    """On the device whose tensors have no values: what needs a value on the host would fail."""
    assert half_plane_weight(torch.ones(8, device="meta")).device.type == "meta"
    assert per_fourier_pixel(torch.ones(3, N_CTF_COEFFICIENTS, device="meta"), 0.01).device.type == "meta"

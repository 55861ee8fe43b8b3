"""The voxelize kernel against its reference, forward and every gradient."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from gem3d.kernels.voxelize import cpu, voxelize
from gem3d.kernels.voxelize.reference import unpack_symmetric
from gem3d.kernels.voxelize.reference import voxelize as reference
from kernel_cases import VOLUME_SHAPES, random_gaussians, relative_rms, volume_and_gradients


@pytest.mark.parametrize("shape", VOLUME_SHAPES)
@pytest.mark.parametrize(
    ("scale_px", "beyond_px"),
    [((0.6, 2.5), 0.0), ((0.25, 0.4), 0.0), ((0.4, 4.0), 3.0)],
    ids=["anisotropic", "tiny", "off-the-edge"],
)
def test_kernel_equals_reference(shape, scale_px, beyond_px, monkeypatch):
    # Far enough out for the cutoff not to count; what the cutoff costs is the next test.
    monkeypatch.setattr(cpu, "CUTOFF", 8.0)
    inputs = random_gaussians(12, shape, scale_px=scale_px, beyond_px=beyond_px)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = volume_and_gradients(reference, inputs, shape, weights, torch.float64)
    found = volume_and_gradients(voxelize, inputs, shape, weights, torch.float32)
    for name in expected:
        assert relative_rms(found[name], expected[name]) < 3e-5, name


@pytest.mark.parametrize("shape", VOLUME_SHAPES)
def test_cutoff_costs_what_it_says(shape):
    amplitudes, means, covariances = random_gaussians(12, shape)
    error = voxelize(amplitudes.float(), means.float(), covariances.float(), shape) - reference(
        amplitudes, means, covariances, shape
    )
    peaks = amplitudes / torch.linalg.det(unpack_symmetric(covariances)).sqrt() / (2 * math.pi) ** 1.5
    assert float(error.abs().max()) < math.exp(-(cpu.CUTOFF**2) / 2) * float(peaks.sum())
    assert float(error.norm()) > 0


def test_reference_gradients():
    shape = (4, 5, 6)
    inputs = [t.requires_grad_() for t in random_gaussians(2, shape, scale_px=(0.8, 1.5))]
    assert gradcheck(lambda *g: reference(*g, shape), inputs)


def test_mass_is_conserved():
    amplitudes, means, covariances = random_gaussians(5, (8, 8, 8), scale_px=(0.8, 2.0))
    volume = voxelize(amplitudes.float(), means.float() + 12, covariances.float(), (32, 32, 32))
    assert float(volume.sum()) == pytest.approx(float(amplitudes.sum()), rel=2e-3)


def test_splitting_a_gaussian_in_two_halves_changes_nothing():
    shape = (12, 12, 12)
    amplitudes, means, covariances = (t.float() for t in random_gaussians(4, shape))
    whole = voxelize(amplitudes, means, covariances, shape)
    halves = voxelize(amplitudes.repeat(2) / 2, means.repeat(2, 1), covariances.repeat(2, 1), shape)
    torch.testing.assert_close(halves, whole, rtol=1e-5, atol=1e-7)


def test_rotation_by_90_degrees_rotates_the_volume():
    n = 15
    amplitudes, means, covariances = (t.float() for t in random_gaussians(6, (n, n, n)))
    rotation = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    centre = (n - 1) / 2
    turned = rotation @ unpack_symmetric(covariances) @ rotation.T
    packed = torch.stack(
        [turned[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], dim=1
    )
    volume = voxelize(amplitudes, means, covariances, (n, n, n))
    rotated = voxelize(amplitudes, (means - centre) @ rotation.T + centre, packed, (n, n, n))
    # (x, y) -> (-y, x): in [z, y, x] order, new[y = x_old, x = n-1-y_old]
    torch.testing.assert_close(rotated, volume.transpose(1, 2).flip(2), rtol=1e-3, atol=1e-5)


def test_no_gaussian_reaches_the_grid():
    volume = voxelize(
        torch.ones(1), torch.tensor([[-50.0, 3, 3]]), torch.tensor([[1.0, 1, 1, 0, 0, 0]]), (6, 6, 6)
    )
    assert float(volume.abs().sum()) == 0


def test_wrong_shapes_and_types_are_refused():
    good = (torch.ones(2), torch.zeros(2, 3), torch.ones(2, 6))
    with pytest.raises(ValueError, match=r"means must be \(2, 3\)"):
        voxelize(good[0], torch.zeros(3, 3), good[2], (4, 4, 4))
    with pytest.raises(TypeError, match="float32"):
        voxelize(good[0].double(), good[1], good[2], (4, 4, 4))

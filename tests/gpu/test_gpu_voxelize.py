"""The Triton kernels of voxelize against the reference in float64, forward and every gradient."""

from __future__ import annotations

import math
import types

import pytest
import torch

from gem3d.kernels.voxelize import cpu, voxelize
from gem3d.kernels.voxelize import gpu as triton_version
from gem3d.kernels.voxelize.reference import voxelize as reference
from kernel_cases import VOLUME_SHAPES, random_gaussians, relative_rms, volume_and_gradients

pytestmark = pytest.mark.gpu

SHAPE = (7, 10, 9)


@pytest.fixture
def reproducible():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on(device, inputs):
    return [t.float().to(device) for t in inputs]


def assert_equals_reference(inputs, shape, device, tolerance=3e-5):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = volume_and_gradients(reference, inputs, shape, weights, torch.float64)
    found = volume_and_gradients(voxelize, inputs, shape, weights, torch.float32, device)
    for name in expected:
        assert relative_rms(found[name], expected[name]) < tolerance, name


@pytest.mark.parametrize("shape", VOLUME_SHAPES)
@pytest.mark.parametrize(
    ("scale_px", "beyond_px"),
    [((0.6, 2.5), 0.0), ((0.25, 0.4), 0.0), ((0.4, 4.0), 3.0)],
    ids=["anisotropic", "tiny", "off-the-edge"],
)
def test_equals_reference(shape, scale_px, beyond_px, monkeypatch, gpu):
    # Far enough out for the cutoff not to count. 5 Gaussians do not fill a tile.
    monkeypatch.setattr(cpu, "CUTOFF", 7.0)
    assert_equals_reference(random_gaussians(5, shape, scale_px=scale_px, beyond_px=beyond_px), shape, gpu)


def test_several_tiles_equal_reference(monkeypatch, gpu):
    monkeypatch.setattr(cpu, "CUTOFF", 7.0)
    assert_equals_reference(random_gaussians(19, SHAPE, scale_px=(0.4, 1.0)), SHAPE, gpu)


def test_needles_and_gaussians_wider_than_the_grid(monkeypatch, gpu):
    """Rows of several blocks: a needle along the diagonal of a grid wider than a block, and a wide Gaussian."""
    monkeypatch.setattr(cpu, "CUTOFF", 7.0)
    shape = (5, 8, 37)
    axis = torch.tensor([0.9, 0.3, math.sqrt(0.1)], dtype=torch.float64)
    needle = 0.3 * torch.eye(3, dtype=torch.float64) + 40 * torch.outer(axis, axis)
    wide = 60 * torch.eye(3, dtype=torch.float64)
    packed = [[c[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))] for c in (needle, wide)]
    means = torch.tensor([[17.3, 4.1, 2.2], [21.0, 2.5, 1.0]], dtype=torch.float64)
    amplitudes = torch.tensor([1.0, -20.0], dtype=torch.float64)
    assert_equals_reference((amplitudes, means, torch.tensor(packed, dtype=torch.float64)), shape, gpu)


def test_cut_as_on_the_cpu(gpu):
    inputs = on("cpu", random_gaussians(9, SHAPE))
    expected = torch.from_numpy(cpu.forward(*(t.numpy() for t in inputs), SHAPE))
    found = voxelize(*on(gpu, inputs), SHAPE).cpu()
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.max())
    assert torch.equal(found == 0, expected == 0)


def test_no_gaussians(gpu):
    inputs = [t.to(gpu).requires_grad_() for t in (torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, 6))]
    volume = voxelize(*inputs, SHAPE)
    assert float(volume.detach().abs().sum()) == 0
    volume.sum().backward()
    assert [t.grad.shape for t in inputs] == [t.shape for t in inputs]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gaussians_that_are_not_finite_touch_nothing(value, gpu):
    inputs = on("cpu", random_gaussians(6, SHAPE))
    whole = volume_and_gradients(
        voxelize, [t[3:] for t in inputs], SHAPE, torch.ones(SHAPE), torch.float32, gpu
    )
    for spoilt, tensor in enumerate(inputs):
        tensor.view(6, -1)[spoilt] = value
    found = volume_and_gradients(voxelize, inputs, SHAPE, torch.ones(SHAPE), torch.float32, gpu)
    torch.testing.assert_close(found.pop("volume"), whole.pop("volume"))
    for name in whole:
        torch.testing.assert_close(found[name][3:], whole[name])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy's, in the interpreter
def test_gaussians_that_are_not_positive_definite_touch_nothing(gpu):
    amplitudes, means, covariances = on(gpu, random_gaussians(2, SHAPE))
    covariances[0] = torch.tensor([1.0, 1.0, 1.0, 2.0, 0.0, 0.0])
    covariances[1] = torch.tensor([-1.0, -1.0, 1.0, 0.0, 0.0, 0.0])
    assert float(voxelize(amplitudes, means, covariances, SHAPE).abs().sum()) == 0


def test_fresh_memory_is_never_read(monkeypatch, gpu):
    inputs = on("cpu", random_gaussians(9, SHAPE, beyond_px=6.0))
    arguments = (voxelize, inputs, SHAPE, torch.ones(SHAPE), torch.float32, gpu)
    expected = volume_and_gradients(*arguments)
    poisoned = types.ModuleType("torch")
    poisoned.__dict__.update(vars(torch))
    poisoned.empty = lambda *a, **k: torch.full(*a, fill_value=math.nan, **k)
    poisoned.empty_like = lambda t: torch.full_like(t, math.nan)
    monkeypatch.setattr(triton_version, "torch", poisoned)
    found = volume_and_gradients(*arguments)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_reproducible_sum_has_no_order(reproducible, gpu):
    inputs = on(gpu, random_gaussians(21, SHAPE, scale_px=(0.5, 1.5)))
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0)).to(gpu)
    volume = voxelize(*inputs, SHAPE)
    assert torch.equal(volume, voxelize(*(t[order] for t in inputs), SHAPE))
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(voxelize(*inputs, SHAPE), volume, rtol=1e-5, atol=1e-6)


def test_reproducible_sum_keeps_faint_gaussians(reproducible, gpu):
    """One a million times fainter than another still has as many digits as float32."""
    amplitudes, means, covariances = on(gpu, random_gaussians(2, SHAPE, scale_px=(0.6, 0.8)))
    means[0], means[1] = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([7.0, 8.0, 5.0])
    amplitudes[0] *= 1e-6
    both = voxelize(amplitudes, means, covariances, SHAPE)
    alone = voxelize(amplitudes[:1], means[:1], covariances[:1], SHAPE)
    torch.testing.assert_close(both[:3, :3, :3], alone[:3, :3, :3], rtol=1e-6, atol=0)


def test_gradients_do_not_depend_on_the_order(gpu):
    inputs = on("cpu", random_gaussians(11, SHAPE))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    straight = volume_and_gradients(voxelize, inputs, SHAPE, weights, torch.float32, gpu)
    permuted = volume_and_gradients(voxelize, [t[order] for t in inputs], SHAPE, weights, torch.float32, gpu)
    for name in ("amplitude", "mean", "covariance"):
        assert torch.equal(straight[name][order], permuted[name]), name

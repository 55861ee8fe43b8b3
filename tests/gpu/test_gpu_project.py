"""The Triton kernels of the projection against the reference in float64, forward and every gradient."""

from __future__ import annotations

import math
import types

import pytest
import torch

from gem3d.kernels.project import gpu as triton_version
from gem3d.kernels.project import project
from gem3d.kernels.project.reference import project_reference
from kernel_cases import relative_rms
from projection_cases import NAMES, Arguments, images_and_gradients, random_case

pytestmark = pytest.mark.gpu

# Warnings of numpy, in the interpreter.
NOT_FINITE = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.fixture
def reproducible():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_equals_reference(arguments: Arguments, box_size: int, device: torch.device) -> None:
    expected = images_and_gradients(project_reference, arguments, box_size, dtype=torch.float64)
    # Far enough out for the cutoff not to count.
    found = images_and_gradients(project, arguments, box_size, 1e-10, dtype=torch.float32, device=device)
    for name in NAMES:
        assert relative_rms(found[name], expected[name]) < 2e-5, name


@pytest.mark.parametrize(
    ("box_size", "sd_px", "spread_px"),
    [
        (16, (0.8, 2.5), 5.0),
        (15, (0.8, 2.5), 5.0),
        (17, (0.3, 0.3), 8.0),  # tiny
        (18, (0.3, 5.0), 6.0),  # anisotropic
        (10, (0.5, 3.0), 12.0),  # most of them off the edge
        (5, (1.0, 2.0), 2.0),  # narrower than a block
        (18, (8.0, 20.0), 7.0),  # wider than the image, in two blocks
    ],
)
def test_equals_reference(box_size, sd_px, spread_px, gpu):
    # 11 Gaussians fill no whole number of tiles.
    arguments = random_case(box_size, n=11, n_images=2, sd_px=sd_px, spread_px=spread_px)
    assert_equals_reference(arguments, box_size, gpu)


@pytest.mark.parametrize("scales_px", [(0.5, 0.5, 9.0), (0.35, 5.0, 5.0)], ids=["needle", "disc"])
def test_needles_and_discs(scales_px, gpu):
    amplitudes, means, _, rotations, shifts = random_case(1, n=3, n_images=3, sd_px=(1.0, 1.0), spread_px=5.0)
    frames = random_case(2, n=1, n_images=3, sd_px=(1.0, 1.0), spread_px=1.0)[3]
    full = frames @ torch.diag(torch.tensor(scales_px) ** 2) @ frames.mT
    six = torch.stack([full[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], dim=1)
    assert_equals_reference((amplitudes, means, six, rotations, shifts), 27, gpu)


def test_cut_at_the_ellipse(gpu):
    arguments = [torch.ones(1), torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])]
    arguments += [torch.eye(3)[None], torch.zeros(1, 2)]
    image = project(*(t.to(gpu) for t in arguments), 15, math.exp(-(3.5**2) / 2)).cpu()[0]
    pixel = torch.arange(15) - 7
    assert torch.equal(image > 0, pixel[:, None] ** 2 + pixel**2 < 3.5**2)


@pytest.mark.parametrize(("n", "n_images"), [(0, 2), (3, 0), (3, 1), (0, 0)])
def test_few_gaussians_and_images(n, n_images, gpu):
    arguments = random_case(4, n=3, n_images=1, sd_px=(0.8, 1.5), spread_px=2.0)
    a, m, c, r, s = arguments
    arguments = (a[:n], m[:n], c[:n], r.expand(n_images, 3, 3), s.expand(n_images, 2))
    found = images_and_gradients(project, arguments, 9, dtype=torch.float32, device=gpu)
    assert found["images"].shape == (n_images, 9, 9)
    if n * n_images:
        assert_equals_reference(arguments, 9, gpu)
    else:
        assert not any(t.any() for t in found.values())


def test_no_gradient_of_poses_where_none_is_needed(gpu):
    arguments = random_case(4, n=3, n_images=2, sd_px=(0.8, 1.5), spread_px=2.0)
    expected = images_and_gradients(project, arguments, 9, dtype=torch.float32, device=gpu)
    rotations, shifts = (t.to(gpu) for t in arguments[3:])
    found = images_and_gradients(
        lambda a, m, c, *_: project(a, m, c, rotations, shifts, 9),
        arguments,
        dtype=torch.float32,
        device=gpu,
    )
    for name in NAMES[:4]:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@NOT_FINITE
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gaussians_that_are_not_finite_touch_nothing(value, gpu):
    arguments = random_case(5, n=6, n_images=2, sd_px=(0.8, 1.5), spread_px=3.0)
    of_gaussians, poses = arguments[:3], arguments[3:]
    good = (*(t[3:] for t in of_gaussians), *poses)
    expected = images_and_gradients(project, good, 12, dtype=torch.float32, device=gpu)
    for spoilt, tensor in enumerate(of_gaussians):
        tensor.view(6, -1)[spoilt, -1] = value
    found = images_and_gradients(project, arguments, 12, dtype=torch.float32, device=gpu)
    for name in ("amplitude", "mean", "covariance"):
        assert not found[name][:3].any(), name
        found[name] = found[name][3:]
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@NOT_FINITE
def test_gaussians_that_are_not_positive_definite_touch_nothing(gpu):
    amplitudes, means, covariances, _, shifts = random_case(
        6, n=3, n_images=1, sd_px=(1.0, 1.5), spread_px=2.0
    )
    covariances[0] = torch.tensor([1.0, 1.0, 1.0, 2.0, 0.0, 0.0])
    covariances[1] = torch.tensor([-1.0, -1.0, 1.0, 0.0, 0.0, 0.0])
    covariances[2] = torch.tensor([1e-37, 1e-37, 1e-37, 0.0, 0.0, 0.0])
    means[2] = 0.0
    shifts[:] = 0.0
    arguments = (amplitudes, means, covariances, torch.eye(3)[None], shifts)
    found = images_and_gradients(project, arguments, 9, dtype=torch.float32, device=gpu)
    assert not any(t.any() for t in found.values())


def test_fresh_memory_is_never_read(monkeypatch, gpu):
    arguments = random_case(7, n=9, n_images=2, sd_px=(0.6, 1.5), spread_px=9.0)
    expected = images_and_gradients(project, arguments, 9, dtype=torch.float32, device=gpu)
    poisoned = types.ModuleType("torch")
    poisoned.__dict__.update(vars(torch))
    poisoned.empty = lambda *a, **k: torch.full(*a, fill_value=math.nan, **k)
    poisoned.empty_like = lambda t: torch.full_like(t, math.nan)
    monkeypatch.setattr(triton_version, "torch", poisoned)
    found = images_and_gradients(project, arguments, 9, dtype=torch.float32, device=gpu)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_reproducible_sum_has_no_order(reproducible, gpu):
    tensors = [t.to(gpu) for t in random_case(8, n=21, n_images=2, sd_px=(0.6, 1.5), spread_px=4.0)]
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0)).to(gpu)
    images = project(*tensors, 12)
    assert torch.equal(images, project(*(t[order] for t in tensors[:3]), *tensors[3:], 12))
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(project(*tensors, 12), images, rtol=1e-5, atol=1e-6)


def test_gradients_of_gaussians_do_not_depend_on_the_order(gpu):
    arguments = random_case(9, n=7, n_images=2, sd_px=(0.6, 1.5), spread_px=4.0)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    permuted = (*(t[order] for t in arguments[:3]), *arguments[3:])
    one = images_and_gradients(project, arguments, 12, dtype=torch.float32, device=gpu)
    other = images_and_gradients(project, permuted, 12, dtype=torch.float32, device=gpu)
    for name in ("amplitude", "mean", "covariance"):
        assert torch.equal(one[name][order], other[name]), name
    for name in ("rotation", "shift"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)

"""The fast projection against the plain formula, and the formula against what a projection must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.kernels.project import TAIL_CUTOFF, project
from gem3d.kernels.project.reference import project_reference
from gem3d.threads import available_threads, set_threads
from kernel_cases import relative_rms
from projection_cases import NAMES, images_and_gradients, random_case

CASES = pytest.mark.parametrize(
    ("box_size", "sd_px", "spread_px"),
    [
        (32, (0.8, 3.0), 10.0),
        (31, (0.8, 3.0), 10.0),
        (33, (0.3, 0.3), 14.0),  # tiny: most of the mass falls between pixels
        (32, (0.3, 8.0), 10.0),  # needles and discs
        (20, (0.5, 4.0), 25.0),  # most of them off the edge
        (7, (1.0, 2.0), 3.0),  # an image narrower than the kernel's block
        (64, (15.0, 40.0), 20.0),  # wider than the image
    ],
)


@CASES
def test_agrees_with_the_reference(box_size: int, sd_px: tuple[float, float], spread_px: float) -> None:
    arguments = random_case(box_size, n=60, n_images=3, sd_px=sd_px, spread_px=spread_px)
    images = project(*arguments, box_size)
    exact = project_reference(*(t.double() for t in arguments), box_size)
    assert images.shape == (3, box_size, box_size)
    # What the cutoff may leave out at a pixel: the sum of what each Gaussian may lose there; and float32.
    dropped = TAIL_CUTOFF * project_reference(
        arguments[0].double().abs(), *(t.double() for t in arguments[1:]), box_size
    )
    relative_rms = float((images - exact).norm() / exact.norm())
    assert relative_rms < 2e-5
    assert float((images - exact).abs().max()) < float(dropped.max()) * 20 + 1e-5 * float(exact.abs().max())


@pytest.mark.parametrize("box_size", [64, 65])
def test_mass_is_the_sum_of_pixels_in_every_view(box_size: int) -> None:
    arguments = random_case(1, n=50, n_images=12, sd_px=(1.0, 3.0), spread_px=9.0)
    sums = project(*arguments, box_size).double().sum(dim=(1, 2))
    mass = float(arguments[0].double().sum())
    assert float((sums / mass - 1).abs().max()) < 5e-5


def test_one_gaussian_lies_where_the_conventions_say() -> None:
    amplitude, mean = torch.ones(1), torch.tensor([[10.0, 0.0, 0.0]])
    covariance = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    psi_90 = Rotation.from_euler("ZYZ", [0, 0, 90], degrees=True).as_matrix().T
    rotations = torch.tensor(np.stack([np.eye(3), psi_90, np.eye(3)]), dtype=torch.float32)
    shifts = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-5.0, 2.0]])
    for size in (40, 41):
        images = project(amplitude, mean, covariance, rotations, shifts, size)
        peaks = [divmod(int(image.argmax()), size) for image in images]
        c = size // 2
        assert peaks == [(c, c + 10), (c - 10, c), (c + 2, c + 5)]  # (y, x)
        assert float(images[0].max()) == pytest.approx(1 / (2 * math.pi), rel=1e-5)


def test_no_gaussians_no_images_and_far_away() -> None:
    amplitudes, means, covariances, rotations, shifts = random_case(
        2, n=5, n_images=2, sd_px=(1.0, 2.0), spread_px=1.0
    )
    assert not project(amplitudes[:0], means[:0], covariances[:0], rotations, shifts, 8).any()
    assert project(amplitudes, means, covariances, rotations[:0], shifts[:0], 8).shape == (0, 8, 8)
    assert not project(amplitudes, means + 1e6, covariances, rotations, shifts, 8).any()
    assert project_reference(amplitudes, means, covariances, rotations[:0], shifts[:0], 8).shape == (0, 8, 8)


def test_not_a_number_harms_nothing_else() -> None:
    amplitudes, means, covariances, rotations, shifts = random_case(
        3, n=6, n_images=2, sd_px=(1.0, 2.0), spread_px=3.0
    )
    good = project(amplitudes[1:], means[1:], covariances[1:], rotations, shifts, 16)
    means[0, 1] = math.nan
    assert torch.equal(project(amplitudes, means, covariances, rotations, shifts, 16), good)


def test_wrong_arguments_are_refused() -> None:
    amplitudes, means, covariances, rotations, shifts = random_case(
        4, n=5, n_images=2, sd_px=(1.0, 2.0), spread_px=1.0
    )
    with pytest.raises(TypeError, match="means must be float32"):
        project(amplitudes, means.double(), covariances, rotations, shifts, 8)
    with pytest.raises(ValueError, match=r"covariances has shape \(5, 5\)"):
        project(amplitudes, means, covariances[:, :5], rotations, shifts, 8)
    with pytest.raises(ValueError, match="means has shape"):
        project(amplitudes, means[:4], covariances, rotations, shifts, 8)
    with pytest.raises(ValueError, match="shifts_px has shape"):
        project(amplitudes, means, covariances, rotations, shifts[:1], 8)
    with pytest.raises(ValueError, match="box_size"):
        project(amplitudes, means, covariances, rotations, shifts, 0)


def test_reference_gradients() -> None:
    arguments = random_case(5, n=2, n_images=2, sd_px=(1.0, 2.0), spread_px=1.5)
    inputs = [t.double().requires_grad_() for t in arguments]
    assert torch.autograd.gradcheck(lambda *t: project_reference(*t, 4), inputs)


@CASES
def test_gradients_agree_with_the_reference(
    box_size: int, sd_px: tuple[float, float], spread_px: float
) -> None:
    arguments = random_case(box_size, n=70, n_images=3, sd_px=sd_px, spread_px=spread_px)
    ours = images_and_gradients(project, arguments, box_size, 1e-9, dtype=torch.float32)
    exact = images_and_gradients(project_reference, arguments, box_size, dtype=torch.float64)
    for name in NAMES:
        assert relative_rms(ours[name], exact[name]) < 1e-4, name


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    arguments = random_case(5, n=200, n_images=4, sd_px=(0.8, 3.0), spread_px=10.0)
    found = []
    for n_threads in (1, 3):
        set_threads(n_threads)
        leaves = [t.clone().requires_grad_() for t in arguments]
        project(*leaves, 32).square().sum().backward()
        found.append([t.grad for t in leaves])
    set_threads(available_threads())
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)

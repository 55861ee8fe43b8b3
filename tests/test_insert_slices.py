"""Weighing and inserting slices, against the references."""

import pytest
import torch

from gem3d.kernels import insert_slices as kernel
from gem3d.kernels.insert_slices import reference
from gem3d.optics import contrast_transfer_function
from gem3d.threads import available_threads, set_threads
from kernel_cases import random_cameras, random_ctf_coefficients, random_rotations, random_slices


@pytest.mark.parametrize(("box_size", "radius"), [(16, 7), (15, 7), (32, 15), (32, 9)])
@pytest.mark.parametrize("with_ctf", [True, False])
def test_weighing_equals_reference(box_size, radius, with_ctf):
    n, step = 5, 1 / (box_size * 1.3)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, box_size, box_size, generator=generator)
    shifts = 3 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    coefficients = random_ctf_coefficients(n)
    weight = kernel.half_plane_weight(torch.rand(radius + 1, generator=generator))
    ky, kx = torch.arange(-radius, radius + 1)[:, None] * step, torch.arange(radius + 1) * step
    ctf = contrast_transfer_function(coefficients, kx, ky)
    if not with_ctf:
        coefficients, ctf = None, torch.ones_like(ctf)
    expected = reference.weigh_slices(torch.fft.rfft2(images.double()), ctf, shifts, weight.double())
    found = kernel.weigh_slices(torch.fft.rfft2(images), coefficients, shifts, weight, step)
    assert float((found - expected).norm() / expected.norm()) < 2e-5


@pytest.mark.parametrize("radius", [7, 15, 20])
@pytest.mark.parametrize("matrices_of", [random_rotations, random_cameras])
def test_insertion_equals_reference(radius, matrices_of):
    n = 9
    weighted = random_slices(n, radius)
    rotations = matrices_of(n)
    found = torch.zeros(kernel.accumulator_shape(radius))
    kernel.insert_slices(found, weighted, rotations)
    expected = torch.zeros(kernel.accumulator_shape(radius), dtype=torch.float64)
    reference.insert_slices(expected, weighted.double(), rotations)
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert float((found - expected).abs().max()) < 1e-4


def test_result_does_not_depend_on_the_number_of_threads():
    weighted = random_slices(6, 15, seed=2)
    results = []
    for n_threads in (1, 3):
        set_threads(n_threads)
        accumulator = torch.zeros(kernel.accumulator_shape(15))
        kernel.insert_slices(accumulator, weighted, random_rotations(6))
        results.append(accumulator)
    set_threads(available_threads())
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("factor", [1 + 4e-7, 1.001, 1.1, 40.0, 1e9])
def test_matrices_that_stretch_write_nothing_outside(factor):
    radius = 7
    shape = kernel.accumulator_shape(radius)
    guarded = torch.zeros(3, *shape)
    rotations = random_rotations(20) * factor
    kernel.insert_slices(guarded[1], random_slices(20, radius), rotations)
    assert float(guarded[0].abs().sum() + guarded[2].abs().sum()) == 0
    expected = torch.zeros(shape, dtype=torch.float64)
    reference.insert_slices(expected, random_slices(20, radius).double(), rotations)
    assert float((guarded[1] - expected).norm()) < 1e-6 * float(expected.norm())


def test_every_sample_is_inserted_once():
    radius = 12
    weighted = torch.ones(4, 2 * radius + 1, radius + 1, 3)
    accumulator = torch.zeros(kernel.accumulator_shape(radius))
    kernel.insert_slices(accumulator, weighted, random_rotations(4))
    ky, kx = torch.arange(-radius, radius + 1)[:, None], torch.arange(radius + 1)
    inside = (kx**2 + ky**2 < (radius + 0.5) ** 2) & ((kx > 0) | (ky >= 0))
    assert float(accumulator[..., 2].sum()) == pytest.approx(4 * float(inside.sum()), rel=1e-5)


def test_half_plane_weight_counts_each_pair_once():
    weight = kernel.half_plane_weight(torch.ones(8))
    ky, kx = torch.meshgrid(torch.arange(-7, 8), torch.arange(-7, 8), indexing="ij")
    whole_plane = (kx**2 + ky**2).double().sqrt().round() <= 7
    assert 2 * float(weight.sum()) == pytest.approx(float(whole_plane.sum()))


def test_wrong_accumulator_is_refused():
    with pytest.raises(ValueError, match="accumulator for radius 7"):
        kernel.insert_slices(torch.zeros(3, 3, 3, 3), torch.zeros(1, 15, 8, 3), torch.eye(3)[None])

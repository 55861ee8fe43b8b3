"""The Triton kernels that weigh and insert slices against the references in float64."""

from __future__ import annotations

import math

import pytest
import torch

from gem3d.kernels import insert_slices as kernel
from gem3d.kernels.backend import interprets_triton
from gem3d.kernels.insert_slices import cpu, reference
from gem3d.kernels.insert_slices import gpu as triton_version
from gem3d.optics import contrast_transfer_function
from kernel_cases import (
    random_cameras,
    random_ctf_coefficients,
    random_rotations,
    random_slices,
    relative_rms,
)

pytestmark = pytest.mark.gpu

RADIUS = 5


@pytest.fixture(params=[False, True], ids=["atomic", "reproducible"])
def either_way(request, monkeypatch):
    """Whether sums are reproducible."""
    if interprets_triton():
        # The interpreter's time goes by programs, not by their size.
        monkeypatch.setattr(triton_version, "GATHER_BLOCK", 2048)
        monkeypatch.setattr(triton_version, "INSERT_BLOCK", 256)
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


def inserted(weighted, rotations, device, accumulator=None):
    radius = weighted.shape[2] - 1
    if accumulator is None:
        accumulator = torch.zeros(kernel.accumulator_shape(radius))
    accumulator = accumulator.to(device, copy=True)
    kernel.insert_slices(accumulator, weighted.to(device), rotations.to(device))
    return accumulator.cpu()


def expected_of(weighted, rotations):
    accumulator = torch.zeros(kernel.accumulator_shape(weighted.shape[2] - 1), dtype=torch.float64)
    reference.insert_slices(accumulator, weighted.double(), rotations)
    return accumulator


@pytest.mark.parametrize(("box_size", "radius"), [(16, 7), (15, 7), (32, 9)])
@pytest.mark.parametrize("with_ctf", [True, False])
def test_weighing_equals_reference(box_size, radius, with_ctf, gpu):
    n, step = 3, 1 / (box_size * 1.3)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, box_size, box_size, generator=generator)
    shifts = 3 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    coefficients = random_ctf_coefficients(n)
    weight = kernel.half_plane_weight(torch.rand(radius + 1, generator=generator).to(gpu))
    ky, kx = torch.arange(-radius, radius + 1)[:, None] * step, torch.arange(radius + 1) * step
    ctf = contrast_transfer_function(coefficients, kx, ky)
    if not with_ctf:
        ctf = torch.ones_like(ctf)
    expected = reference.weigh_slices(torch.fft.rfft2(images.double()), ctf, shifts, weight.double().cpu())
    on_device = coefficients.to(gpu) if with_ctf else None
    transforms = torch.fft.rfft2(images).to(gpu)
    found = kernel.weigh_slices(transforms, on_device, shifts.to(gpu), weight, step).cpu()
    assert relative_rms(found, expected) < 2e-5


def test_weighing_keeps_the_phase_of_far_shifts(gpu):
    """Shifts of many boxes, so that the phase is thousands of turns."""
    radius, box_size = 7, 16
    transforms = torch.randn(2, box_size, box_size // 2 + 1, 2, generator=torch.Generator().manual_seed(0))
    transforms = torch.view_as_complex(transforms)
    shifts = torch.tensor([[4000.3, -7000.7], [123456.9, 0.1]], dtype=torch.float64)
    weight = kernel.half_plane_weight(torch.ones(radius + 1))
    ctf = torch.ones(2, 2 * radius + 1, radius + 1, dtype=torch.float64)
    expected = reference.weigh_slices(transforms.to(torch.complex128), ctf, shifts, weight.double())
    found = kernel.weigh_slices(transforms.to(gpu), None, shifts.to(gpu), weight.to(gpu), 0.1).cpu()
    assert relative_rms(found, expected) < 1e-6


def test_weighing_fills_memory_that_it_is_given(gpu):
    radius, box_size = 5, 12
    transforms = torch.view_as_complex(torch.randn(2, box_size, box_size // 2 + 1, 2)).to(gpu)
    shifts, weight = torch.zeros(2, 2, device=gpu), kernel.half_plane_weight(torch.ones(radius + 1).to(gpu))
    out = torch.full((3, *kernel.slice_shape(radius)), math.nan, device=gpu)
    kernel.weigh_slices(transforms, None, shifts, weight, 0.1, out=out[:2])
    assert torch.equal(out[:2], kernel.weigh_slices(transforms, None, shifts, weight, 0.1))
    assert bool(out[2].isnan().all())


@pytest.mark.parametrize("radius", [1, 4, 7])
@pytest.mark.parametrize("matrices_of", [random_rotations, random_cameras])
def test_insertion_equals_reference(radius, matrices_of, either_way, gpu):
    """Views along the axes first: their samples lie on the borders of cells."""
    weighted, rotations = random_slices(6, radius), matrices_of(6)
    expected = expected_of(weighted, rotations)
    found = inserted(weighted, rotations, gpu)
    assert relative_rms(found, expected) < 1e-6
    assert float((found - expected).abs().max()) < 1e-5


def test_insertion_adds_to_what_is_there(either_way, gpu):
    weighted, rotations = random_slices(4, RADIUS), random_rotations(4)
    before = torch.randn(kernel.accumulator_shape(RADIUS), generator=torch.Generator().manual_seed(3))
    found = inserted(weighted, rotations, gpu, before)
    torch.testing.assert_close(
        found, (before + expected_of(weighted, rotations)).float(), rtol=1e-5, atol=1e-5
    )


def test_folded_samples_are_conjugated(either_way, gpu):
    """Turned by 180 degrees about y, x becomes -x: every sample is folded through the origin."""
    weighted = random_slices(1, RADIUS)
    turned = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))[None]
    found = inserted(weighted, turned, gpu)
    extent = 2 * RADIUS + 1
    kx, ky = 3, 2
    value = weighted[0, ky + RADIUS, kx] * torch.tensor([1.0, -1.0, 1.0])
    torch.testing.assert_close(found[extent, extent - 2 * ky, 2 * kx], value)


def test_every_sample_is_inserted_once(either_way, gpu):
    """Neither those beyond the radius nor the repeated half of kx = 0, which hold NaN here."""
    weighted = torch.ones(4, 2 * RADIUS + 1, RADIUS + 1, 3)
    ky, kx = torch.arange(-RADIUS, RADIUS + 1)[:, None], torch.arange(RADIUS + 1)
    inside = (kx**2 + ky**2 < (RADIUS + 0.5) ** 2) & ((kx > 0) | (ky >= 0))
    weighted[:, ~inside] = math.nan
    found = inserted(weighted, random_rotations(4), gpu)
    assert float(found[..., 2].sum()) == pytest.approx(4 * float(inside.sum()), rel=1e-5)


def test_insertion_is_the_adjoint_of_interpolation(either_way, gpu):
    """<insert(slice), volume> = <slice, samples of the volume>, with the volume's weights alone."""
    rotations = random_rotations(4)[3:]
    weighted = random_slices(1, RADIUS)
    volume = torch.randn(kernel.accumulator_shape(RADIUS)[:3], dtype=torch.float64)
    left = float((inserted(weighted, rotations, gpu)[..., 2].double() * volume).sum())
    extent = 2 * RADIUS + 1
    right = 0.0
    for row in range(2 * RADIUS + 1):
        for kx in range(RADIUS + 1):
            ky = row - RADIUS
            if kx**2 + ky**2 >= (RADIUS + 0.5) ** 2 or (kx == 0 and ky < 0):
                continue
            point = 2 * (kx * rotations[0, 0] + ky * rotations[0, 1])
            point = -point if point[0] < 0 else point
            x, y, z = point.floor().long().tolist()
            fx, fy, fz = (point - point.floor()).tolist()
            cube = volume[z + extent : z + extent + 2, y + extent : y + extent + 2, x : x + 2]
            for weight_of in ((1 - fz, fz), (1 - fy, fy), (1 - fx, fx)):
                cube = weight_of[0] * cube[0] + weight_of[1] * cube[1]
            right += float(weighted[0, row, kx, 2]) * float(cube)
    assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


def test_rotations_that_are_not_finite_or_too_long_write_nothing_outside(either_way, gpu):
    rotations = random_rotations(3)
    rotations[1], rotations[2] = math.nan, 1e6 * rotations[2]
    shape = kernel.accumulator_shape(RADIUS)
    guarded = torch.zeros(3 * math.prod(shape), device=gpu)
    accumulator = guarded[math.prod(shape) : 2 * math.prod(shape)].view(shape)
    kernel.insert_slices(accumulator, random_slices(3, RADIUS).to(gpu), rotations.to(gpu))
    assert float(guarded[: math.prod(shape)].abs().sum() + guarded[2 * math.prod(shape) :].abs().sum()) == 0
    assert bool(accumulator.isfinite().all())


def test_no_slices(either_way, gpu):
    found = inserted(random_slices(0, RADIUS), torch.zeros(0, 3, 3, dtype=torch.float64), gpu)
    assert float(found.abs().sum()) == 0


@pytest.mark.parametrize("either_way", [True], indirect=True)
def test_reproducible_sum_does_not_depend_on_the_batches(either_way, gpu):
    weighted, rotations = random_slices(6, RADIUS), random_rotations(6)
    whole = inserted(weighted, rotations, gpu)
    parts = inserted(weighted[:2], rotations[:2], gpu)
    assert torch.equal(whole, inserted(weighted[2:], rotations[2:], gpu, parts))


def test_agrees_with_the_cpu(either_way, gpu):
    weighted, rotations = random_slices(5, RADIUS), random_rotations(5)
    expected = torch.zeros(kernel.accumulator_shape(RADIUS))
    cpu.insert_slices(expected.numpy(), weighted.numpy(), rotations.numpy())
    torch.testing.assert_close(inserted(weighted, rotations, gpu), expected, rtol=1e-5, atol=1e-5)

"""Comparing slices with images: the reference against finite differences, the kernel against the reference."""

import math

import numpy as np
import pytest
import torch

from gem3d.kernels import compare_slices as kernel
from gem3d.kernels.compare_slices import reference
from gem3d.kernels.insert_slices import half_plane_weight
from kernel_cases import random_ctf_coefficients, random_rotations

PIXEL_A = 1.3


def case(box_size, radius, n=5, seed=0, volume_radius=None):
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(
        kernel.volume_shape(volume_radius or radius), generator=generator, dtype=torch.float64
    )
    transforms = torch.fft.rfft2(torch.randn(n, box_size, box_size, generator=generator).double())
    weight = half_plane_weight(torch.rand(radius + 1, generator=generator) + 0.1).double()
    return {
        "volume": volume,
        "transforms": transforms,
        "rotations": random_rotations(n, seed),
        "shifts_px": 3 * torch.randn(n, 2, generator=generator, dtype=torch.float64),
        "ctf_coefficients": random_ctf_coefficients(n, seed),
        "defocus_rates": torch.full((n,), -math.pi * 0.0197, dtype=torch.float64),
        "contrasts": 0.5 + torch.rand(n, generator=generator, dtype=torch.float64),
        "sample_weight": weight,
    }


def units_per_pixel(step):
    return torch.tensor([step**2] * 3 + [step**4] * 5 + [1.0, step**2] + [1.0] * 5, dtype=torch.float64)


def by_reference(given, box_size):
    step = 1 / (box_size * PIXEL_A)
    units = units_per_pixel(step)
    arguments = {k: v for k, v in given.items() if k not in ("ctf_coefficients", "defocus_rates")}
    return reference.compare_slices(
        **arguments,
        coefficients=given["ctf_coefficients"] * units,
        defocus_rates=given["defocus_rates"] * step**2,
    )


def by_kernel(given, box_size):
    arguments = dict(given)
    for name in ("volume", "sample_weight"):
        arguments[name] = given[name].float()
    arguments["transforms"] = given["transforms"].to(torch.complex64)
    return kernel.compare_slices(**arguments, frequency_step_per_A=1 / (box_size * PIXEL_A))


@pytest.mark.parametrize(("box_size", "radius", "more"), [(16, 7, 0), (15, 7, 0), (32, 15, 0), (33, 9, 3)])
def test_kernel_equals_reference(box_size, radius, more):
    given = case(box_size, radius, volume_radius=radius + more)
    # On the axes the slice runs along the borders of cells, where the derivative of an interpolation is not defined.
    given["rotations"] = random_rotations(10)[5:]
    found = by_kernel(given, box_size)
    loss, gradient, normal = by_reference(given, box_size)
    assert float((found.loss - loss).abs().max() / loss.abs().max()) < 1e-5
    for ours, expected in ((found.gradient, gradient), (found.normal, normal)):
        scale = normal.diagonal(dim1=1, dim2=2).sqrt()
        scale = scale if ours.ndim == 2 else scale[:, :, None] * scale[:, None, :]
        assert float(((ours - expected) / scale).abs().max()) < 1e-4 * (1 if ours.ndim == 3 else 30)


def test_views_along_the_axes_have_the_right_loss():
    given = case(20, 9)
    found = by_kernel(given, 20)
    loss, _, _ = by_reference(given, 20)
    assert float((found.loss - loss).abs().max() / loss.abs().max()) < 1e-5


def test_reference_gradient_equals_finite_differences():
    box_size, radius, step = 16, 6, 1e-6
    given = case(box_size, radius, n=3, seed=3)
    given["rotations"] = random_rotations(10)[7:]
    weight = given["sample_weight"][..., None]
    b = 1  # magnified
    data = given["transforms"][b, torch.arange(-radius, radius + 1) % box_size][:, : radius + 1]
    data = torch.view_as_real(data)
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1e3, 1.0], dtype=torch.float64)

    def loss(change):
        f = 1 / (box_size * PIXEL_A)
        units = units_per_pixel(f)
        slice_ = torch.view_as_real(
            reference.model(
                given["volume"], given["rotations"][b], given["shifts_px"][b],
                given["ctf_coefficients"][b] * units, given["defocus_rates"][b] * f**2, given["contrasts"][b],
                change, box_size, radius,
            )
        )  # fmt: skip
        return float((weight * ((slice_ - data) ** 2 - data**2)).sum())

    expected = []
    for p in range(kernel.N_PARAMETERS):
        change = torch.zeros(kernel.N_PARAMETERS, dtype=torch.float64)
        change[p] = step * scale[p]
        expected.append((loss(change) - loss(-change)) / (2 * step))
    at_zero, gradient, _ = by_reference(given, box_size)
    assert float(at_zero[b]) == pytest.approx(loss(torch.zeros(7, dtype=torch.float64)), rel=1e-9)
    np.testing.assert_allclose((gradient[b] * scale).numpy(), expected, rtol=1e-5, atol=1e-4)


def test_a_volume_that_is_too_small_is_refused():
    given = case(16, 7, volume_radius=5)
    with pytest.raises(ValueError, match="no slices up to radius 7"):
        by_kernel(given, 16)

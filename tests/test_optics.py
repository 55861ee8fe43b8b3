"""The contrast transfer function against its textbook form and its symmetries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gem3d.optics import (
    N_CTF_COEFFICIENTS,
    camera_matrices,
    contrast_transfer_function,
    ctf_coefficients,
    electron_wavelength_A,
)
from gem3d.particles import OpticsGroup, Particles


def one_particle(**changes: Any) -> Particles:
    particle = Particles(
        rotations=np.eye(3)[None],
        shifts_A=np.zeros((1, 2)),
        defocus_A=np.array([[15_000.0, 13_000.0]]),
        astigmatism_deg=np.array([25.0]),
        phase_shift_deg=np.zeros(1),
        ctf_bfactor_A2=np.zeros(1),
        ctf_scale=np.ones(1),
        optics_index=np.zeros(1, dtype=np.int32),
        half_set=np.ones(1, dtype=np.int8),
        contrast=np.ones(1),
        micrograph_index=np.zeros(1, np.int32),
        stack_index=np.zeros(1, dtype=np.int32),
        image_index=np.zeros(1, dtype=np.int32),
        source_row=np.zeros(1, dtype=np.int32),
        stacks=("a.mrcs",),
        optics=(OpticsGroup("one", 1.2, 64, 300.0, 2.7, 0.1),),
        source=Path("a.star"),
    )
    return replace(particle, **{name: np.atleast_1d(value) for name, value in changes.items()})


def frequencies() -> tuple[torch.Tensor, torch.Tensor]:
    k = torch.tensor(np.fft.fftfreq(64, d=1.2))
    return k[None, :], k[:, None]


def ctf_of(particles: Particles) -> torch.Tensor:
    return contrast_transfer_function(torch.tensor(ctf_coefficients(particles)), *frequencies())


def test_wavelengths() -> None:
    assert electron_wavelength_A(300.0) == pytest.approx(0.0196874, abs=1e-6)
    assert electron_wavelength_A(200.0) == pytest.approx(0.0250793, abs=1e-6)


def test_agrees_with_the_angular_formula() -> None:
    particle = one_particle(phase_shift_deg=30.0, ctf_bfactor_A2=40.0, ctf_scale=0.8)
    kx, ky = (k.numpy() for k in frequencies())
    s, theta = kx**2 + ky**2, np.arctan2(ky, kx)
    wavelength_A, cs_A = electron_wavelength_A(300.0), 2.7e7
    defocus = 14_000 + 1_000 * np.cos(2 * (theta - np.deg2rad(25.0)))
    gamma = -np.pi * wavelength_A * defocus * s + np.pi / 2 * cs_A * wavelength_A**3 * s**2
    expected = -np.sin(gamma - np.deg2rad(30.0) - np.arcsin(0.1)) * np.exp(-40.0 * s / 4) * 0.8
    assert ctf_coefficients(particle).shape == (1, N_CTF_COEFFICIENTS)
    np.testing.assert_allclose(ctf_of(particle)[0].numpy(), expected, atol=1e-12)


def test_positive_at_the_origin() -> None:
    assert float(ctf_of(one_particle())[0, 0, 0]) == pytest.approx(0.1)


def test_exchanged_defoci_are_a_turn_of_90_degrees() -> None:
    exchanged = one_particle(defocus_A=[[13_000.0, 15_000.0]], astigmatism_deg=115.0)
    torch.testing.assert_close(ctf_of(exchanged), ctf_of(one_particle()))
    assert (
        float((ctf_of(exchanged) - ctf_of(replace(exchanged, astigmatism_deg=np.array([25.0])))).norm()) > 1
    )


@pytest.mark.parametrize(("angle_deg", "same_deg"), [(180.0, 0.0), (25.0, -155.0), (205.0, 25.0)])
def test_half_turns_change_nothing(angle_deg: float, same_deg: float) -> None:
    torch.testing.assert_close(
        ctf_of(one_particle(astigmatism_deg=angle_deg)), ctf_of(one_particle(astigmatism_deg=same_deg))
    )


def test_phase_shift_of_90_degrees() -> None:
    # gamma - pi/2 turns -sin into +cos: at the origin cos(asin w)
    shifted = ctf_of(one_particle(phase_shift_deg=90.0))
    assert float(shifted[0, 0, 0]) == pytest.approx(np.sqrt(1 - 0.1**2))
    plain = ctf_of(one_particle())
    torch.testing.assert_close(plain**2 + shifted**2, torch.ones_like(plain))


def test_envelope() -> None:
    kx, ky = frequencies()
    damped = ctf_of(one_particle(ctf_bfactor_A2=100.0))
    torch.testing.assert_close(damped[0], ctf_of(one_particle())[0] * torch.exp(-25.0 * (kx**2 + ky**2)))


def test_a_magnified_image_shows_other_frequencies() -> None:
    matrix = np.array([[1.02, 0.01], [-0.005, 0.97]])
    plain = one_particle(phase_shift_deg=30.0, ctf_bfactor_A2=40.0)
    (group,) = plain.optics
    magnified = replace(plain, optics=(replace(group, magnification=tuple(matrix.ravel().tolist())),))
    kx, ky = torch.meshgrid(*(torch.linspace(-0.4, 0.4, 9, dtype=torch.float64),) * 2, indexing="xy")
    u, v = (row[0] * kx + row[1] * ky for row in matrix)
    found, expected = (
        contrast_transfer_function(torch.tensor(ctf_coefficients(particles)), *frequency)
        for particles, frequency in ((magnified, (kx, ky)), (plain, (u, v)))
    )
    torch.testing.assert_close(found, expected)
    # A slice at A^T M k is one at (M^T A)^T k, and the third row is that of the pose.
    pose = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    camera = camera_matrices(replace(magnified, rotations=pose[None]))[0]
    k = np.array([0.1, -0.3])
    np.testing.assert_allclose(camera[:2].T @ k, pose.T @ [*(matrix @ k), 0], rtol=1e-12)
    np.testing.assert_array_equal(camera[2], pose[2])


def test_each_particle_has_its_group() -> None:
    groups = (OpticsGroup("a", 1.2, 64, 300.0, 2.7, 0.1), OpticsGroup("b", 1.2, 64, 200.0, 1.4, 0.07))
    particles = one_particle()
    both = replace(
        particles.subset(np.array([0, 0])), optics=groups, optics_index=np.array([1, 0], dtype=np.int32)
    )
    ctf = ctf_of(both)
    torch.testing.assert_close(ctf[1], ctf_of(particles)[0])
    assert float(ctf[0, 0, 0]) == pytest.approx(0.07)


def test_gradients_are_finite_without_astigmatism() -> None:
    coefficients = torch.tensor(ctf_coefficients(one_particle(defocus_A=[[15_000.0, 15_000.0]])))
    kx, ky = frequencies()
    kx, ky = kx.clone().requires_grad_(), ky.clone().requires_grad_()
    coefficients.requires_grad_()
    contrast_transfer_function(coefficients, kx, ky).square().sum().backward()
    for tensor in (coefficients, kx, ky):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
    values = [3.0, -1.0, 2.0, 1.5, 0.5, 2.5, -0.5, 1.3, -0.1, 0.3, 0.9, 1.1, 0.2, -0.1, 0.9]
    small = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    k = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, x: contrast_transfer_function(c, x[None], x[:, None]), (small, k)
    )

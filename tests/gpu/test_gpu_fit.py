"""Both fits on a GPU against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gem3d.fit.adam import Adam
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator, voxelize_on
from gem3d.fit.volume import fit_operators
from gem3d.gaussians import Gaussians
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, slice_shape

pytestmark = pytest.mark.gpu

BOX, PIXEL_A, RADIUS = 16, 2.0, 7
HALF_WIDTHS_A = ((-9.0, 9.0), (-8.0, 10.0), (-9.0, 7.0))


def equations(seed: int) -> NormalEquations:
    """Of slices of noise at random poses."""
    generator = torch.Generator().manual_seed(seed)
    n = 12
    rotations = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator, dtype=torch.float64))[0]
    weighted = torch.randn(n, *slice_shape(RADIUS), generator=generator)
    weighted[..., 2] = weighted[..., 2].square() + 1
    weighted *= half_plane_weight(torch.ones(RADIUS + 1))[..., None]
    found = NormalEquations.zeros(BOX, PIXEL_A, RADIUS)
    insert_slices(found.accumulator, weighted, rotations)
    return NormalEquations(found.accumulator, BOX, PIXEL_A, n)


@pytest.fixture(scope="module")
def pair() -> tuple[NormalEquations, NormalEquations]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "0")
        return equations(0), equations(1)


def operators(pair: tuple[NormalEquations, ...], device: torch.device) -> tuple[NormalOperator, ...]:
    grid = Grid.around(BOX, PIXEL_A, BOX, HALF_WIDTHS_A)
    return tuple(NormalOperator(each.to(device), grid) for each in pair)


def start() -> Gaussians:
    rng = np.random.default_rng(0)
    n = 5
    return Gaussians(
        torch.from_numpy(rng.uniform(-5, 5, (n, 3))).float(),
        torch.full((n, 3), 3.0).log(),
        torch.from_numpy(rng.normal(size=(n, 4))).float(),
        torch.zeros(n),
        50.0,
    )


def test_the_operator_and_linear_map_are_those_of_the_cpu(
    gpu: torch.device, pair: tuple[NormalEquations, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = torch.randn(operators(pair, torch.device("cpu"))[0].grid.shape)
    results = []
    for on_cpu in (True, False):
        device = torch.device("cpu") if on_cpu else gpu
        with monkeypatch.context() as patch:
            if on_cpu:
                patch.setenv("TRITON_INTERPRET", "0")
            operator, judge = operators(pair, device)
            both = operator + judge
            loss, gradient, judged = operator.loss_and_gradient(volume.to(device), judge)
            by_shell = both.loss_by_shell(volume.to(device))
            linear = pair[0].to(device).linear_map(pair[1].to(device))
        assert gradient.device.type == device.type
        results.append((loss, gradient.cpu(), judged, by_shell, linear.values, linear.coverage))
    for expected, found in zip(*results, strict=True):
        found, expected = (torch.as_tensor(value).double() for value in (found, expected))
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


def test_a_fit_takes_the_steps_of_the_cpu(
    gpu: torch.device, pair: tuple[NormalEquations, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gem3d.fit.volume.MAX_STEPS", 4)
    monkeypatch.setattr("gem3d.fit.volume.FOLD_STEPS", 1)
    fits = []
    for on_cpu in (True, False):
        device = torch.device("cpu") if on_cpu else gpu
        with monkeypatch.context() as patch:
            if on_cpu:
                patch.setenv("TRITON_INTERPRET", "0")
            fits.append(fit_operators(start(), *operators(pair, device)))
    expected, found = fits
    assert found.gaussians.centres_A.device.type == "cpu"
    for one, other in zip(found.rounds, expected.rounds, strict=True):
        assert one.steps == other.steps
        assert np.allclose(one.training_loss, other.training_loss, rtol=1e-3)
        assert np.allclose(one.held_out_loss, other.held_out_loss, rtol=1e-3)
    for name, parameter in found.gaussians.parameters.items():
        torch.testing.assert_close(parameter, expected.gaussians.parameters[name], rtol=1e-2, atol=1e-2)


def test_a_gradient_reaches_the_parameters_and_adam_moves_them(
    gpu: torch.device, pair: tuple[NormalEquations, ...]
) -> None:
    operator, _ = operators(pair, gpu)
    gaussians = start().to(gpu)
    leaves = {name: t.clone().requires_grad_() for name, t in gaussians.parameters.items()}
    volume = voxelize_on(gaussians.replaced(leaves), operator.grid)
    volume.sum().backward()
    adam = Adam(list(leaves.values()), [0.1] * 4, (0.6, 0.98))
    adam.set_rates([1.0] * 4)
    adam.step()
    assert all(leaf.device.type == gpu.type for leaf in leaves.values())
    assert all(mean.device.type == gpu.type for mean in adam.state().values())
    assert not torch.equal(leaves["raw_masses"].detach(), gaussians.raw_masses)

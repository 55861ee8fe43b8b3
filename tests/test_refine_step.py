"""The pieces of the local refinement: slices of a map, Gauss-Newton steps, and the widths of the prior."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gem3d.kernels.insert_slices import PADDING, half_plane_weight
from gem3d.optics import NO_MAGNIFICATION, ctf_coefficients, defocus_rates
from gem3d.particles import Particles
from gem3d.refine.estimates import Estimates
from gem3d.refine.images import ImagesInHand
from gem3d.refine.prior import Marginal, estimate_widths, group_means, marginal
from gem3d.refine.search import search_and_refine, turns_within
from gem3d.refine.slices import transform_for_slices
from gem3d.refine.step import Refined, refine_batch
from gem3d.simulate import forward_model, noise_free_images
from gem3d.simulate_particles import draw_particles, perturb_particles
from gem3d.structures import packaged_structure

BOX, PIXEL_A = 48, 4.4
INFINITE = math.inf
Matrix = tuple[float, float, float, float]
POSES = torch.tensor([1e-4] * 5 + [INFINITE] * 2, dtype=torch.float64)
"""Next to no prior on poses and shifts; defocus and contrast stay."""


@pytest.mark.parametrize("box", [16, 17])
def test_transform_of_a_map(box: int) -> None:
    """Against the Fourier sum; the division by the kernel's transform undone."""
    density = torch.randn(box, box, box, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(1, 0.2, 6)
    found = torch.view_as_complex(transform_for_slices(density, weight))
    r = torch.arange(box, dtype=torch.float64) - box // 2
    sinc = torch.sinc(r / (PADDING * box)) ** 2
    corrected = density / (sinc[:, None, None] * sinc[:, None] * sinc)
    extent = found.shape[2] - 1
    for z, y, x in ((0, 0, 0), (3, -2, 1), (-7, 4, 5), (-extent, 0, extent)):
        phase = -2j * math.pi / (PADDING * box) * (z * r[:, None, None] + y * r[:, None] + x * r)
        shell = math.hypot(z, y, x) / PADDING
        expected = complex((corrected * torch.exp(phase)).sum()) * np.interp(shell, range(6), weight.numpy())
        assert abs(complex(found[z + extent, y + extent, x]) - expected) < 1e-3 * float(density.norm())


class Case:
    """Images of the packaged structure, and the map that they are images of."""

    def __init__(
        self, n: int, noise: float = 0.0, seed: int = 0, radius: int = 20, matrix: Matrix = NO_MAGNIFICATION
    ) -> None:
        rng = np.random.default_rng(seed)
        model = forward_model(packaged_structure(), BOX, PIXEL_A)
        true: Particles = draw_particles(n, BOX, PIXEL_A, rng, source=None, stack="none.mrcs")
        self.true = replace(true, optics=(replace(true.optics[0], magnification=matrix),))
        images = noise_free_images(model, self.true)
        self.power = max(noise, 0.01) ** 2 * float(images.var()) * BOX * BOX
        images += (
            noise
            * float(images.std())
            * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        )
        self.transforms = torch.fft.rfft2(images)
        self.density = torch.from_numpy(model.truth())
        self.radius, self.rng = radius, rng

    def images(self, radius: int | None = None) -> ImagesInHand:
        radius = radius or self.radius
        n = len(self.true)
        return ImagesInHand(
            torch.arange(n),
            self.transforms,
            torch.from_numpy(ctf_coefficients(self.true)),
            torch.from_numpy(defocus_rates(self.true)),
            transform_for_slices(self.density, torch.ones(radius + 1)),
            half_plane_weight(torch.full((radius + 1,), 1 / self.power)),
            1 / (BOX * PIXEL_A),
        )

    def estimates(self, particles: Particles) -> Estimates:
        defocus = torch.from_numpy((particles.defocus_A - self.true.defocus_A)[:, 0])
        start = Estimates.start(
            torch.from_numpy(particles.rotations), torch.from_numpy(particles.shifts_A / PIXEL_A)
        )
        return replace(start, defocus_A=defocus)

    def perturbed(self, **errors: float) -> Estimates:
        return self.estimates(perturb_particles(self.true, self.rng, **errors))

    def errors(self, estimates: Estimates) -> tuple[torch.Tensor, torch.Tensor]:
        """Angles in degrees and shifts in pixels, `(n,)` each."""
        distance = estimates.distance_from(self.estimates(self.true))
        return torch.rad2deg(distance[:, :3].norm(dim=1)), distance[:, 3:5].norm(dim=1)


def off_by(start: Estimates, angle_deg: float, shift_px: float, seed: int) -> Estimates:
    """Every particle exactly so far off, in directions at random."""
    generator = torch.Generator().manual_seed(seed)
    change = torch.zeros(len(start), 7, dtype=torch.float64)
    turn, shift = (torch.randn(len(start), n, generator=generator).double() for n in (3, 2))
    change[:, :3] = math.radians(angle_deg) * turn / turn.norm(dim=1, keepdim=True)
    change[:, 3:5] = shift_px * shift / shift.norm(dim=1, keepdim=True)
    return start.changed(change)


@pytest.mark.parametrize("matrix", [NO_MAGNIFICATION, (1.03, 0.02, -0.01, 0.98)])
def test_noise_free_images_lead_back_from_5_degrees_and_3_pixels(matrix: Matrix) -> None:
    case = Case(60, matrix=matrix)
    begin = off_by(case.estimates(case.true), 5.0, 3.0, seed=1)
    # As the rounds do: coarse shells first.
    found = refine_batch(case.images(6).compare, begin, begin, POSES).estimates
    for radius in (12, 20):
        found = refine_batch(case.images(radius).compare, found, begin, POSES).estimates
    angles, shifts = case.errors(found)
    assert float(angles.max()) < 0.2
    assert float(shifts.max()) < 0.05


def test_a_search_leads_back_from_further_away() -> None:
    case = Case(20)
    begin = off_by(case.estimates(case.true), 14.0, 1.0, seed=2)
    found = search_and_refine(case.images(12), begin, begin, POSES, 16.0)
    angles, _ = case.errors(found.estimates)
    assert float((angles < 1).double().mean()) >= 0.9
    alone = refine_batch(case.images(12).compare, begin, begin, POSES)
    assert bool((found.objective <= alone.objective + 1e-9).all())


def test_turns_of_a_search_fill_the_ball() -> None:
    turns = turns_within(10.0)
    assert 150 < len(turns) < 400
    assert float(turns[0].norm()) == 0
    assert float(torch.rad2deg(turns.norm(dim=1).max())) == pytest.approx(10, abs=1e-6)


def test_defocus_and_contrast_are_found() -> None:
    case = Case(40)
    begin = case.perturbed(defocus_error_A=400.0)
    begin.contrasts.mul_(0.7)
    everything = torch.full((7,), 1e-6, dtype=torch.float64)
    everything[5] = 1e-8
    found = refine_batch(case.images().compare, begin, begin, everything).estimates
    assert float(found.defocus_A.abs().max()) < 20
    assert float((found.contrasts - 1).abs().max()) < 0.01


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    noise=st.floats(0.3, 30),
    angle=st.floats(0, 20),
    width=st.floats(0.003, 1),
)
def test_no_likelihood_gets_worse(seed: int, noise: float, angle: float, width: float) -> None:
    case = Case(8, noise, seed=seed % 7)
    begin = off_by(case.estimates(case.true), angle, 1.0, seed)
    precision = torch.tensor([1 / width**2] * 3 + [1.0] * 2 + [1e-5, 100.0], dtype=torch.float64)
    images = case.images()
    found = refine_batch(images.compare, begin, begin, precision)
    before = images.compare(torch.arange(8), begin).loss
    assert bool((found.loss <= before + 1e-6 * before.abs()).all())
    again = images.compare(torch.arange(8), found.estimates)
    torch.testing.assert_close(again.loss, found.loss)
    torch.testing.assert_close(found.estimates.distance_from(begin), found.distance)


def test_fixed_parameters_stay() -> None:
    case = Case(10, noise=1.0)
    begin = case.perturbed(angle_error_deg=1.0, defocus_error_A=100.0)
    found = refine_batch(case.images().compare, begin, begin, POSES).estimates
    assert torch.equal(found.defocus_A, begin.defocus_A)
    assert torch.equal(found.contrasts, begin.contrasts)
    assert not torch.equal(found.rotations, begin.rotations)


def synthetic(n: int, widths: torch.Tensor, seed: int = 0):  # type: ignore[no-untyped-def]
    """Particles whose log likelihood is exactly a parabola, with tops that scatter by the widths."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([30.0, 30, 50, 2, 2, 0.005, 12], dtype=torch.float64)
    factor = torch.randn(n, 7, 9, generator=generator).double() * scale[:, None]
    normal = factor @ factor.mT / 9
    truth = torch.randn(n, 7, generator=generator).double() * widths
    noise = (
        torch.linalg.cholesky(torch.linalg.inv(normal)) @ torch.randn(n, 7, 1, generator=generator).double()
    )
    top = truth + noise[..., 0]
    return normal, top, truth


def test_widths_are_found_wherever_particles_are() -> None:
    widths = torch.tensor([0.04] * 3 + [0.5] * 2 + [300.0, 0.1], dtype=torch.float64)
    normal, top, _ = synthetic(4000, widths)
    distance = 0.3 * top
    gradient = torch.einsum("npq,nq->np", normal, distance - top)
    first = torch.tensor([100.0] * 3 + [1.0] * 2 + [1e-6, 25.0], dtype=torch.float64)
    found = estimate_widths(distance, gradient, normal, first).rsqrt()
    for kind in (0, 3, 5, 6):
        assert float(found[kind] / widths[kind]) == pytest.approx(1, abs=0.1)
    fixed = first.clone()
    fixed[5:] = INFINITE
    assert torch.isinf(estimate_widths(distance, gradient, normal, fixed)[5:]).all()


def test_marginal_of_one_parameter() -> None:
    """Against the inverse of the whole matrix: at the optimum over the others."""
    widths = torch.tensor([0.04] * 3 + [0.5] * 2 + [300.0, 0.1], dtype=torch.float64)
    normal, top, _ = synthetic(6, widths)
    precision = widths.square().reciprocal()
    others = precision.clone()
    others[5] = 0
    matrix = normal + torch.diag(others)
    right = torch.einsum("npq,nq->np", normal, top)
    expected = torch.linalg.solve(matrix, right)[:, 5]
    information = 1 / torch.linalg.inv(matrix)[:, 5, 5]
    # The optimum of the others where the defocus is held at zero.
    keep = [0, 1, 2, 3, 4, 6]
    distance = torch.zeros(6, 7, dtype=torch.float64)
    distance[:, keep] = torch.linalg.solve(matrix[:, keep][:, :, keep], right[:, keep])
    gradient = torch.einsum("npq,nq->np", normal, distance - top)
    found = marginal(5, distance, gradient, normal, precision)
    torch.testing.assert_close(found.information, information, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.value, expected, rtol=1e-4, atol=1e-3)


def test_means_of_micrographs() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(2000) % 50
    common = 200 * torch.randn(50, generator=generator).double()
    information = torch.full((2000,), 1 / 500.0**2, dtype=torch.float64)
    scatter = torch.randn(2000, 2, generator=generator).double() * torch.tensor([80.0, 500.0])
    found = group_means(Marginal(common[groups] + scatter.sum(1), information), groups, 80.0)
    error = (found[:50] - common).square().mean().sqrt()
    assert float(error) < 100
    nothing = group_means(Marginal(scatter.sum(1), information), groups, 80.0)
    assert float(nothing.abs().max()) < 60
    alone = group_means(Marginal(scatter.sum(1) + 500, information), torch.zeros(2000).long(), 80.0)
    assert float(alone.abs().max()) == 0


def test_the_better_of_two() -> None:
    def result(objective: list[float]) -> Refined:
        n = len(objective)
        start = Estimates.start(torch.eye(3).double().repeat(n, 1, 1), torch.zeros(n, 2).double())
        start.defocus_A.copy_(torch.tensor(objective))
        fill = torch.tensor(objective, dtype=torch.float64)
        return Refined(
            start,
            fill[:, None].repeat(1, 7),
            fill,
            fill,
            fill[:, None].repeat(1, 7),
            torch.eye(7).double().repeat(n, 1, 1),
            n,
        )

    found = result([1.0, 5.0, 2.0]).better_of(result([3.0, 4.0, 2.0]))
    assert found.objective.tolist() == found.estimates.defocus_A.tolist() == [1, 4, 2]
    assert found.distance[:, 3].tolist() == [1, 4, 2]
    assert found.comparisons == 6


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), angle=st.floats(0, 170))
def test_distance_undoes_a_change(seed: int, angle: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.from_numpy(Rotation.random(5, random_state=seed).as_matrix())
    start = Estimates.start(rotations, torch.randn(5, 2, generator=generator).double())
    change = torch.randn(5, 7, generator=generator).double()
    change[:, :3] *= math.radians(angle) / change[:, :3].norm(dim=1, keepdim=True)
    torch.testing.assert_close(start.changed(change).distance_from(start), change, rtol=1e-6, atol=1e-6)

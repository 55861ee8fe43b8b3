"""What a map explains of images it has seen and of others, shell by shell."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.assess import sphere_mask
from gem3d.assess.overfit import LikelihoodGain, likelihood_gain
from gem3d.fit.accumulate import accumulate
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.descent import Shapes
from gem3d.fit.half_sets import HalfSet, is_held_out
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.methods import FromEquations, FromImages
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.observations import Observations
from gem3d.fit.operator import Grid, NormalOperator, voxelize_on
from gem3d.fit.start import Start, start_of_half
from gem3d.fit.volume import fit_volume, grid_of
from gem3d.gaussians import Gaussians, initialise_random
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, weigh_slices
from gem3d.kernels.project.reference import project_reference
from gem3d.optics import contrast_transfer_function
from gem3d.particles import ImageSource
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure

BOX, PIXEL_A = 32, 6.6
SIGNAL_SHELL = 8


def observations_of(made: Simulation, *, normalise: bool = True) -> Observations:
    return Observations.of(ImageSource(made.particles), 0.45 * BOX, normalise=normalise)


def halves_of(made: Simulation) -> tuple[HalfSet, ...]:
    return accumulate(observations_of(made), made.particles.half_set, seed=0)


def start_of(half: HalfSet) -> Start:
    return start_of_half(
        half.linear_map().values,
        half.held_out,
        0.9 * BOX * PIXEL_A,
        np.random.default_rng(0),
        n_gaussians=300,
        init="map",
        spread=FromEquations.spread,
    )


def some_gaussians() -> Gaussians:
    ball = sphere_mask(BOX, PIXEL_A, 150.0, PIXEL_A)
    return initialise_random(ball, PIXEL_A, 1e6, 100, np.random.default_rng(0), 1.2 * PIXEL_A)


def replace_images(made: Simulation, images: np.ndarray) -> None:
    with mrcfile.mmap(made.stack, "r+") as stack:
        stack.data[:] = images.astype(np.float32)


def overfitted(sets: tuple[HalfSet, ...]) -> LikelihoodGain:
    """Of a map fitted to half 1 for longer than is good: of half 1, and of half 2, which it has not seen."""
    none = NormalEquations.zeros(BOX, PIXEL_A)
    begun = start_of(sets[0])
    found = fit_volume(begun.gaussians, sets[0].training, none, begun.support_A)
    assert found.gain is None, "nothing was held out"
    grid = grid_of(none, begun.support_A)
    volume = voxelize_on(found.gaussians, grid)
    seen, unseen = (NormalOperator(half.training, grid).loss_by_shell(volume) for half in sets)
    return likelihood_gain(seen, unseen, sets[0].training.n_particles, sets[1].training.n_particles, BOX)


@pytest.mark.parametrize(("box", "coarse"), [(20, 20), (21, 21), (24, 16)])
def test_the_sum_over_shells_is_the_loss(box: int, coarse: int) -> None:
    generator = torch.Generator().manual_seed(0)
    equations = NormalEquations.zeros(box, 1.5, coarse // 2 - 1)
    weight = half_plane_weight(1 + torch.rand(equations.radius + 1, generator=generator))
    transforms = torch.fft.rfft2(torch.randn(30, box, box, generator=generator))
    rotations = torch.tensor(Rotation.random(30, rng=np.random.default_rng(0)).as_matrix())
    insert_slices(
        equations.accumulator, weigh_slices(transforms, None, torch.zeros(30, 2), weight, 1.0), rotations
    )
    grid = Grid(coarse, 1.5, 1.5 * box / coarse, (3, 4, 2), (8, 7, 11))
    operator = NormalOperator(equations, grid)
    volume = torch.rand(grid.shape, generator=generator)
    both = operator + operator
    for each, factor in ((operator, 1), (both, 2)):
        by_shell = each.loss_by_shell(volume)
        loss = float(operator.loss_and_gradient(volume)[0])
        assert by_shell.shape == (2, equations.radius + 1)
        assert by_shell[0].sum() == pytest.approx(factor * loss, rel=1e-5)


@pytest.mark.parametrize("last_shell", [15, 11])
def test_losses_of_images_by_shell(made: Simulation, last_shell: int) -> None:
    """Against the plain formula, and against their own sum."""
    observed = observations_of(made)
    noise = 1 + torch.rand(16, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([7, 0, 200])
    batch = next(observed.batches(rows.numpy(), 3))
    transforms, gaussians = observed.transform(batch.images, batch.rows), some_gaussians()
    loss = ImageLoss(observed, noise[None], last_shell)
    found, power = loss.by_shell(gaussians, loss.measured(rows, transforms))
    nothing = loss.by_shell(gaussians, loss.measured(rows, torch.zeros_like(transforms)))
    np.testing.assert_allclose(nothing, [power, power], rtol=1e-5)

    projections = project_reference(
        gaussians.masses.double() / PIXEL_A**3,
        gaussians.centres_A.double() / PIXEL_A,
        gaussians.covariances_A2().double() / PIXEL_A**2,
        observed.cameras[rows],
        observed.shifts_px[rows],
        BOX,
    )
    k = torch.fft.fftfreq(BOX, 1 / BOX, dtype=torch.float64)
    step = 1 / (BOX * PIXEL_A)
    ctf = contrast_transfer_function(observed.ctf_coefficients[rows], k[None, :] * step, k[:, None] * step)
    seen = torch.fft.fft2(torch.from_numpy(batch.images).double())
    misfit = (torch.fft.fft2(projections) * ctf - seen).abs().square() - seen.abs().square()
    shell = (k[:, None] ** 2 + k**2).sqrt().round().long()
    expected = [float(misfit[:, shell == s].sum() / noise[s]) for s in range(last_shell + 1)]
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3 * np.abs(expected).max())
    leaves = gaussians.replaced({n: t.detach().requires_grad_() for n, t in gaussians.parameters.items()})
    assert found.sum() == pytest.approx(
        float(loss.backward(leaves, loss.measured(rows, transforms))), rel=1e-5
    )


def test_the_equations_say_by_shell_what_the_images_say(made: Simulation) -> None:
    """But for the lowest shells, which the operator tells apart less sharply."""
    half = halves_of(made)[0]
    begun = start_of(half)
    fitted = fit_volume(begun.gaussians, half.training, half.held_out, begun.support_A).stopped
    observed = observations_of(made)
    rows = np.flatnonzero((made.particles.half_set == 1) & ~is_held_out(np.arange(300), 0))
    loss = ImageLoss(observed, half.noise_power, half.training.radius)
    of_images = sum(
        loss.by_shell(
            fitted, loss.measured(torch.from_numpy(batch.rows), observed.transform(batch.images, batch.rows))
        )[0]
        for batch in observed.batches(rows, 64)
    )
    grid = grid_of(half.training, begun.support_A)
    of_equations = NormalOperator(half.training, grid).loss_by_shell(voxelize_on(fitted, grid))[0]
    assert of_equations.sum() == pytest.approx(np.sum(of_images), rel=0.02)
    bands = ([4, 8, 12], 0)
    np.testing.assert_allclose(
        np.add.reduceat(of_equations, *bands), np.add.reduceat(of_images, *bands), rtol=0.15
    )


def test_the_gain_is_that_of_the_likelihood_of_pixels(made: Simulation) -> None:
    """White noise of known variance: the densities of the pixels of an image, with the map and without."""
    observed, gaussians, last_shell, sd = observations_of(made, normalise=False), some_gaussians(), 12, 3.0
    rows = torch.arange(4)
    batch = next(observed.batches(rows.numpy(), 4))
    power = torch.full((16,), BOX * BOX * sd**2)
    of_images = ImageLoss(observed, power[None], last_shell)
    loss = of_images.by_shell(
        gaussians, of_images.measured(rows, observed.transform(batch.images, batch.rows))
    )
    gain = likelihood_gain(loss, loss, 4, 4, BOX)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.hypot(k[:, None], k)).astype(int)
    fourier_pixels = np.bincount(shell.ravel())[: last_shell + 1]

    projections = project_reference(
        gaussians.masses / PIXEL_A**3,
        gaussians.centres_A / PIXEL_A,
        gaussians.covariances_A2() / PIXEL_A**2,
        observed.cameras[rows].float(),
        observed.shifts_px[rows].float(),
        BOX,
    ).numpy()
    frequency = torch.from_numpy(k / (BOX * PIXEL_A)).float()
    ctf = contrast_transfer_function(
        observed.ctf_coefficients[rows].float(), frequency[None, :], frequency[:, None]
    ).numpy()
    model = np.fft.ifft2(np.fft.fft2(projections) * ctf * (shell <= last_shell)).real
    log_likelihood = (batch.images**2 - (batch.images - model) ** 2).sum() / (2 * sd**2)
    assert 4 * (gain.unseen * fourier_pixels).sum() == pytest.approx(log_likelihood, rel=0.01)
    assert gain.seen is not None
    np.testing.assert_array_equal(gain.seen, gain.unseen)


def test_a_good_fit_explains_both_alike(made: Simulation) -> None:
    half = halves_of(made)[0]
    begun = start_of(half)
    gain = fit_volume(begun.gaussians, half.training, half.held_out, begun.support_A).gain
    assert gain is not None
    assert gain.seen is not None
    assert (gain.n_seen, gain.n_unseen) == (half.training.n_particles, half.held_out.n_particles)
    assert gain.seen.shape == gain.unseen.shape == (BOX // 2,)
    assert gain.seen[4:].min() > 0
    np.testing.assert_allclose(gain.unseen[4:], gain.seen[4:], rtol=0.6)


def test_images_tell_the_same(made: Simulation, tmp_path: Path) -> None:
    sets = halves_of(made)
    method = FromImages(
        [half.held_out for half in sets],
        [half.noise_power for half in sets],
        Shapes(),
        observations_of(made),
        made.particles.half_set,
        seed=0,
        epochs=20,
        checkpoint_of=lambda stage: Checkpoint(tmp_path / f"{stage}.safetensors"),
    )
    begun = start_of(sets[0])
    fit = method.fit_half(1, begun, lambda *_: None)
    assert fit.gain is not None
    assert fit.gain.seen is not None
    n_held_out = sets[0].held_out.n_particles
    assert (fit.gain.n_seen, fit.gain.n_unseen) == (n_held_out, n_held_out)
    grid = grid_of(sets[0].training, begun.support_A)
    volume = voxelize_on(fit.stopped, grid).detach()
    expected = NormalOperator(sets[0].held_out, grid).loss_by_shell(volume)
    by_equations = likelihood_gain(expected, expected, n_held_out, n_held_out, BOX).unseen
    pixels = 2 * np.pi * np.arange(4, BOX // 2)
    assert (fit.gain.unseen[4:] * pixels).sum() == pytest.approx((by_equations[4:] * pixels).sum(), rel=0.05)
    assert fit.gain.seen[4:].min() > 0
    resumed = method.fit_half(1, begun, lambda *_: None).gain
    assert resumed is not None
    np.testing.assert_array_equal(resumed.unseen, fit.gain.unseen)
    assert method.fit_final((fit, fit), lambda *_: None).gain is None


def test_noise_is_explained_only_where_it_was_seen(tmp_path: Path) -> None:
    made = simulate(packaged_structure(), tmp_path, 300, BOX, PIXEL_A, 1.0, seed=1)
    replace_images(made, np.random.default_rng(0).standard_normal((300, BOX, BOX)))
    gain = overfitted(halves_of(made))
    assert gain.seen is not None
    assert gain.seen[4:].min() > 0
    assert gain.unseen[4:12].max() < 0
    assert gain.unseen[12:].mean() < 0
    assert len(gain.follows_noise(BOX // 2 - 1)) > 5


def test_shells_that_are_not_to_be_read_decide_nothing() -> None:
    def follows(unseen: list[float]) -> list[int]:
        curve = np.array(unseen)
        return list(
            LikelihoodGain(None, curve, np.full(len(curve), 0.01), 10, 10).follows_noise(len(curve) - 1)
        )

    assert follows([0, 0, -9, -9, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]) == []
    assert set(follows([0, 0, 9, 9, -0.1, -0.1, -0.1, 0.01, 0.01, 0.01])) >= {4, 5, 6}


def test_a_gain_is_confirmed_by_the_last_shells_up_to_the_resolution() -> None:
    def gains(unseen: list[float], last_shell: int) -> bool:
        curve = np.array(unseen)
        return LikelihoodGain(None, curve, np.full(len(curve), 0.01), 10, 10).gains_at(last_shell)

    fading = [0, 0, 9, 9, 0.1, 0.1, 0.1, 0.1, 0.1, 0, 0, 0, 0, 0, 9]
    assert gains(fading, 8)
    assert not gains(fading, 13), "nothing is gained there, whatever is within and beyond"
    assert not gains(fading, 3), "no shell to be read"
    assert not gains([0.005] * 12, 11), "as much as chance gives"
    assert gains([0, 0, -9, -9, 0.1, 0.1], 5)


def test_the_standard_error_is_the_spread_of_the_gain(made: Simulation) -> None:
    """Forty draws of noise, none of which the map was fitted to: as often refuted as chance has it."""
    observed, gaussians, last_shell = observations_of(made, normalise=False), some_gaussians(), 12
    rows = torch.arange(8)
    loss = ImageLoss(observed, torch.full((1, 16), float(BOX * BOX)), last_shell)
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(40):
        noise = torch.from_numpy(rng.standard_normal((8, BOX, BOX), dtype=np.float32))
        by_shell = loss.by_shell(gaussians, loss.measured(rows, torch.fft.rfft2(noise)))
        gains.append(likelihood_gain(by_shell, by_shell, 8, 8, BOX))
    spread = np.std([gain.unseen for gain in gains], axis=0)[1:]
    np.testing.assert_allclose(spread, gains[0].unseen_stderr[1:], rtol=0.4)
    assert np.mean(spread / gains[0].unseen_stderr[1:]) == pytest.approx(1, abs=0.1)


def test_a_map_is_worse_than_none_beyond_the_signal(tmp_path: Path) -> None:
    made = simulate(packaged_structure(), tmp_path, 300, BOX, PIXEL_A, np.inf, seed=1)
    with mrcfile.open(made.stack) as stack:
        clean = stack.data.copy()
    k = np.fft.fftfreq(BOX, 1 / BOX)
    passed = np.hypot(k[:, None], k[: BOX // 2 + 1]) <= SIGNAL_SHELL
    signal = np.fft.irfft2(np.fft.rfft2(clean) * passed, s=(BOX, BOX))
    replace_images(made, signal + 3 * signal.std() * np.random.default_rng(0).standard_normal(signal.shape))
    gain = overfitted(halves_of(made))
    within, beyond = slice(4, SIGNAL_SHELL), slice(SIGNAL_SHELL + 2, None)
    assert gain.seen is not None
    assert gain.unseen[within].min() > 0
    assert gain.seen[beyond].min() > 0
    assert gain.unseen[beyond].max() < 0

"""Optics groups with other pixels and boxes in one job, and binning: one map, as good as all data can make it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from command_line import refused
from gem3d.assess.fsc import fourier_shell_correlation
from gem3d.assess.shells import FloatVolume
from gem3d.cli import main
from gem3d.fit.accumulate import accumulate
from gem3d.fit.half_sets import HalfSet
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.observations import Observations
from gem3d.gaussians import Gaussians
from gem3d.input_settings import InputSettings
from gem3d.inputs import background_diameter_A
from gem3d.inspect_particles import inspect_particles
from gem3d.inspection import GridSummary
from gem3d.particles import ImageSource, Particles, read_relion_star, write_relion_star
from gem3d.particles.image_grids import ImageGrid, common_grid, find_grids, find_resampled
from gem3d.refine.estimates import Estimates
from gem3d.refine.images import ImagesOfHalf
from gem3d.refine.step import refine_batch
from gem3d.simulate import forward_model, noise_free_images
from gem3d.simulate_particles import draw_particles
from gem3d.structures import packaged_structure

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

FINE, COARSE = (40, 5.0), (32, 6.6)
"""Box and pixel size in A: 200 and 211 A wide."""
N_FINE, N_COARSE = 350, 250


@dataclass(frozen=True)
class Mixed:
    """Particles of one structure on two grids, and the truth on each."""

    star: Path
    truth: dict[tuple[int, float], FloatVolume]


def simulate_mixed(out: Path, n_of: dict[tuple[int, float], int], noise: float, gain: float = 7.0) -> Mixed:
    """A STAR file of several optics groups, all with noise of one density in the plane of the projections.

    Images of the second group are on another gray scale, so that only normalisation brings them together.
    """
    parts, truth = [], {}
    for number, ((box, pixel_A), n) in enumerate(n_of.items()):
        rng = np.random.default_rng(number)
        stack = out / f"stack{number}.mrcs"
        particles = draw_particles(
            n, box, pixel_A, rng, ctf=True, ctf_table=None, poses=None, max_shift_px=2.0,
            stack=stack.name, source=out / "mixed.star",
        )  # fmt: skip
        model = forward_model(packaged_structure(), box, pixel_A)
        truth[box, pixel_A] = model.truth()
        images = noise_free_images(model, particles).numpy()
        images += noise * pixel_A * rng.standard_normal(images.shape, dtype=np.float32)
        with mrcfile.new(stack) as mrc:
            mrc.set_data((1 + number * gain) * images + number)
            mrc.set_image_stack()
        parts.append(particles)
    joint = join(parts, out / "mixed.star")
    write_relion_star(joint, joint.source)
    return Mixed(joint.source, truth)


def join(parts: list[Particles], source: Path) -> Particles:
    """One set with an optics group, and a stack, of each part."""
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
        if isinstance(value, np.ndarray)
    }
    numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    joined |= {"optics_index": numbers, "stack_index": numbers}
    joined["source_row"] = np.arange(len(numbers), dtype=np.int32)
    optics = tuple(replace(part.optics[0], name=f"group{i}") for i, part in enumerate(parts))
    stacks = tuple(part.stacks[0] for part in parts)
    return replace(parts[0], **joined, optics=optics, stacks=stacks, source=source, template=None)


def observe(star: Path, **kwargs: float) -> Observations:
    images = ImageSource(read_relion_star(star), **kwargs)
    narrowest = images.narrowest_grid
    diameter_A = background_diameter_A(None, narrowest.box_size_px, narrowest.pixel_size_A)
    return Observations.of(images, diameter_A / images.pixel_size_A / 2)


def by_group(observations: Observations) -> tuple[HalfSet, ...]:
    """What each optics group says by itself, on the common grid."""
    halves = (1 + observations.images.particles.optics_index).astype(np.int8)
    return accumulate(observations, halves, seed=0)


def amplitudes(density: FloatVolume) -> NDArray[np.float64]:
    """Root mean square of each shell, but the last, Nyquist's."""
    box = len(density)
    power = np.abs(np.fft.fftn(density)) ** 2
    k = np.fft.fftfreq(box, 1 / box)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    total, count = np.bincount(shell, power.ravel()), np.bincount(shell)
    return np.sqrt(total / count)[: (box + 1) // 2]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return simulate_mixed(tmp_path_factory.mktemp("mixed"), {FINE: N_FINE, COARSE: N_COARSE}, 6.0)


@pytest.fixture(scope="module")
def mostly_coarse(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return simulate_mixed(tmp_path_factory.mktemp("coarse"), {COARSE: N_FINE, FINE: N_COARSE}, 6.0)


@pytest.mark.parametrize("which", ["mixed", "mostly_coarse"])
def test_groups_agree_on_the_amplitude_and_help_one_another(
    which: str, request: pytest.FixtureRequest
) -> None:
    made: Mixed = request.getfixturevalue(which)
    observations = observe(made.star)
    images = observations.images
    box, pixel_A = (FINE, COARSE)[which == "mostly_coarse"]
    assert (images.box_size_px, images.pixel_size_A) == (box, pixel_A)
    truth = made.truth[box, pixel_A]
    n = min(images.last_shells) + 1
    alone = [half.linear_map().values for half in by_group(observations)]
    ratio = amplitudes(alone[0])[1:n] / amplitudes(alone[1])[1:n]
    assert ratio[:10].mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(ratio, 1, atol=0.08)
    everyone = np.ones(len(images), np.int8)
    (joint,) = accumulate(observations, everyone, seed=0, wanted=(1,))
    curves = [fourier_shell_correlation(values, truth) for values in (*alone, joint.linear_map().values)]
    best = np.maximum(curves[0], curves[1])
    last = images.last_shells[0] + 1
    assert (curves[2][1:last] > best[1:last] - 0.001).all()
    assert (1 - curves[2][8:n]).mean() < 0.8 * (1 - best[8:n]).mean()
    # Beyond the coarse pixels' Nyquist the fine ones speak as if they were alone.
    if n < last:
        np.testing.assert_allclose(curves[2][n + 1 : last], curves[0][n + 1 : last], atol=2e-3)


def test_noise_is_of_each_grid_and_nothing_beyond_it(mixed: Mixed) -> None:
    observations = observe(mixed.star)
    fine, coarse = observations.images.last_shells
    assert (fine, coarse) == (19, 14)
    halves = (1 + observations.images.particles.source_row % 2).astype(np.int8)
    for half in accumulate(observations, halves, seed=0):
        noise = half.noise_power.numpy()
        assert noise.shape == (2, 20)
        assert np.isfinite(noise[0]).all()
        np.testing.assert_array_equal(np.isinf(noise[1]), np.arange(20) > coarse)
        # One density, for which the part of the narrower or wider box does not matter.
        np.testing.assert_allclose(noise[1, 5 : coarse + 1], noise[0, 5 : coarse + 1], rtol=0.2)


def test_the_loss_of_images_ends_with_their_grid(mixed: Mixed) -> None:
    observations = observe(mixed.star)
    n = len(observations.images)
    half = accumulate(observations, np.ones(n, np.int8), seed=0, wanted=(1,))[0]
    loss = ImageLoss(observations, half.noise_power, half.training.radius)
    rng = torch.manual_seed(0)
    some = Gaussians(
        30 * torch.randn(20, 3, generator=rng),
        torch.full((20, 3), np.log(4.0)),
        torch.tensor([[1.0, 0, 0, 0]]).expand(20, 4),
        torch.zeros(20),
        300.0,
    )
    for grid, last in enumerate(observations.images.last_shells):
        rows = np.flatnonzero(observations.images.grid_index == grid)[:30]
        (batch,) = observations.batches(rows, 64)
        transforms = torch.fft.rfft2(torch.from_numpy(batch.images))
        found = loss.by_shell(some, loss.measured(torch.from_numpy(rows), transforms))
        assert np.isfinite(found).all()
        assert (found[:, 1 : last + 1] != 0).all()
        assert (found[:, last + 1 :] == 0).all()


def test_a_fit_to_images_of_several_grids(mixed: Mixed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--gaussians", "200", "--fit", "images", "--epochs", "3", "--quiet")
    main(["reconstruct", str(mixed.star), "--out", str(out), *options])
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["box_size_px"], summary["pixel_size_A"]) == FINE
    coarse = {"box_size_px": 32, "pixel_size_A": 6.6, "particles": N_COARSE, "optics_groups": ["group1"]}
    assert summary["resampled"] == [coarse]
    log = (out / "run.log").read_text()
    assert "resampled to that grid: 250 of box 32 px, 6.6 A/px (optics group group1)" in log
    with mrcfile.open(out / "map_unfiltered.mrc") as mrc:
        curve = fourier_shell_correlation(np.array(mrc.data), mixed.truth[FINE])
        assert float(mrc.voxel_size.x) == pytest.approx(5.0)
    assert (curve[1:7] > 0.8).all()


def test_particles_of_every_grid_are_refined(mixed: Mixed) -> None:
    observations = observe(mixed.star)
    n, grid_index = len(observations.images), observations.images.grid_index
    (half,) = accumulate(observations, np.ones(n, np.int8), seed=0, wanted=(1,))
    density = torch.from_numpy(half.linear_map().values)
    rows = np.arange(0, n, 4)
    rng = np.random.default_rng(1)
    moved_A = np.zeros((n, 2))
    moved_A[rows] = rng.normal(0, 4.0, (len(rows), 2))
    given = observations.images.particles
    observations = observations.at(replace(given, shifts_A=given.shifts_A + moved_A))
    images = ImagesOfHalf(observations, rows, density, torch.ones(18), half.noise_power)
    index = torch.from_numpy(rows)
    begin = Estimates.start(torch.from_numpy(given.rotations)[index], observations.shifts_px[index])
    precision = torch.tensor([1e3] * 3 + [0.5] * 2 + [torch.inf] * 2, dtype=torch.float64)
    left_A = np.full((len(rows), 2), np.nan)
    for batch in images.batches(np.arange(len(rows))):
        assert len(np.unique(grid_index[rows[batch.where.numpy()]])) == 1
        start = begin.select(batch.where)
        found = refine_batch(batch.compare, start, start, precision).estimates.shifts_px.numpy()
        of = batch.where.numpy()
        left_A[of] = found * observations.pixel_size_A - given.shifts_A[rows[of]]
    for grid in (0, 1):
        mine = grid_index[rows] == grid
        before, after = (np.linalg.norm(e[mine], axis=1).mean() for e in (moved_A[rows], left_A))
        assert after < 0.4 * before


@pytest.mark.parametrize("box", [48, 49])
def test_binning_is_as_good_as_binned_images(tmp_path: Path, box: int) -> None:
    fine = simulate_mixed(tmp_path, {(box, 4.2): 200}, 6.0)
    binned = observe(fine.star, binning=2.0)
    assert binned.box_size_px == 24
    assert binned.pixel_size_A == pytest.approx(4.2 * box / 24)
    linear = accumulate(binned, np.ones(200, np.int8), seed=0, wanted=(1,))[0].linear_map().values
    truth = forward_model(packaged_structure(), 24, 4.2 * box / 24).truth()
    whole = accumulate(observe(fine.star), np.ones(200, np.int8), seed=0, wanted=(1,))[0].linear_map().values
    curve = fourier_shell_correlation(linear, truth)[1:11]
    of_whole = fourier_shell_correlation(whole, fine.truth[box, 4.2])[1:11]
    np.testing.assert_allclose(curve, of_whole, atol=0.01)


def test_inspection_says_what_images_are_taken_to(
    mixed: Mixed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect_particles(mixed.star, InputSettings())
    assert found.problems == ()
    assert found.grid == GridSummary(40, 5.0, N_COARSE)
    assert [group.box_size_px for group in found.optics] == [40, 32]
    assert found.sample is not None
    assert found.sample.contrast_sign == 1
    main(["inspect", str(mixed.star), "--bin", "2"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "box 20 px, 10 A/px, to which 600 images are resampled" in printed
    refused(capsys, "reconstruct", str(mixed.star), "--out", str(tmp_path / "out"), "--bin", "3")
    assert "leaves 14 of 40 pixels" in " ".join(inspect_particles(mixed.star, InputSettings(bin=3)).problems)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data is not here")
@pytest.mark.filterwarnings("ignore::gem3d.errors.Gem3dWarning")
def test_a_real_file_of_two_pixel_sizes() -> None:
    six = read_relion_star(SHARED / "formats" / "relion31.6opticsgroups.star", ignore_extras=True)
    grids, grid_index = find_grids(six)
    assert grids == (ImageGrid(196, 1.25), ImageGrid(196, 1.24))
    pixels_A = np.array([group.pixel_size_A for group in six.optics])[six.optics_index]
    np.testing.assert_array_equal(np.array([grid.pixel_size_A for grid in grids])[grid_index], pixels_A)
    assert common_grid(grids, grid_index, 1.0) == grids[0]
    (other,) = find_resampled(six, grids[0])
    assert str(other) == "55 of box 196 px, 1.24 A/px (optics groups opticsGroup3, opticsGroup4)"

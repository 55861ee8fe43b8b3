"""Training by images: its loss against plain sums, its optimum, its order of images, and going on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.fit.adam import Adam
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.descent import Shapes
from gem3d.fit.gradient_table import GradientTable
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.images import ImageTraining
from gem3d.fit.observations import Observations
from gem3d.fit.operator import NormalOperator, voxelize_on
from gem3d.fit.result import Fit
from gem3d.fit.training_set import BATCH_SIZE, MOST_BLOCKS, TrainingSet, batch_sizes
from gem3d.fit.turns import turned
from gem3d.fit.volume import grid_of
from gem3d.gaussians import Gaussians
from gem3d.kernels.project.reference import project_reference
from gem3d.optics import contrast_transfer_function
from training_cases import PIXEL_A, equations_of, leaves, observe, project_images, some_gaussians

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("box", [32, 33])
def test_loss_and_gradient_are_those_of_the_plain_formula(box: int) -> None:
    observations = observe(some_gaussians(1), 6, box)
    last = (box - 1) // 2 - 2
    noise = 1 + torch.rand((box - 1) // 2 + 1, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([4, 0, 3])
    ours, exact = leaves(some_gaussians()), leaves(some_gaussians(), torch.float64)
    transforms = torch.fft.rfft2(torch.from_numpy(observations.images.values[rows.numpy()]))  # type: ignore[attr-defined]
    of_images = ImageLoss(observations, noise[None], last)
    loss = of_images.backward(ours, of_images.measured(rows, transforms))

    images = project_reference(
        exact.masses / PIXEL_A**3,
        exact.centres_A / PIXEL_A,
        exact.covariances_A2() / PIXEL_A**2,
        observations.cameras[rows],
        observations.shifts_px[rows],
        box,
    )
    k = torch.fft.fftfreq(box, PIXEL_A, dtype=torch.float64)
    shell = ((k[:, None] ** 2 + k**2).sqrt() * box * PIXEL_A).round().long()
    weight = torch.where(shell <= last, 1 / noise[shell.clamp(max=last)], 0.0)
    ctf = contrast_transfer_function(observations.ctf_coefficients[rows], k[None, :], k[:, None])
    seen = torch.fft.fft2(torch.from_numpy(observations.images.values[rows.numpy()]).double())  # type: ignore[attr-defined]
    misfit = (torch.fft.fft2(images) * ctf - seen).abs().square() - seen.abs().square()
    expected = (misfit * weight).sum()
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=2e-3)
    for name, parameter in ours.parameters.items():
        assert parameter.grad is not None
        theirs = exact.parameters[name].grad
        assert theirs is not None
        # The projection is cut where it falls below a thousandth of its peak.
        assert float((parameter.grad - theirs).norm() / theirs.norm()) < 1e-2, name


def test_loss_is_that_of_the_normal_equations() -> None:
    """One judge serves both fits, so their losses must mean the same."""
    box, n = 32, 40
    observations = observe(some_gaussians(1), n, box, noise=0.1)
    noise = torch.full(((box - 1) // 2 + 1,), 7.0)
    equations = equations_of(observations, np.arange(n), noise)
    grid = grid_of(equations, ((-24.0, 24.0),) * 3)
    gaussians = some_gaussians(1).scaled(0.7)  # far from zero, where gridding errors would show
    volume = voxelize_on(gaussians, grid)
    of_equations, _, _ = NormalOperator(equations, grid).loss_and_gradient(volume)
    loss = ImageLoss(observations, noise[None], equations.radius)
    transforms = torch.fft.rfft2(torch.from_numpy(observations.images.values))  # type: ignore[attr-defined]
    of_images = loss.backward(leaves(gaussians), loss.measured(torch.arange(n), transforms))
    assert float(of_images) == pytest.approx(float(of_equations), rel=0.005)


def test_every_image_comes_once_an_epoch_with_its_neighbours() -> None:
    rows = np.random.default_rng(0).permutation(1000)
    held_out = np.arange(1000) % 10 == 0
    images = TrainingSet(rows, held_out, (5, 1))

    def met(order: np.ndarray) -> list[int]:
        return [int(row) for block in order for row in images.blocks[block]]

    first = images.order(0, with_held_out=False)
    assert sorted(met(first)) == sorted(rows[~held_out])
    assert sorted(met(images.order(0, with_held_out=True))) == sorted(rows)
    np.testing.assert_array_equal(first, images.order(0, with_held_out=False))
    for other in (
        images.order(1, with_held_out=False),
        TrainingSet(rows, held_out, (5, 2)).order(0, with_held_out=False),
    ):
        assert not np.array_equal(first, other)
    assert np.concatenate(images.blocks[: images.n_training_blocks]).tolist() == rows[~held_out].tolist()


@pytest.mark.parametrize("n", [1, 31, 33, 5_000, 100_000])
def test_blocks_are_few_and_batches_small(n: int) -> None:
    """So that what is remembered of the blocks, and of a batch, does not grow with the number of particles."""
    images = TrainingSet(np.arange(n), np.arange(n) % 20 == 19, (0, 1))
    assert images.n_training_blocks <= MOST_BLOCKS
    assert sum(map(len, images.blocks)) == n
    assert all(max(batch_sizes(block)) <= BATCH_SIZE for block in images.blocks)
    assert all(sum(batch_sizes(block)) == len(block) for block in images.blocks)


def test_small_sets_are_gone_through_more_often() -> None:
    nobody = np.zeros(100_000, dtype=bool)
    assert [TrainingSet(np.arange(n), nobody[:n], (0, 1)).epochs for n in (100_000, 5_000)] == [5, 5]
    assert TrainingSet(np.arange(100), nobody[:100], (0, 1)).epochs > 100


def test_the_table_gives_the_gradient_of_the_whole_set() -> None:
    """Blocks whose gradients stay: after one round the mean, whichever is met. One that changes is followed."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 5, generator=generator)
    table = GradientTable(6, 5)
    rounding = {"rtol": 0.0, "atol": 4e-3}  # of values of order one, to 8 bits

    def enter(block: int, gradient: torch.Tensor) -> torch.Tensor:
        return table.enter(gradient, met_before=table.turn_to(block))

    for block in (3, 1, 0, 5, 2, 4):
        enter(block, gradients[block])
    for block in (2, 5):
        torch.testing.assert_close(enter(block, gradients[block]), gradients.mean(0), **rounding)
    moved = gradients + torch.tensor([0.0, 1.0, 0.0, -2.0, 0.0])
    for _ in range(2):
        for block in range(6):
            refined = enter(block, moved[block])
    torch.testing.assert_close(refined, moved.mean(0), **rounding)


def fit(
    start: Gaussians, observations: Observations, n: int, epochs: int, held_out: int = 0, **options: Any
) -> Fit:
    images = TrainingSet(np.arange(n), np.arange(n) < held_out, (0, 1), smallest_block=16)
    box = observations.box_size_px
    noise = torch.full(((box - 1) // 2 + 1,), float(box * box))
    loss = ImageLoss(observations, noise[None], (box - 1) // 2)
    judge = None
    if held_out:
        equations = equations_of(observations, np.arange(held_out), noise)
        judge = NormalOperator(equations, grid_of(equations, ((-20.0, 20.0),) * 3))
    return ImageTraining(
        start=start,
        observations=observations,
        loss=loss,
        images=images,
        judge=judge,
        voxel_size_A=PIXEL_A,
        epochs=epochs,
        **options,
    ).run()


def test_two_gaussians_are_found_again() -> None:
    truth = Gaussians(
        centres_A=torch.tensor([[-6.0, 2.0, 1.0], [7.0, -3.0, 4.0]]),
        log_scales=torch.log(torch.tensor([[3.0, 5.0, 4.0], [3.5, 3.5, 6.0]])),
        quaternions=torch.tensor([[0.9, 0.3, -0.2, 0.1], [0.7, -0.1, 0.6, 0.2]]),
        raw_masses=torch.tensor([1.0, 0.3]),
        unit_mass=500.0,
    )
    start = truth.replaced(
        {
            "centres_A": truth.centres_A + torch.tensor([[2.0, -1.5, 1.0], [-1.0, 2.0, -2.0]]),
            "log_scales": torch.full((2, 3), 4.0).log(),
            "quaternions": torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]),
            "raw_masses": torch.tensor([0.5, 0.5]),
        }
    )
    found = fit(start, observe(truth, 200, 32), 200, 240).gaussians
    torch.testing.assert_close(found.centres_A, truth.centres_A, atol=0.1, rtol=0)
    torch.testing.assert_close(found.masses, truth.masses, rtol=0.02, atol=0)
    torch.testing.assert_close(found.covariances_A2(), truth.covariances_A2(), atol=1.0, rtol=0.05)


def test_every_step_counts_however_few_there_are() -> None:
    """Four steps an epoch, fewer than between two judgements: those before the last epoch are judged all the same."""
    observations, start = observe(some_gaussians(1), 70, 24), some_gaussians()
    found = fit(start, observations, 70, 2, held_out=10)
    losses = found.rounds[0].held_out_loss
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert not torch.equal(found.stopped.centres_A, start.centres_A)


def test_ablations_hold_shapes_fixed() -> None:
    observations, start = observe(some_gaussians(1), 64, 24), some_gaussians()
    frozen = fit(start, observations, 64, 3, shapes=Shapes(rotations=False)).gaussians
    assert torch.equal(frozen.quaternions, start.quaternions)
    assert not torch.equal(frozen.log_scales[:, 0], frozen.log_scales[:, 1])
    balls = fit(start, observations, 64, 3, shapes=Shapes(isotropic=True)).gaussians
    assert torch.equal(balls.log_scales[:, 0], balls.log_scales[:, 2])
    assert not torch.equal(balls.log_scales, start.log_scales)


def test_shapes_rest_until_gradients_have_little_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """And training does not end before they have moved, whatever the held-out images say."""
    monkeypatch.setattr("gem3d.fit.images.EVALUATION_STEPS", 3)
    monkeypatch.setattr("gem3d.fit.stopping.SMALLEST_GAIN", 1e9)
    observations, start = observe(some_gaussians(1), 70, 24), some_gaussians()
    monkeypatch.setattr("gem3d.fit.images.SHAPES_REST", 0.7)
    found = fit(start, observations, 70, 10, held_out=10)
    assert found.rounds[0].steps > 0.7 * 4 * 10
    assert not torch.equal(found.gaussians.log_scales, start.log_scales)
    monkeypatch.setattr("gem3d.fit.images.SHAPES_REST", 2.0)
    resting = fit(start, observations, 70, 10, held_out=10).gaussians
    assert torch.equal(resting.log_scales, start.log_scales)
    assert not torch.equal(resting.centres_A, start.centres_A)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("stop_after", "ends_early"), [(1, False), (4, False), (12, False), (14, False), (5, True), (8, True)]
)
def test_a_stopped_training_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, ends_early: bool
) -> None:
    """Within an epoch, at the end of one, before the last and in it, which takes in the held-out images."""
    monkeypatch.setattr("gem3d.fit.checkpoint.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("gem3d.fit.images.EVALUATION_STEPS", 3)
    if ends_early:
        monkeypatch.setattr("gem3d.fit.images.SHAPES_REST", 0.0)
        monkeypatch.setattr("gem3d.fit.stopping.SMALLEST_GAIN", 1e9)
        monkeypatch.setattr("gem3d.fit.images.GAIN_WINDOW", 2)
    observations, start = observe(some_gaussians(1), 70, 24, noise=0.5), some_gaussians()
    whole = fit(start, observations, 70, 4, held_out=10)
    assert whole.rounds[0].steps == (6 + 5 if ends_early else 3 * 4 + 5)
    calls = 0

    def kill(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls >= stop_after:
            raise Killed

    checkpoint = tmp_path / "half1.safetensors"
    with pytest.raises(Killed):
        fit(start, observations, 70, 4, held_out=10, checkpoint=Checkpoint(checkpoint), progress=kill)
    resumed = fit(start, observations, 70, 4, held_out=10, checkpoint=Checkpoint(checkpoint))
    again = fit(start, observations, 70, 4, held_out=10, checkpoint=Checkpoint(checkpoint))
    for result in (resumed, again):
        for a, b in ((result.gaussians, whole.gaussians), (result.stopped, whole.stopped)):
            for name, tensor in a.parameters.items():
                assert torch.equal(tensor, b.parameters[name]), name
        assert result.rounds == whole.rounds


def test_a_checkpoint_saved_at_the_last_judgement_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the judgement that ends the training: what was saved knows that it has ended."""
    monkeypatch.setattr("gem3d.fit.images.EVALUATION_STEPS", 3)
    monkeypatch.setattr("gem3d.fit.images.SHAPES_REST", 0.0)
    monkeypatch.setattr("gem3d.fit.stopping.SMALLEST_GAIN", 1e9)
    monkeypatch.setattr("gem3d.fit.images.GAIN_WINDOW", 2)
    observations, start = observe(some_gaussians(1), 70, 24, noise=0.5), some_gaussians()
    whole = fit(start, observations, 70, 4, held_out=10)
    checkpoint = tmp_path / "half1.safetensors"

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("gem3d.fit.training_state.TrainingState.fold", kill)
        with pytest.raises(Killed):
            fit(start, observations, 70, 4, held_out=10, checkpoint=Checkpoint(checkpoint))
    resumed = fit(start, observations, 70, 4, held_out=10, checkpoint=Checkpoint(checkpoint))
    assert resumed.rounds == whole.rounds
    assert torch.equal(resumed.gaussians.centres_A, whole.gaussians.centres_A)


def test_pose_gradients_lead_to_the_true_pose() -> None:
    """From 5 degrees and 2 px away, on noise-free images."""
    truth, box, n = some_gaussians(2, 40), 32, 6
    rng = np.random.default_rng(1)
    true_rotations = Rotation.random(n, rng=rng)
    true_shifts = torch.tensor(rng.uniform(-1, 1, (n, 2)), dtype=torch.float32)
    axes = rng.standard_normal((n, 3))
    away = Rotation.from_rotvec(np.deg2rad(5) * axes / np.linalg.norm(axes, axis=1, keepdims=True))
    begun = torch.tensor((away * true_rotations).as_matrix(), dtype=torch.float32)
    seen = project_images(
        truth, torch.tensor(true_rotations.as_matrix(), dtype=torch.float32), true_shifts, box
    )
    angle = torch.tensor(rng.uniform(0, 2 * np.pi, n), dtype=torch.float32)
    shifts = (true_shifts + 2 * torch.stack([angle.cos(), angle.sin()], 1)).requires_grad_()
    turns = torch.zeros(n, 3, requires_grad=True)
    adam = Adam([turns, shifts], [0.02, 0.3], (0.8, 0.9))
    for step in range(150):
        images = project_images(truth, turned(begun, turns), shifts, box)
        turns.grad = shifts.grad = None
        (images - seen).square().sum().backward()
        adam.set_rates([0.97**step] * 2)
        adam.step()
    found = Rotation.from_matrix(turned(begun, turns).detach().double().numpy())
    assert np.rad2deg((found * true_rotations.inv()).magnitude()).max() < 0.1
    torch.testing.assert_close(shifts.detach(), true_shifts, atol=0.02, rtol=0)


def test_gradient_of_a_rotation_vector() -> None:
    """At zero and away from it, against differences in float64; and a turn is what scipy says."""
    rng = np.random.default_rng(0)
    rotations = torch.tensor(Rotation.random(3, rng=rng).as_matrix())
    for scale in (0.0, 0.7):
        turns = torch.tensor(scale * rng.standard_normal((3, 3)), requires_grad=True)
        assert torch.autograd.gradcheck(lambda v: turned(rotations, v), (turns,))
        expected = Rotation.from_rotvec(turns.detach().numpy()).as_matrix() @ rotations.numpy()
        np.testing.assert_allclose(turned(rotations, turns).detach().numpy(), expected, atol=1e-12)

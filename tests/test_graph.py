"""Steps of both fits as a CUDA graph does them: what was recorded of one is done again, on the same memory.

A recording takes down every operation of torch with the tensors it worked on, and replays just these. Whatever a step
kept on the host, such as a rate or a count, would be that of the recorded step for ever; and a value that the host
asks for ends the recording, as it does on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gem3d.errors import Gem3dWarning
from gem3d.fit import graph
from gem3d.fit.descent import Descent, Shapes
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.images import ImageTraining
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator
from gem3d.fit.result import Fit
from gem3d.fit.training_set import TrainingSet
from gem3d.fit.volume import BETAS, LOOK_EVERY, STEP_SIZES, fit_operators
from gem3d.fit.volume_step import VolumeStep
from gem3d.gaussians import Gaussians
from gem3d.kernels.project.reference import project_reference
from gem3d.kernels.voxelize import reference
from training_cases import equations_of, observe, some_gaussians

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid(16, 2.0, 2.0, (2, 3, 4), (10, 9, 8))
# A value that the host asks for, and a tensor made of the host's values.
REFUSED = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default)


class Recording(TorchDispatchMode):
    """The operations of some work, which is undone."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._own: set[int] = set()
        with self:
            work()
        for storage, before in self._before.values():
            storage.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in REFUSED:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in tensors_of((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        results = func(*args, **(kwargs or {}))
        for tensor in tensors_of(results):
            if tensor.untyped_storage().data_ptr() not in self._before:
                self._own.add(tensor.untyped_storage().data_ptr())
        self._calls.append((func, args, kwargs or {}, results))
        return results

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self._calls:
            again = func(*args, **kwargs)
            for recorded, new in zip(tensors_of(results), tensors_of(again), strict=True):
                if recorded.data_ptr() != new.data_ptr():
                    recorded.copy_(new)


def tensors_of(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Let work on the CPU be recorded and replayed as it is on a GPU; the recordings made."""
    made: list[Recording] = []

    def record(work: Callable[[], None]) -> graph.Replay:
        made.append(Recording(work))
        return made[-1].replay

    monkeypatch.setattr(graph, "records_on", lambda device: True)
    monkeypatch.setattr(graph, "warm_up", lambda work: work())
    monkeypatch.setattr(graph, "record", record)
    return made


@pytest.fixture(autouse=True)
def _kernels_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas themselves, of which every operation is torch's."""
    monkeypatch.setattr("gem3d.fit.operator.voxelize", reference.voxelize)

    def project(*arguments: Any) -> torch.Tensor:
        return project_reference(*arguments[:6])

    monkeypatch.setattr("gem3d.fit.image_loss.project", project)


def operators() -> tuple[NormalOperator, NormalOperator]:
    """Of images of some Gaussians, so noisy that a fit soon fits noise."""
    box, n = 16, 120
    observations = observe(some_gaussians(1), n, box, noise=3.0)
    noise = torch.full((8,), 9.0 * box * box)
    parts = np.split(np.arange(n), [100])
    training, held_out = (NormalOperator(equations_of(observations, rows, noise), GRID) for rows in parts)
    return training, held_out


def same(one: Fit, other: Fit) -> None:
    assert one.rounds == other.rounds
    for name, parameter in one.gaussians.parameters.items():
        assert torch.equal(parameter, other.gaussians.parameters[name]), name
        assert torch.equal(one.stopped.parameters[name], other.stopped.parameters[name]), name


def fitted() -> Fit:
    return fit_operators(some_gaussians(n=6), *operators(), most_gaussians=12)


def test_a_volume_fit_replays_its_steps(request: pytest.FixtureRequest) -> None:
    expected = fitted()
    recordings = request.getfixturevalue("recorded")
    same(fitted(), expected)
    assert len(recordings) == len(expected.rounds) + 1  # and one while the held-out particles are folded in


def test_a_fit_finds_the_same_however_seldom_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fitted()
    assert any(each.steps % LOOK_EVERY for each in expected.rounds)
    monkeypatch.setattr("gem3d.fit.volume.uses_triton", lambda tensor: True)
    same(fitted(), expected)


@pytest.mark.parametrize("shapes", [Shapes(), Shapes(rotations=False), Shapes(isotropic=True)])
def test_training_replays_its_steps(shapes: Shapes, request: pytest.FixtureRequest) -> None:
    observations = observe(some_gaussians(1), 50, 24, noise=0.1)

    def trained() -> Fit:
        return ImageTraining(
            start=some_gaussians(2, n=6),
            observations=observations,
            loss=ImageLoss(observations, torch.full((1, 12), 576.0), 11),
            images=TrainingSet(np.arange(50), np.arange(50) % 8 == 0, (0, 1), smallest_block=8),
            judge=operators()[1],
            voxel_size_A=2.0,
            epochs=5,
            shapes=shapes,
        ).run()

    expected = trained()
    recordings = request.getfixturevalue("recorded")
    same(trained(), expected)
    # Blocks of 8 and of what is left of images, and moves in the first epoch and after it.
    assert len(recordings) == 4


def test_what_the_host_reads_is_not_recorded(recorded: list[Recording]) -> None:
    """Work that CUDA refuses to record is done all the same, and the user hears of it once."""
    total = torch.zeros(())
    repeated = graph.Repeated(lambda values: total.add_(float(values.sum())), torch.device("cpu"))
    for _ in range(graph.WARM_UPS):
        repeated(torch.ones(3))
    with pytest.warns(Gem3dWarning, match="one by one"):
        repeated(torch.ones(3))
    repeated(torch.ones(3))
    assert float(total) == 3.0 * (graph.WARM_UPS + 2)
    assert not recorded


def test_few_shapes_are_recorded(recorded: list[Recording]) -> None:
    total = torch.zeros(())

    def add(values: torch.Tensor) -> None:
        total.add_(values.sum())

    repeated = graph.Repeated(add, torch.device("cpu"))
    sizes = range(1, graph.MOST_RECORDINGS + 3)
    for times in range(1, 6):
        for n in sizes:
            repeated(torch.full((n,), float(times)))
    assert len(recorded) == graph.MOST_RECORDINGS
    assert float(total) == sum(sizes) * sum(range(1, 6))


def test_a_step_stays_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on torch's device "meta" have no values, and do not work together with those of the CPU."""

    def voxelize(masses: torch.Tensor, centres: torch.Tensor, covariances: torch.Tensor, shape: Any) -> Any:
        return masses.sum() + centres.sum() + covariances.sum() + torch.zeros(shape, device=masses.device)

    monkeypatch.setattr("gem3d.fit.operator.voxelize", voxelize)
    meta = torch.device("meta")
    start = some_gaussians(n=6).to(meta)
    there = [NormalOperator(NormalEquations.zeros(16, 2.0, device=meta), GRID) for _ in range(2)]
    step = VolumeStep(Descent(start, 2.0, STEP_SIZES, BETAS, Shapes()), *there)
    judged = step(0.5)
    assert judged.losses.is_meta
    assert isinstance(judged.gaussians, Gaussians)
    assert judged.gaussians.centres_A.is_meta
    moved = NormalOperator(NormalEquations.zeros(16, 2.0), GRID).to(meta)
    assert moved.loss_and_gradient(torch.zeros(GRID.shape, device=meta))[0].is_meta

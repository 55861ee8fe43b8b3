"""The whole job on a device that computes nothing: every tensor has to be where it is used.

Tensors on torch's device "meta" have shapes but no values, and most work refuses them beside those of the CPU, as it
does those of a GPU. Kernels only look where their tensors are, and what comes back to the host is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from gem3d.device import Device
from gem3d.fit import device_batches
from gem3d.fit.checkpoint import no_checkpoint
from gem3d.fit.observations import Observations
from gem3d.fit.start import Start
from gem3d.half_maps import Job, read_images
from gem3d.particles import ImageSource, read_particles
from gem3d.particles.copy_lane import Done
from gem3d.particles.preprocess import GOOD
from gem3d.place import Place
from gem3d.progress import Reporter
from gem3d.settings import ReconstructSettings
from gem3d.simulate import Simulation
from training_cases import some_gaussians

N_IMAGES, LAST_SHELL = 60, 12


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """What comes to the host of a tensor without values."""
    return torch.ones_like(tensor, device="cpu") if tensor.is_meta else tensor


class Kernels:
    """Stand in for the kernels of a GPU."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def load(self, package: str) -> SimpleNamespace:
        name = package.rpartition(".")[2]

        def kernel(work: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                tensors = [each for each in (*arguments, *options.values()) if isinstance(each, torch.Tensor)]
                assert all(each.is_meta for each in tensors), f"{name}: {[each.device for each in tensors]}"
                self.called.add(f"{name} {work.__name__}")
                return work(*arguments)

            return called

        def weigh_slices(*arguments: Any) -> None: ...
        def insert_slices(*arguments: Any) -> None: ...
        def backward(*arguments: Any) -> tuple[torch.Tensor, ...]:
            n = {"project": 5, "voxelize": 3}[name]
            return tuple(torch.empty_like(each) for each in arguments[:n])

        def forward(*arguments: Any) -> torch.Tensor:
            if name == "voxelize":
                return arguments[0].new_empty(arguments[3])
            box = arguments[5]
            return arguments[0].new_empty((len(arguments[3]), box, box))

        return SimpleNamespace(
            **{each.__name__: kernel(each) for each in (weigh_slices, insert_slices, forward, backward)}
        )


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Those of a device without values, which is taken for a GPU."""
    kernels = Kernels()
    for package in ("project", "voxelize", "insert_slices"):
        monkeypatch.setattr(f"gem3d.kernels.{package}.load_gpu", kernels.load)
    for module in (
        "kernels.project",
        "kernels.voxelize",
        "kernels.insert_slices",
        "fit.operator",
        "fit.volume",
    ):
        monkeypatch.setattr(f"gem3d.{module}.uses_triton", lambda tensor: tensor.is_meta)

    def fetch(statistics: torch.Tensor) -> tuple[torch.Tensor, Done]:
        columns = on_host(statistics)
        columns[:, 0] = GOOD
        return columns, Done(None)

    monkeypatch.setattr(device_batches, "fetch", fetch)
    for name in ("cpu", "tolist", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, original: Any = original) -> Any:
            return original(on_host(tensor))

        monkeypatch.setattr(torch.Tensor, name, read)
    to = torch.Tensor.to

    def moved(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if "cpu" in (str(each) for each in (*arguments, *options.values())):
            tensor = on_host(tensor)
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    return kernels


@pytest.mark.parametrize("fit", ["volume", "images"])
def test_a_job_keeps_to_its_device(
    made: Simulation, kernels: Kernels, fit: Literal["volume", "images"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gem3d.fit.volume.MAX_STEPS", 2)
    monkeypatch.setattr("gem3d.fit.volume.FOLD_STEPS", 1)
    images = ImageSource(read_particles(made.star).subset(np.arange(N_IMAGES)))
    observations = Observations.of(images, 0.4 * images.box_size_px)
    job = Job(
        ReconstructSettings(fit=fit, epochs=2 if fit == "images" else "auto"),
        Reporter(quiet=True),
        np.tile(np.array([1, 2], dtype=np.int8), N_IMAGES // 2),
        LAST_SHELL,
        100.0,
        None,
        Place(Device("meta")),  # type: ignore[arg-type]
    )
    linear, method = read_images(job, observations, no_checkpoint)
    start = Start(some_gaussians(), ((-50.0, 50.0),) * 3, 30)

    def report(done: float, total: float, note: str = "") -> None: ...

    one, other = (method.fit_half(number, start, report) for number in (1, 2))
    final = method.fit_final((one, other), report)
    assert kernels.called == {
        "insert_slices weigh_slices",
        "insert_slices insert_slices",
        "voxelize forward",
        *({"voxelize backward"} if fit == "volume" else {"project forward", "project backward"}),
    }
    assert all(each.values.shape == (images.box_size_px,) * 3 for each in linear)
    assert final.gaussians.centres_A.device.type == "cpu"

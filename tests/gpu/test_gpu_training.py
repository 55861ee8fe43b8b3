"""The loss of images, and training by them, on a GPU against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gem3d.fit.arrivals import Arrivals
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.images import train_on_images
from gem3d.fit.observations import Observations
from gem3d.fit.result import Fit
from gem3d.fit.training_set import TrainingSet
from gem3d.gaussians import Gaussians
from gem3d.particles import ImageSource, read_particles
from gem3d.simulate import Simulation

pytestmark = pytest.mark.gpu

N_IMAGES, LAST_SHELL = 6, 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def observations(made: Simulation) -> Observations:
    images = ImageSource(read_particles(made.star).subset(np.arange(N_IMAGES)))
    return Observations.of(images, 0.4 * images.box_size_px)


def noise_power(observations: Observations) -> torch.Tensor:
    return torch.full((1, LAST_SHELL + 1), float(observations.box_size_px**2))


def start() -> Gaussians:
    rng = np.random.default_rng(0)
    n = 6
    return Gaussians(
        torch.from_numpy(rng.uniform(-30, 30, (n, 3))).float(),
        torch.from_numpy(rng.uniform(8, 12, (n, 3))).float().log(),
        torch.from_numpy(rng.normal(size=(n, 4))).float(),
        torch.zeros(n),
        3000.0,
    )


def judged(observations: Observations, device: torch.device) -> tuple[torch.Tensor, ...]:
    loss = ImageLoss(observations, noise_power(observations), LAST_SHELL, device)
    leaves = {name: t.to(device).requires_grad_() for name, t in start().parameters.items()}
    gaussians = start().replaced(leaves)
    (batch,) = Arrivals(observations, np.arange(N_IMAGES), N_IMAGES, device)
    transforms = observations.transform(batch.images, batch.rows)
    images = loss.measured(torch.from_numpy(batch.rows), transforms)
    value = loss.backward(gaussians, images)
    by_shell = torch.from_numpy(loss.by_shell(gaussians, images))
    gradients = [leaf.grad.cpu() for leaf in leaves.values() if leaf.grad is not None]
    return value.cpu(), by_shell, *gradients


def test_loss_and_gradients_are_those_of_the_cpu(
    gpu: torch.device, observations: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged(observations, gpu)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    expected = judged(observations, CPU)
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        # Each leaves out up to a thousandth of a Gaussian's mass, beyond an ellipse or the rows around it; its tail
        # counts most for the gradient of its width.
        assert float((one - other).norm()) < 2e-2 * float(other.norm())


def test_training_goes_the_same_way(
    gpu: torch.device, observations: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(device: torch.device) -> Fit:
        images = TrainingSet(
            np.arange(N_IMAGES), np.zeros(N_IMAGES, dtype=bool), (0, 1), smallest_block=N_IMAGES // 2
        )
        return train_on_images(
            start(),
            observations,
            noise_power(observations),
            LAST_SHELL,
            images,
            device=device.type,
            voxel_size_A=observations.pixel_size_A,
            epochs=2,
        )

    found = trained(gpu)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    expected = trained(CPU)
    for name, parameter in found.gaussians.parameters.items():
        assert parameter.device.type == "cpu"
        torch.testing.assert_close(parameter, expected.gaussians.parameters[name], rtol=1e-2, atol=2e-2)

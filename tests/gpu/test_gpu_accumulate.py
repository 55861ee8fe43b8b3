"""The pass over the images on a GPU against that on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gem3d.fit.accumulate import accumulate
from gem3d.fit.half_sets import HalfSet
from gem3d.fit.observations import Observations
from gem3d.particles import ImageSource, read_particles
from gem3d.simulate import Simulation

pytestmark = pytest.mark.gpu

N_IMAGES = 16


def observed(made: Simulation) -> Observations:
    particles = read_particles(made.star).subset(np.arange(N_IMAGES))
    images = ImageSource(particles)
    return Observations.of(images, 0.4 * images.box_size_px)


def accumulated(
    observations: Observations, device: str, monkeypatch: pytest.MonkeyPatch, *, on_cpu: bool
) -> tuple[HalfSet, ...]:
    with monkeypatch.context() as patch:
        if on_cpu:
            patch.setenv("TRITON_INTERPRET", "0")
        halves = observations.images.particles.half_set
        return accumulate(observations, halves, seed=0, radius=6, device="cpu" if on_cpu else device)


@pytest.mark.parametrize("with_bad_image", [False, True])
def test_equations_and_noise_are_those_of_the_cpu(
    with_bad_image: bool,
    gpu: torch.device,
    made: Simulation,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = observed(made)
    pair = []
    for on_cpu in (True, False):
        observations = replace(given, excluded=type(given.excluded)(N_IMAGES, most_share=0.5))
        if with_bad_image:
            observations.excluded.usual_power = _power_of_brightest(given)
        pair.append((accumulated(observations, gpu.type, monkeypatch, on_cpu=on_cpu), observations))
    (expected, on_host), (found, on_gpu) = pair
    assert np.array_equal(on_host.excluded.statuses, on_gpu.excluded.statuses)
    assert (len(on_host.excluded) > 0) == with_bad_image
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.noise_power, other.noise_power, rtol=1e-4, atol=0)
        for mine, theirs in ((one.training, other.training), (one.held_out, other.held_out)):
            assert mine.n_particles == theirs.n_particles
            assert mine.accumulator.device.type == gpu.type
            difference = (mine.accumulator.cpu() - theirs.accumulator).norm()
            assert float(difference) <= 1e-5 * float(theirs.accumulator.norm())


def _power_of_brightest(observations: Observations) -> float:
    """A usual power that makes the brightest image, and no other, an extreme one."""
    rows = np.arange(N_IMAGES)
    powers = next(found.power for _, found in observations.all_batches(rows, N_IMAGES))
    brightest, next_to_it = np.sort(powers)[::-1][:2]
    return float((brightest + next_to_it) / 2 / 100)

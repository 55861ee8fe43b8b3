"""Images on their way to a GPU, against the host's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from gem3d.fit.observations import Observations
from gem3d.particles import ImageSource, measure_images
from gem3d.particles.device_images import DeviceFeed
from gem3d.particles.measure_on_device import DevicePreparation, DeviceStatistics
from test_device_images import observe, spoil, spoiled_images
from test_image_source import random_images, two_grids, whole, write_stack

pytestmark = pytest.mark.gpu


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """The host waiting for the device is an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_pixels_of_every_type_arrive_in_order(gpu, tmp_path, mode):
    images = random_images(200, 64)
    write_stack(tmp_path / "a.mrcs", images, mode)
    feed = DeviceFeed(ImageSource(whole(tmp_path / "a.mrcs", 200)), gpu)
    rows = np.random.default_rng(0).integers(0, 200, 500)
    copies = []
    for batch in feed.batches(rows, 7):
        assert batch.parts[0].pixels.device.type == gpu.type
        copies.append(batch.parts[0].pixels.to(torch.float32, copy=True))
    np.testing.assert_array_equal(torch.cat(copies).cpu().numpy(), images[rows])


@pytest.mark.parametrize("normalise", [True, False])
def test_the_device_measures_as_the_host_does_without_waiting(gpu, normalise):
    images = spoiled_images(64)
    expected = images.copy()
    found = measure_images(expected, 20.0, normalise=normalise)
    prepare = DevicePreparation(64, 20.0, normalise=normalise, invert=False, device=gpu)
    pixels = torch.from_numpy(images).to(gpu)
    with no_waiting(gpu):
        left, statistics = prepare(pixels)
    ours = DeviceStatistics.on_host(statistics.columns.cpu())
    np.testing.assert_array_equal(ours.status, found.status)
    np.testing.assert_allclose(ours.power, found.power, rtol=1e-6)
    good = found.status == 0
    np.testing.assert_allclose(left.cpu().numpy()[good], expected[good], rtol=1e-5, atol=1e-6)


def test_a_pass_over_a_set_with_bad_images(gpu, made, tmp_path):
    star = spoil(made, tmp_path)
    ours, theirs, rows = observe(star), observe(star), np.arange(300)
    expected = np.concatenate([ours.transform(b.images, b.rows).numpy() for b in theirs.batches(rows, 32)])
    found = [(ours.transform(b.images, b.rows), b.weight) for b in ours.device_batches(rows, 32, gpu)]
    transforms, weight = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    np.testing.assert_array_equal(ours.excluded.statuses, theirs.excluded.statuses)
    np.testing.assert_allclose(transforms[weight == 1], expected, atol=1e-5 * np.abs(expected).max())
    assert weight.sum() == 297
    assert not transforms[weight == 0].any()


def test_images_of_several_grids(gpu, tmp_path):
    source = two_grids(tmp_path, boxes=(32, 40))
    ours, theirs = (Observations.of(source, 12.0) for _ in range(2))
    rows = np.array([11, 0, 3, 3, 8, 1, 2, 9])
    expected = np.concatenate([b.images.copy() for b in theirs.batches(rows, 3)])
    found = torch.cat([b.images for b in ours.device_batches(rows, 3, gpu)]).cpu().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

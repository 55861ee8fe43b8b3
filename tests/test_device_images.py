"""Images on their way to a device, for which the CPU stands in; and where the arithmetic happens on a real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gem3d.errors import ImageStackError, SettingsError
from gem3d.fit.noise import NoiseSpectrum
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.observations import Observations
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, weigh_slices
from gem3d.particles import ExcludedImages, ImageSource, measure_images, read_particles
from gem3d.particles import device_images as device_images_module
from gem3d.particles.device_images import DeviceFeed
from gem3d.particles.excluded import MOST_POWER
from gem3d.particles.measure_on_device import DevicePreparation, DeviceStatistics
from gem3d.particles.parallel_reader import ParallelReader
from gem3d.particles.preprocess import EXTREME
from gem3d.particles.resample import Resampler
from test_image_checks import spoil
from test_image_source import DTYPES, particle_set, random_images, two_grids, whole, write_stack

CPU = torch.device("cpu")
STORED_TYPES = {0: torch.int8, 1: torch.int16, 2: torch.float32, 6: torch.uint16, 12: torch.float16}


def joined(feed, order, batch_size=3):
    """Everything, copied batch by batch, and the types of the pixels of each batch."""
    pixels, types = [], []
    for batch in feed.batches(order, batch_size):
        (part,) = batch.parts
        types.append(part.pixels.dtype)
        pixels.append(part.pixels.to(torch.float32, copy=True))
    return torch.cat(pixels).numpy(), types


@pytest.mark.parametrize("mode", DTYPES)
@pytest.mark.parametrize("order", "<>")
def test_pixels_keep_their_type_and_come_in_native_order(tmp_path, mode, order):
    images = random_images()
    write_stack(tmp_path / "a.mrcs", images, mode, order)
    source = ImageSource(whole(tmp_path / "a.mrcs", 10))
    for rows in (np.arange(10), np.array([9, 2, 3, 4, 4, 0, 1])):
        pixels, types = joined(DeviceFeed(source, CPU), rows)
        np.testing.assert_array_equal(pixels, images[rows])
        assert set(types) == {STORED_TYPES[mode]}


def test_batches_of_several_types_come_as_float32(tmp_path):
    stacks = [random_images(6, 16, seed) for seed in range(2)]
    for name, images, mode in zip("ab", stacks, (12, 1), strict=True):
        write_stack(tmp_path / f"{name}.mrcs", images, mode)
    particles = particle_set(tmp_path / "p.star", ["a.mrcs", "b.mrcs"], [0] * 6 + [1] * 6, [*range(6)] * 2)
    pixels, types = joined(DeviceFeed(ImageSource(particles), CPU), np.arange(12), 4)
    np.testing.assert_array_equal(pixels, np.concatenate(stacks))
    assert types == [torch.float16, torch.float32, torch.int16]


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_share_a_batch_out(tmp_path, n_threads):
    images = random_images(23)
    write_stack(tmp_path / "a.mrcs", images)
    source = ImageSource(whole(tmp_path / "a.mrcs", 23))
    order = np.random.default_rng(0).integers(0, 23, 40)
    with ParallelReader(source.stacks, n_threads) as reader:
        for rows in (order, order[:3], order[:0]):
            out = np.full((len(rows), 16, 16), np.nan, np.float32)
            reader.read(np.zeros(len(rows), np.int32), rows.astype(np.int32), out)
            np.testing.assert_array_equal(out, images[rows])
    assert not reading_threads()


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("gem3d-read")]


def test_stopping_early_ends_the_threads(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(50))
    feed = DeviceFeed(ImageSource(whole(tmp_path / "a.mrcs", 50)), CPU)
    batches = feed.batches(np.arange(50), 2)
    next(batches)
    assert reading_threads()
    batches.close()
    assert not reading_threads()
    assert len(list(feed.batches(np.arange(50), [20, 30]))) == 2
    assert not reading_threads()
    assert list(feed.batches(np.arange(0), 2)) == []


def test_errors_of_reading_come_out_where_batches_are_asked_for(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(50))
    feed = DeviceFeed(ImageSource(whole(tmp_path / "a.mrcs", 50)), CPU)
    with (tmp_path / "a.mrcs").open("r+b") as file:
        file.truncate(1024 + 20 * 1024 + 17)
    seen = []
    with pytest.raises(ImageStackError, match=r"a\.mrcs: ends at byte 21521"):
        seen.extend(len(batch.rows) for batch in feed.batches(np.arange(50), 5))
    assert seen == [5] * 4
    assert not reading_threads()
    with pytest.raises(IndexError, match=r"0\.\.49"):
        feed.batches(np.array([50]), 1)


class _Point:
    """In a queue of a device's work."""

    def __init__(self, device, queue):
        self.device, self.queue, self.end = device, queue, len(queue)

    def wait(self):
        with self.device.lock:
            for i in range(self.end):
                work, self.queue[i] = self.queue[i], None
                if work is not None:
                    work()


class LateLane:
    """Of a device that does everything as late as it may: what is waited for, and what that has to wait for."""

    def __init__(self):
        self.lock, self.sizes, self.copies, self.computing = threading.RLock(), [], [], []

    def host_memory(self, n_bytes):
        self.sizes.append(n_bytes)
        return torch.full((n_bytes,), 255, dtype=torch.uint8)

    def copy(self, target, source, after):
        def work():
            after.wait()
            target.copy_(source)

        with self.lock:
            self.copies.append(work)
            return _Point(self, self.copies)

    def compute_after(self, copied):
        self.compute(copied.wait)

    def compute(self, work):
        with self.lock:
            self.computing.append(work)

    def computed(self):
        with self.lock:
            return _Point(self, self.computing)


def test_memory_is_reused_only_when_it_is_done_with(tmp_path, monkeypatch):
    images, lane = random_images(60), LateLane()
    write_stack(tmp_path / "a.mrcs", images, 12)
    feed = DeviceFeed(ImageSource(whole(tmp_path / "a.mrcs", 60)), CPU)
    monkeypatch.setattr(device_images_module, "CopyLane", lambda device: lane)
    found, places, at_once = [], set(), []
    for batch in feed.batches(np.arange(60), 4):
        (part,) = batch.parts
        lane.compute(lambda pixels=part.pixels: found.append(pixels.float().numpy()))
        places.add(part.pixels.data_ptr())
        at_once.append(len(at_once) + 1 - len(found))
        threading.Event().wait(0.002)  # the reading thread goes as far as it can
    lane.computed().wait()
    np.testing.assert_array_equal(np.concatenate(found), images)
    assert lane.sizes == [4 * 16 * 16 * 2] * 3
    assert len(places) == 2
    # The host does not wait for each batch, and does not run away from the device.
    assert 2 <= max(at_once) <= 5


def spoiled_images(box, mean=40.0, sd=3.0):
    images = np.random.default_rng(0).normal(mean, sd, (12, box, box)).astype(np.float32)
    middle = box // 2
    images[1] = 7.25
    images[2] = 7.25
    images[2, middle, middle] = 3.0
    images[3, 0, 0] = np.nan
    images[4, middle, middle] = np.nan
    images[5, box - 1, 3] = -np.inf
    images[6, middle - 1, middle] = np.inf
    images[7, middle, middle + 1] = 1e6 * sd
    images[8, 0, 0] = 1e5 * sd
    images[9, 0, 1] = 3e38
    images[10] *= 30
    return images


@pytest.mark.parametrize("box", [31, 32, 64])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("invert", [True, False])
@pytest.mark.parametrize(("mean", "sd"), [(40.0, 3.0), (3e4, 100.0), (-5.0, 0.01)])
def test_the_device_measures_as_the_host_does(monkeypatch, box, normalise, invert, mean, sd):
    monkeypatch.setattr("gem3d.particles.measure_on_device._PIXELS_AT_ONCE", 5 * box**2)
    images = spoiled_images(box, mean, sd)
    expected = -images if invert else images.copy()
    found = measure_images(expected, box / 3, normalise=normalise)
    prepare = DevicePreparation(box, box / 3, normalise=normalise, invert=invert, device=CPU)
    left, statistics = prepare(torch.from_numpy(images))
    ours = DeviceStatistics.on_host(statistics.columns)
    np.testing.assert_array_equal(ours.status, found.status)
    assert len(set(found.status)) >= 4
    for name in ("background_mean", "background_sd", "power"):
        np.testing.assert_allclose(getattr(ours, name), getattr(found, name), rtol=1e-9, err_msg=name)
    good = found.status == 0
    np.testing.assert_allclose(left.numpy()[good], expected[good], rtol=1e-5, atol=1e-6)
    assert not left.numpy()[~good].any()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.float16])
def test_pixels_of_every_type_are_measured(dtype):
    images = np.random.default_rng(0).normal(60, 9, (4, 32, 32)).clip(0, 127).astype(dtype)
    expected = -images.astype(np.float32)
    found = measure_images(expected, 12.0, normalise=True)
    prepare = DevicePreparation(32, 12.0, normalise=True, invert=True, device=CPU)
    left, statistics = prepare(torch.from_numpy(images))
    np.testing.assert_allclose(left.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.power.numpy(), found.power, rtol=1e-6)


def test_a_radius_that_leaves_no_background():
    with pytest.raises(SettingsError, match="background radius"):
        DevicePreparation(16, 12.0, normalise=True, invert=False, device=CPU)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.uint16, torch.float32])
def test_all_arithmetic_stays_on_the_device(normalise, dtype):
    """On a device without data a tensor of the host among others, and any look at a value, are errors."""
    meta = torch.device("meta")
    prepare = DevicePreparation(40, 15.0, normalise=normalise, invert=True, device=meta)
    images, statistics = prepare(torch.empty((6, 40, 40), dtype=dtype, device=meta))
    resampled = Resampler(40, 1.0, 32, 1.25, factor=1.25).on(meta)(images)
    spectrum = NoiseSpectrum(32, 12.0, device=meta)
    spectrum.add(resampled, (statistics.status == 0).float())
    assert {t.device for t in (images, statistics.columns, resampled)} == {meta}
    assert resampled.shape == (6, 32, 32)
    mixed = DevicePreparation(40, 15.0, normalise=normalise, invert=True, device=CPU)
    with pytest.raises(RuntimeError, match="device"):
        mixed(torch.empty((6, 40, 40), dtype=dtype, device=meta))


@pytest.fixture(scope="module")
def spoiled(made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoil(made, tmp_path_factory.mktemp("spoiled"))


def observe(star: Path, **kwargs) -> Observations:
    images = ImageSource(read_particles(star), **kwargs)
    return Observations.of(images, 0.42 * images.box_size_px)


def host_images(observations: Observations, rows, batch_size):
    batches = [(b.rows, b.images.copy()) for b in observations.batches(rows, batch_size)]
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def device_images(observations: Observations, rows, batch_size) -> Iterator[np.ndarray]:
    batches = list(observations.device_batches(rows, batch_size, CPU))
    assert [b.n_read for b in batches] == [len(b.rows) for b in batches]
    np.testing.assert_array_equal(np.concatenate([b.rows for b in batches]), rows)
    return (torch.cat([getattr(b, name) for b in batches]).numpy() for name in ("images", "weight"))


def test_batches_are_those_of_the_host(spoiled):
    ours, theirs, rows = observe(spoiled), observe(spoiled), np.arange(300)[::-1].copy()
    powers = np.concatenate([found.power for _, found in ours.all_batches(rows, 100)])
    for observations in (ours, theirs):
        # So that some images are too bright.
        observations.excluded.usual_power = np.quantile(powers, 0.9) / MOST_POWER
        observations.excluded._most_share = 1.0
    kept, expected = host_images(theirs, rows, 50)
    images, weight = device_images(ours, rows, 50)
    np.testing.assert_array_equal(ours.excluded.statuses, theirs.excluded.statuses)
    assert (theirs.excluded.statuses == EXTREME).any()
    np.testing.assert_array_equal(rows[weight == 1], kept)
    np.testing.assert_allclose(images[weight == 1], expected, rtol=1e-5, atol=1e-5)
    assert not images[weight == 0].any()
    assert len(rows) - len(ours.excluded) == weight.sum()


@pytest.mark.parametrize("binning", [1.0, 1.5])
def test_images_of_several_grids_are_those_of_the_host(tmp_path, binning):
    source = two_grids(tmp_path, boxes=(32, 40), binning=binning, invert=True)
    ours, theirs = (Observations.of(source, 0.4 * source.box_size_px) for _ in range(2))
    rows = np.array([11, 0, 3, 3, 8, 1, 2, 9])
    _, expected = host_images(theirs, rows, 3)
    images, weight = device_images(ours, rows, 3)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)
    assert weight.all()


def equations(observations: Observations, batches, spectrum: NoiseSpectrum):
    """N and W of some images with flat weights, and their number, as a pass over device batches sums them."""
    box, step = observations.box_size_px, 1 / (observations.box_size_px * observations.pixel_size_A)
    accumulator = NormalEquations.zeros(box, observations.pixel_size_A).accumulator
    flat = half_plane_weight(torch.ones((box - 1) // 2 + 1))
    for rows, images, weight in batches:
        transforms, here = observations.transform(images, rows), torch.from_numpy(rows)
        ctfs, shifts = observations.ctf_coefficients[here], observations.shifts_px[here]
        weighted = weigh_slices(transforms, ctfs, shifts, flat, step)
        if weight is not None:
            weighted *= weight[:, None, None, None]
        insert_slices(accumulator, weighted, observations.cameras[here])
        spectrum.add(torch.as_tensor(images), weight)
    return accumulator, spectrum.power()


def test_normal_equations_without_the_bad_images_are_those_of_the_host(spoiled):
    ours, theirs, rows = observe(spoiled), observe(spoiled), np.arange(300)
    spectra = (NoiseSpectrum(ours.box_size_px, ours.particle_radius_px) for _ in range(2))
    of_host = ((b.rows, b.images, None) for b in theirs.batches(rows, 64))
    of_device = ((b.rows, b.images, b.weight) for b in ours.device_batches(rows, 64, CPU))
    expected, expected_power = equations(theirs, of_host, next(spectra))
    found, power = equations(ours, of_device, next(spectra))
    assert len(ours.excluded) == len(theirs.excluded) == 3
    for part in range(expected.shape[-1]):
        error = (found[..., part] - expected[..., part]).norm() / expected[..., part].norm()
        assert error < 1e-5
    torch.testing.assert_close(power, expected_power, rtol=1e-5, atol=0)


def test_aberrations_are_turned_back_for_tensors_too(spoiled):
    observations = observe(spoiled)
    particles = observations.images.particles
    (group,) = particles.optics
    tilted = replace(group, name="tilted", phase_coefficients=(3.0, -2.0, 0.0, 5.0, 0.0, 0.0))
    index = (np.arange(300) % 2).astype(np.int32)
    observations.images.particles = replace(particles, optics=(group, tilted), optics_index=index)
    images, rows = random_images(6, 32), np.array([1, 2, 3, 4, 5, 7])
    expected = observations.transform(images, rows)
    torch.testing.assert_close(
        observations.transform(torch.from_numpy(images), rows), expected, rtol=0, atol=0
    )
    turned = (expected - torch.fft.rfft2(torch.from_numpy(images))).abs().amax((1, 2)) > 1
    assert turned.tolist() == [True, False, True, False, True, True]


def test_verdicts_come_late_and_can_be_asked_for(spoiled):
    observations = observe(spoiled)
    batches = observations.device_batches(np.arange(300), 10, CPU)
    (first, _), excluded = (next(batches), next(batches)), observations.excluded
    assert first.weight.sum() == 9
    assert len(excluded) == 0
    next(batches)
    np.testing.assert_array_equal(excluded.rows, [7])
    for _ in range(10):
        next(batches)
    assert len(excluded) == 1
    batches.judge()
    np.testing.assert_array_equal(excluded.rows, [7, 120])
    batches.close()
    assert not reading_threads()


def test_too_many_bad_images_end_the_pass(spoiled):
    observations = observe(spoiled)
    strict = replace(observations, excluded=ExcludedImages(300, most_share=0.005))
    with pytest.raises(ImageStackError, match="2 images of 300 cannot be used"):
        list(strict.device_batches(np.arange(300), 10, CPU))
    assert not reading_threads()

"""Stacks, their headers, and reading images in batches."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gem3d.errors import ImageStackError, SettingsError
from gem3d.particles import (
    ImageGrid,
    ImageSource,
    ImageStatistics,
    OpticsGroup,
    Particles,
    file_order,
    fill_box_size,
    read_relion_star,
)
from gem3d.particles.resample import Resampler

DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data is not here")


def particle_set(source, stacks, stack_index, image_index, box_size_px=0):
    n = len(stack_index)
    return Particles(
        rotations=np.tile(np.eye(3), (n, 1, 1)),
        shifts_A=np.zeros((n, 2)),
        defocus_A=np.full((n, 2), 1e4),
        astigmatism_deg=np.zeros(n),
        phase_shift_deg=np.zeros(n),
        ctf_bfactor_A2=np.zeros(n),
        ctf_scale=np.ones(n),
        optics_index=np.zeros(n, np.int32),
        half_set=np.zeros(n, np.int8),
        contrast=np.ones(len(stack_index)),
        micrograph_index=np.zeros(len(stack_index), np.int32),
        stack_index=np.asarray(stack_index, np.int32),
        image_index=np.asarray(image_index, np.int32),
        source_row=np.arange(len(image_index), dtype=np.int32),
        stacks=tuple(map(str, stacks)),
        optics=(OpticsGroup("one", 1.5, box_size_px, 300.0, 2.7, 0.1),),
        source=Path(source),
    )


def write_stack(path, images, mode=2, order="<", stamp=None, extended=b"", n_images=None):
    """A stack made by hand, so that its header can lie."""
    n, ny, nx = images.shape
    words = np.zeros(256, f"{order}i4")
    words[:4] = nx, ny, n if n_images is None else n_images, mode
    words[23] = len(extended)
    header = bytearray(words.tobytes())
    header[212:216] = stamp if stamp is not None else {"<": b"DD\0\0", ">": b"\x11\x11\0\0"}[order]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(header) + extended + images.astype(f"{order}{DTYPES[mode]}").tobytes())


def random_images(n=10, box=16, seed=0):
    return np.random.default_rng(seed).integers(0, 100, (n, box, box)).astype(np.float32)


def whole(path, n, **kwargs):
    return particle_set(path.parent / "p.star", [path.name], [0] * n, range(n), **kwargs)


def everything(source, order=None, batch_size=3):
    order = np.arange(len(source)) if order is None else order
    batches = [(b.rows.copy(), b.images.copy()) for b in source.batches(order, batch_size)]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in batches]), order)
    return np.concatenate([images for _, images in batches])


def refused(particles, *words, datadir=None):
    with pytest.raises(ImageStackError) as error:
        ImageSource(particles, datadir)
    for word in words:
        assert str(word) in str(error.value), str(error.value)


@pytest.mark.parametrize("mode", DTYPES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stamp", [None, b"\0\0\0\0", "wrong"])
def test_modes_and_byte_orders(tmp_path, mode, order, stamp):
    if stamp == "wrong":
        stamp = {">": b"DD\0\0", "<": b"\x11\x11\0\0"}[order]
    images = random_images()
    write_stack(tmp_path / "a.mrcs", images, mode, order, stamp, extended=b"x" * 84)
    source = ImageSource(whole(tmp_path / "a.mrcs", 10))
    assert source.box_size_px == 16
    assert source.particles.box_size_px == 16
    for batches in (everything(source), everything(source, np.arange(10)[::-1].copy())[::-1]):
        assert batches.dtype == np.float32
        assert batches.dtype.isnative
        np.testing.assert_array_equal(batches, images)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16])
def test_stacks_of_another_writer(tmp_path, dtype):
    images = random_images().astype(dtype)
    with mrcfile.new(tmp_path / "a.mrcs") as mrc:
        mrc.set_data(images)
        mrc.set_image_stack()
    np.testing.assert_array_equal(everything(ImageSource(whole(tmp_path / "a.mrcs", 10))), images)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("mode", [2, 1])
def test_batches_in_any_order_are_the_direct_reads(tmp_path, batch_size, mode):
    rng = np.random.default_rng(1)
    stacks = [random_images(40, 12, seed) for seed in range(3)]
    for i, images in enumerate(stacks):
        write_stack(tmp_path / f"{i}.mrcs", images, mode, "<>"[i % 2])
    stack_index, image_index = rng.integers(0, 3, 200), rng.integers(0, 40, 200)
    particles = particle_set(tmp_path / "p.star", ["0.mrcs", "1.mrcs", "2.mrcs"], stack_index, image_index)
    source = ImageSource(particles)
    direct = np.array([stacks[s][i] for s, i in zip(stack_index, image_index, strict=True)])
    with_repeats = rng.integers(0, 200, 300)
    for order in (np.arange(200), rng.permutation(200), file_order(particles), with_repeats):
        np.testing.assert_array_equal(everything(source, order, batch_size), direct[order])


def test_file_order(tmp_path):
    particles = particle_set(tmp_path / "p.star", ["b", "a"], [1, 0, 1, 0], [3, 9, 1, 2])
    np.testing.assert_array_equal(file_order(particles), [3, 1, 2, 0])


def test_many_more_stacks_than_open_files(tmp_path):
    names = [f"{i}.mrcs" for i in range(200)]
    for i, name in enumerate(names):
        write_stack(tmp_path / name, np.full((2, 4, 4), i % 100, np.float32))
    particles = particle_set(tmp_path / "p.star", names, [*range(200)] * 2, [0] * 200 + [1] * 200)
    source = ImageSource(particles)
    descriptors, most = Path("/proc/self/fd"), 0
    for batch in source.batches(np.arange(400), 16):
        most = max(most, len(list(descriptors.iterdir())) if descriptors.is_dir() else 0)
        np.testing.assert_array_equal(batch.images[:, 0, 0], batch.rows % 200 % 100)
    assert most < 140


def test_batches_of_given_sizes(tmp_path):
    images = random_images(9)
    write_stack(tmp_path / "a.mrcs", images)
    source, order, sizes = ImageSource(whole(tmp_path / "a.mrcs", 9)), np.arange(9)[::-1].copy(), [2, 4, 1, 2]
    assert [len(batch.rows) for batch in source.batches(order, sizes)] == sizes
    np.testing.assert_array_equal(everything(source, order, sizes), images[::-1])


def test_memory_is_reused(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(50))
    source = ImageSource(whole(tmp_path / "a.mrcs", 50))
    places = {batch.images.__array_interface__["data"][0] for batch in source.batches(np.arange(50), 5)}
    assert len(places) <= 3


def test_a_batch_is_left_alone_until_the_next(tmp_path):
    images = random_images(60)
    write_stack(tmp_path / "a.mrcs", images)
    source = ImageSource(whole(tmp_path / "a.mrcs", 60))
    for batch in source.batches(np.arange(60), 4):
        np.multiply(batch.images, 2, out=batch.images)  # the caller may work in place
        threading.Event().wait(0.002)
        np.testing.assert_array_equal(batch.images, 2 * images[batch.rows])


def test_closing_stops_the_thread(tmp_path):
    def readers():
        return [t for t in threading.enumerate() if t.name == "gem3d-read-ahead"]

    write_stack(tmp_path / "a.mrcs", random_images(50))
    source = ImageSource(whole(tmp_path / "a.mrcs", 50))
    batches = source.batches(np.arange(50), 2)
    next(batches)
    assert len(readers()) == 1
    batches.close()
    assert not readers()
    everything(source)
    assert not readers()
    assert list(source.batches(np.arange(0), 2)) == []


def test_requests_that_make_no_sense(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(5))
    source = ImageSource(whole(tmp_path / "a.mrcs", 5))
    for order in ([5], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.4"):
            source.batches(np.array(order), 1)
    for size in (0, [3, 0, 2]):
        with pytest.raises(ValueError, match="positive batch size"):
            source.batches(np.arange(5), size)
    with pytest.raises(ValueError, match="add up to 4"):
        source.batches(np.arange(5), [2, 2])


def test_a_file_that_goes_while_it_is_read(tmp_path):
    images = random_images(50)
    write_stack(tmp_path / "a.mrcs", images)
    source = ImageSource(whole(tmp_path / "a.mrcs", 50))
    (tmp_path / "a.mrcs").unlink()
    with pytest.raises(ImageStackError, match=r"a\.mrcs: can no longer be read"):
        everything(source)

    write_stack(tmp_path / "a.mrcs", images)
    os.truncate(tmp_path / "a.mrcs", 1024 + 20 * 1024 + 17)
    seen = []

    def read_on():
        for batch in source.batches(np.arange(50), 5):
            np.testing.assert_array_equal(batch.images, images[batch.rows])
            seen.append(batch.rows)

    with pytest.raises(ImageStackError, match=r"a\.mrcs: ends at byte 21521"):
        read_on()
    assert len(seen) == 4
    assert not any(t.name == "gem3d-read-ahead" for t in threading.enumerate())


def test_where_stacks_are_looked_for(tmp_path, monkeypatch):
    for i, place in enumerate(["data/sub", "data", "star/sub", "work/sub", "away"]):
        write_stack(tmp_path / place / "a.mrcs", np.full((1, 4, 4), i, np.float32))
    monkeypatch.chdir(tmp_path / "work")
    relative = particle_set(tmp_path / "star" / "p.star", ["sub/a.mrcs"], [0], [0])
    absolute = replace(relative, stacks=(str(tmp_path / "away" / "a.mrcs"),))

    def found(particles, datadir=None):
        return int(everything(ImageSource(particles, datadir))[0, 0, 0])

    assert found(absolute, tmp_path / "data") == 4
    assert found(relative, tmp_path / "data") == 0
    assert found(relative) == 2
    (tmp_path / "data/sub/a.mrcs").unlink()
    (tmp_path / "star/sub/a.mrcs").unlink()
    assert found(relative, tmp_path / "data") == 3
    (tmp_path / "work/sub/a.mrcs").unlink()
    (tmp_path / "away/a.mrcs").unlink()
    assert found(relative, tmp_path / "data") == 1
    assert found(absolute, tmp_path / "data") == 1
    refused(
        relative, "p.star: particle 1 (000001@sub/a.mrcs), column rlnImageName: no such stack", "--datadir"
    )
    refused(relative, tmp_path / "star" / "sub", tmp_path / "work" / "sub")


def test_the_first_particle_that_lacks_its_image_is_named(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(10))
    particles = particle_set(tmp_path / "p.star", ["a.mrcs"], [0, 0, 0], [9, 10, 40])
    refused(particles, "p.star: particle 2 (000011@a.mrcs), column rlnImageName", "only 10 images")
    # Only the stacks in use have to be there.
    two = particle_set(tmp_path / "p.star", ["a.mrcs", "gone.mrcs"], [0, 1], [3, 0])
    refused(two, "particle 2 (000001@gone.mrcs)")
    assert len(ImageSource(two.subset(slice(1)))) == 1
    refused(two.subset(slice(0)), "no particles")


def test_stacks_that_are_cut_short(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(3), n_images=7)
    refused(
        whole(tmp_path / "a.mrcs", 3),
        "a.mrcs: truncated",
        7 * 1024 + 1024,
        3 * 1024 + 1024,
        "3 complete images",
    )
    (tmp_path / "a.mrcs").write_bytes(b"\0too short")
    refused(whole(tmp_path / "a.mrcs", 3), "a.mrcs: 10 bytes", "particle 1 (000001@a.mrcs)")


def test_files_that_are_no_stacks(tmp_path):
    path = tmp_path / "a.mrcs"
    path.write_bytes(b"\xff\0" + bytes(range(256)) * 8)
    refused(whole(path, 1), "a.mrcs: not an MRC image stack", "First used by particle 1")
    write_stack(path, np.zeros((2, 8, 6), np.float32))
    refused(whole(path, 1), "6 x 8 pixels", "square")
    write_stack(path, random_images(2))
    data = bytearray(path.read_bytes())
    data[12] = 4
    path.write_bytes(data)
    refused(whole(path, 1), "MRC mode 4 is not supported")


def test_box_sizes_that_disagree(tmp_path):
    write_stack(tmp_path / "a.mrcs", random_images(2, 16))
    write_stack(tmp_path / "b.mrcs", random_images(2, 20))
    both = particle_set(tmp_path / "p.star", ["a.mrcs", "b.mrcs"], [0, 1], [0, 0])
    refused(both, "b.mrcs: box size 20 px", "16", "particle 2 (000001@b.mrcs)")
    refused(whole(tmp_path / "a.mrcs", 2, box_size_px=18), "p.star", "box size is 18 px", "16 px")
    assert fill_box_size(whole(tmp_path / "a.mrcs", 2)).box_size_px == 16


def test_trailing_bytes_do_no_harm(tmp_path):
    images = random_images(3)
    write_stack(tmp_path / "a.mrcs", images, n_images=2)
    np.testing.assert_array_equal(everything(ImageSource(whole(tmp_path / "a.mrcs", 2))), images[:2])


@needs_shared
def test_real_stacks():
    formats = SHARED / "formats"
    refused(
        whole(formats / "truncated_stack.mrcs", 1), "truncated", "11029 images", 66560, "1 complete images"
    )
    assert ImageSource(whole(formats / "float16.mrc", 1)).box_size_px == 64
    for path, n, box, dtype in [
        (formats / "relion31.mrcs", 5, 256, "<f4"),
        (formats / "empiar_10076_7.mrc", 7, 320, "<f4"),
        (formats / "float16.mrc", 1, 64, "<f2"),
    ]:
        expected = np.fromfile(path, dtype, offset=1024).reshape(n, box, box)
        np.testing.assert_array_equal(everything(ImageSource(whole(path, n))), expected)


@needs_shared
def test_real_set_by_its_star_file():
    source = ImageSource(read_relion_star(SHARED / "point_oracle" / "relion_proj_batch.star"))
    assert (len(source), source.box_size_px) == (24, 64)
    with mrcfile.open(SHARED / "point_oracle" / "relion_proj_batch.mrcs", permissive=True) as mrc:
        np.testing.assert_array_equal(everything(source), mrc.data)


def two_grids(tmp_path, n=(7, 5), boxes=(16, 20), pixels_A=(1.5, 1.2), **kwargs):
    """Particles of two optics groups, taking turns as long as there are any of both."""
    for name, count, box in zip("ab", n, boxes, strict=True):
        write_stack(tmp_path / f"{name}.mrcs", random_images(count, box))
    group = np.repeat([0, 1], n)
    index = np.concatenate([np.arange(count) for count in n])
    mixed = np.argsort(index, kind="stable")
    both = particle_set(tmp_path / "p.star", ["a.mrcs", "b.mrcs"], group[mixed], index[mixed])
    optics = tuple(
        OpticsGroup(name, pixel, 0, 300.0, 2.7, 0.1) for name, pixel in zip("ab", pixels_A, strict=True)
    )
    return ImageSource(replace(both, optics_index=both.stack_index, optics=optics), **kwargs)


@pytest.mark.parametrize("binning", [1.0, 1.5])
@pytest.mark.parametrize("boxes", [(32, 40), (33, 24)])
def test_images_of_several_grids_come_on_that_of_most(tmp_path, boxes, binning):
    source = two_grids(tmp_path, boxes=boxes, invert=True, binning=binning)
    box = boxes[0] if binning == 1 else 22
    assert [group.box_size_px for group in source.particles.optics] == list(boxes)
    assert (source.box_size_px, source.pixel_size_A) == (box, pytest.approx(1.5 * boxes[0] / box))
    stored = [-random_images(n, size) for n, size in zip((7, 5), boxes, strict=True)]
    expected = np.empty((12, box, box), np.float32)
    for i, (stack, image) in enumerate(
        zip(source.particles.stack_index, source.particles.image_index, strict=True)
    ):
        grid = source.grids[source.grid_index[i]]
        assert grid.box_size_px == boxes[stack]
        step = source.pixel_size_A / grid.pixel_size_A
        matrix = Resampler(grid.box_size_px, 1.0, box, step).matrix.numpy()
        alike = binning == 1 and stack == 0
        expected[i] = stored[stack][image] if alike else step * (matrix @ stored[stack][image] @ matrix.T)
    np.testing.assert_allclose(everything(source, batch_size=5), expected, atol=1e-3)
    order = np.array([11, 0, 3, 3, 8, 1])
    np.testing.assert_allclose(everything(source, order, 4), expected[order], atol=1e-3)


def test_images_are_prepared_on_the_grid_they_are_stored_on(tmp_path):
    source = two_grids(tmp_path, boxes=(16, 20))
    seen = []

    def prepare(images, grid):
        seen.append((images.shape[1], grid.box_size_px, len(images)))
        mean = images.mean(axis=(1, 2), dtype=np.float64)
        images[...] = images[:, :1, :1]
        return ImageStatistics(np.zeros(len(images), np.uint8), mean, mean, mean)

    (batch,) = source.batches(np.arange(12)[::-1], 12, prepare)
    assert seen == [(16, 16, 7), (20, 20, 5)]
    whole_images = [random_images(7, 16), random_images(5, 20)]
    p = source.particles
    stored = [whole_images[p.stack_index[row]][p.image_index[row]] for row in batch.rows]
    np.testing.assert_allclose(
        batch.statistics.background_mean, [image.mean() for image in stored], rtol=1e-6
    )
    factor = np.array([1.0, 1.25])[p.stack_index[batch.rows]]
    # A constant remains one where the boxes are as wide, 24 A both.
    expected = [image[0, 0] * f for image, f in zip(stored, factor, strict=True)]
    np.testing.assert_allclose(
        batch.images, np.broadcast_to(np.array(expected)[:, None, None], (12, 16, 16)), rtol=1e-5
    )


def test_noise_of_the_same_density_is_alike_from_every_grid(tmp_path):
    rng = np.random.default_rng(3)
    source = two_grids(tmp_path, (60, 40), (32, 64), (1.5, 1.1))
    for name, n, box in (("a", 60, 32), ("b", 40, 64)):
        write_stack(tmp_path / f"{name}.mrcs", rng.normal(size=(n, box, box)).astype(np.float32))
    (batch,) = source.batches(np.arange(100), 100)
    power = np.abs(np.fft.fft2(batch.images)[:, :12, :12]) ** 2
    fine = source.grid_index[batch.rows] == 1
    assert power[fine].mean() / power[~fine].mean() == pytest.approx(1, abs=0.05)


def test_pixel_sizes_that_differ_by_rounding_are_one_grid(tmp_path):
    nearly = (1.06, float(np.float32(1.06)))
    assert nearly[0] != nearly[1]
    source = two_grids(tmp_path, boxes=(16, 16), pixels_A=nearly)
    assert source.grids == (ImageGrid(16, 1.06),)
    stored = [random_images(7, 16), random_images(5, 16)]
    p = source.particles
    expected = [stored[s][i] for s, i in zip(p.stack_index, p.image_index, strict=True)]
    np.testing.assert_array_equal(everything(source), expected)
    assert len(two_grids(tmp_path, boxes=(16, 16), pixels_A=(1.06, 1.0605)).grids) == 2


@pytest.mark.parametrize(
    ("box", "factor", "binned"), [(64, 2, 32), (65, 2, 32), (100, 3, 34), (64, 1, 64), (65, 1, 65)]
)
def test_binning_keeps_the_width(box, factor, binned):
    grid = ImageGrid(box, 1.1).binned(factor)
    assert grid.box_size_px == binned
    assert grid.width_A == pytest.approx(box * 1.1)


def test_binning_too_far():
    with pytest.raises(SettingsError, match=r"--bin 5: leaves 12 of 64 pixels; give at most 4"):
        ImageGrid(64, 1.1).binned(5)

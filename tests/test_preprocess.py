"""Background normalisation, against plain numpy."""

from pathlib import Path

import numpy as np
import pytest

from gem3d.errors import ImageStackError, SettingsError
from gem3d.particles import OpticsGroup, Particles, normalise_background, refuse_unnormalised


def plain_numpy(images, radius_px):
    n = images.shape[1]
    offset = np.arange(n) - n // 2
    outside = offset[:, None] ** 2 + offset[None, :] ** 2 > radius_px**2
    background = images[:, outside].astype(np.float64)
    mean, std = background.mean(axis=1), background.std(axis=1)
    return (images - mean[:, None, None]) / std[:, None, None]


def twelve_particles():
    n = 12
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
        contrast=np.ones(n),
        micrograph_index=np.zeros(n, np.int32),
        stack_index=np.zeros(n, np.int32),
        image_index=np.arange(n, dtype=np.int32),
        source_row=np.arange(n, dtype=np.int32),
        stacks=("a.mrcs",),
        optics=(OpticsGroup("one", 1.5, 16, 300.0, 2.7, 0.1),),
        source=Path("p.star"),
    )


@pytest.mark.parametrize(
    ("box", "radius_px"), [(32, 14.0), (33, 12.5), (32, 3.2), (16, 10.5), (128, 60.0), (7, 0.5)]
)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-5.0, 0.01), (3e4, 100.0), (1e6, 8.0)])
def test_against_plain_numpy(box, radius_px, mean, std):
    images = np.random.default_rng(0).normal(mean, std, (9, box, box)).astype(np.float32)
    expected = plain_numpy(images, radius_px)
    status = normalise_background(images, radius_px)
    assert not status.any()
    # float32 pixels of a large mean are themselves only so fine
    np.testing.assert_allclose(images, expected, rtol=2e-6, atol=2e-6 + 1.2e-7 * abs(mean) / std)


def test_a_corner_that_lies_far_out_does_no_harm():
    images = np.random.default_rng(0).normal(0, 1, (2, 64, 64)).astype(np.float32)
    images[:, 0, 0] = 1e5
    expected = plain_numpy(images, 20)
    normalise_background(images, 20)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-7)


def test_images_that_cannot_be_normalised_are_named_and_left_alone():
    images = np.random.default_rng(0).normal(0, 1, (6, 16, 16)).astype(np.float32)
    images[1] = 7.25
    images[1, 8, 8] = 3.0  # inside: the background is still constant
    images[2, 0, 0] = np.nan
    images[3, 8, 8] = np.nan
    images[4, 15, 3] = -np.inf
    images[5, 7, 8] = np.inf
    before = images.copy()
    status = normalise_background(images, 6)
    np.testing.assert_array_equal(status, [0, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(images[1:], before[1:])

    particles = twelve_particles()
    rows = np.array([11, 3, 5, 6, 7, 8])
    with pytest.raises(ImageStackError, match=r"p\.star: particle 4 \(000004@a\.mrcs\): all pixels outside"):
        refuse_unnormalised(status, rows, particles)
    with pytest.raises(ImageStackError, match=r"particle 6 \(000006@a\.mrcs\): the image holds NaN"):
        refuse_unnormalised(status[2:], rows[2:], particles)
    refuse_unnormalised(status[:1], rows[:1], particles)


@pytest.mark.parametrize("radius_px", [0.0, -1.0, 12.0, float("nan")])
def test_a_radius_that_leaves_no_background(radius_px):
    with pytest.raises(SettingsError, match="background radius"):
        normalise_background(np.zeros((1, 16, 16), np.float32), radius_px)


def test_arrays_of_the_wrong_kind():
    with pytest.raises(TypeError, match="float32"):
        normalise_background(np.zeros((1, 16, 16)), 6)
    for shape in [(16, 16), (1, 16, 8)]:
        with pytest.raises(ValueError, match="contiguous"):
            normalise_background(np.zeros(shape, np.float32), 6)
    with pytest.raises(ValueError, match="contiguous"):
        normalise_background(np.zeros((2, 16, 16), np.float32).transpose(0, 2, 1), 6)
    assert normalise_background(np.zeros((0, 16, 16), np.float32), 6).shape == (0,)

"""Background normalisation, against plain numpy."""

import numpy as np
import pytest

from gem3d.errors import SettingsError
from gem3d.particles import measure_images, normalise_background


def plain_numpy(images, radius_px):
    n = images.shape[1]
    offset = np.arange(n) - n // 2
    outside = offset[:, None] ** 2 + offset[None, :] ** 2 > radius_px**2
    background = images[:, outside].astype(np.float64)
    mean, std = background.mean(axis=1), background.std(axis=1)
    return (images - mean[:, None, None]) / std[:, None, None]


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


def test_images_that_cannot_be_normalised_are_told_and_left_alone():
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


@pytest.mark.parametrize("box", [31, 64])
@pytest.mark.parametrize("normalise", [True, False])
def test_statistics_against_plain_numpy(box, normalise):
    images = np.random.default_rng(0).normal(40, 3, (5, box, box)).astype(np.float32)
    images[:, box // 2 - 4 : box // 2 + 4, box // 2 - 4 : box // 2 + 4] += 9
    offset = np.arange(box) - box // 2
    outside = offset[:, None] ** 2 + offset**2 > (box / 3) ** 2
    background = images[:, outside].astype(float)
    mean, sd = background.mean(1), background.std(1)
    power = np.square(images.astype(float) - mean[:, None, None]).mean((1, 2))
    before = images.copy()
    found = measure_images(images, box / 3, normalise=normalise)
    np.testing.assert_allclose(found.background_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.background_sd, sd, rtol=1e-6)
    np.testing.assert_allclose(found.power, power / sd**2 if normalise else power, rtol=1e-5)
    assert not found.status.any()
    if not normalise:
        np.testing.assert_array_equal(images, before)


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

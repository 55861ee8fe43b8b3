"""Masks drawn from a map, spheres, and the box of a mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gem3d.assess import automatic_mask, sphere_mask, support_box
from gem3d.errors import MapError

PIXEL_SIZE_A = 2.5


def ball(box_size: int, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Ball, centre (z, y, x) and radius in voxels from the box centre."""
    axes = np.meshgrid(*[np.arange(box_size) - box_size // 2 - c for c in centre], indexing="ij")
    return (np.sqrt(sum(axis**2 for axis in axes)) <= radius).astype(np.float32)


def white_noise(seed: int, box_size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box_size,) * 3, dtype=np.float32)


@pytest.mark.parametrize("box_size", [32, 33])
def test_sphere_is_centred_with_a_cosine_edge(box_size: int):
    mask = sphere_mask(box_size, 2.0, diameter_A=24.0, soft_edge_A=8.0)
    centre = box_size // 2
    profile = mask[centre, centre, centre:]
    assert mask.dtype == np.float32
    assert np.all(profile[:7] == 1)
    assert profile[8] == pytest.approx(0.5)
    assert np.all(profile[10:] < 1e-6)
    assert np.array_equal(mask, mask.transpose(2, 1, 0))
    assert mask[centre - 8, centre, centre] == mask[centre + 8, centre, centre]


def test_sphere_without_an_edge_is_a_ball():
    assert np.array_equal(sphere_mask(16, 1.0, 10.0, 0.0), ball(16, (0, 0, 0), 5))


@pytest.mark.parametrize("box_size", [48, 49])
@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_automatic_mask_holds_the_particle_and_little_else(box_size: int, noise: float):
    truth = np.maximum(ball(box_size, (-3, 2, 0), 8), ball(box_size, (6, -2, 1), 6))
    mask = automatic_mask(truth + noise * white_noise(1, box_size), PIXEL_SIZE_A)
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert (mask * truth).sum() > 0.97 * truth.sum()
    assert mask.sum() < 5 * truth.sum()
    # A soft edge: no step between neighbours of more than half.
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in range(3)) < 0.5


def test_automatic_mask_fills_holes_and_drops_specks():
    box_size = 64
    shell = ball(box_size, (0, 0, -8), 13) - ball(box_size, (0, 0, -8), 9)
    speck = ball(box_size, (0, 0, 20), 2)
    mask = automatic_mask(shell + speck, PIXEL_SIZE_A)
    assert mask[32, 32, 24] == 1
    assert mask[32, 32, 52] == 0
    assert ndimage.label(mask > 0.5)[1] == 1


def test_automatic_mask_keeps_a_second_large_domain():
    box_size = 64
    two = np.maximum(ball(box_size, (0, 0, -13), 8), ball(box_size, (0, 0, 13), 7))
    mask = automatic_mask(two + white_noise(2, box_size), PIXEL_SIZE_A, dilation_A=2, soft_edge_A=4)
    assert (mask * two).sum() > 0.95 * two.sum()


@pytest.mark.parametrize("seed", range(4))
def test_automatic_mask_of_noise_is_the_sphere(seed: int):
    noise = white_noise(seed, 48)
    mask = automatic_mask(noise, PIXEL_SIZE_A, particle_diameter_A=80.0)
    assert np.array_equal(mask, sphere_mask(48, PIXEL_SIZE_A, 80.0, 10.0))
    whole = automatic_mask(noise, PIXEL_SIZE_A)
    assert np.array_equal(whole, sphere_mask(48, PIXEL_SIZE_A, 0.9 * 120.0, 10.0))


def test_automatic_mask_of_an_empty_map_is_the_sphere():
    empty = np.zeros((32,) * 3, np.float32)
    assert np.array_equal(automatic_mask(empty, 2.0), sphere_mask(32, 2.0, 0.9 * 64, 10.0))


def test_automatic_mask_ignores_what_lies_beyond_the_particle_diameter():
    box_size = 64
    both = ball(box_size, (0, 0, 0), 9) + ball(box_size, (0, 0, 24), 5)
    mask = automatic_mask(both + 0.5 * white_noise(3, box_size), PIXEL_SIZE_A, particle_diameter_A=70.0)
    assert mask[32, 32, 32] == 1
    assert mask[32, 32, 56] == 0


def test_automatic_mask_of_a_map_that_is_zero_outside_a_sphere():
    """Some programs blank the solvent: no noise is left to measure there."""
    inside = ball(48, (0, 0, 0), 18)
    particle = ball(48, (2, 0, 0), 7)
    mask = automatic_mask((3 * particle + white_noise(4, 48)) * inside, PIXEL_SIZE_A)
    assert (mask * particle).sum() > 0.97 * particle.sum()
    assert mask.sum() < 6 * particle.sum()


def test_support_box():
    mask = np.zeros((10, 10, 10), np.float32)
    mask[2:5, 4, 7:9] = 0.1
    assert support_box(mask, 0) == ((2, 4, 7), (3, 1, 2))
    assert support_box(mask, 2) == ((0, 2, 5), (7, 5, 5))
    with pytest.raises(MapError, match="zero everywhere"):
        support_box(np.zeros((4, 4, 4)), 1)

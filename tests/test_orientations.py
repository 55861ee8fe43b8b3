"""Viewing directions, the Fourier space they cover, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gem3d.assess.coverage import ENVELOPE_SHELL, merge_views, planes_through, point_spread_widths
from gem3d.assess.orientations import OrientationDistribution, orientation_distribution
from gem3d.assess.sphere import half_sphere
from gem3d.particles.poses import euler_to_matrix

BOX_SIZE_PX = 128
Rotations = NDArray[np.float64]


def uniform_poses(n: int, seed: int = 0) -> Rotations:
    return Rotation.random(n, random_state=seed).as_matrix()


def poses_of_tilt(tilt_deg: NDArray[np.float64], seed: int = 0) -> Rotations:
    """Any rot and psi."""
    rot, psi = np.random.default_rng(seed).uniform(-180, 180, (2, len(tilt_deg)))
    return euler_to_matrix(np.stack([rot, tilt_deg, psi], axis=1))


def measures(found: OrientationDistribution) -> NDArray[np.float64]:
    return np.array([found.scf, found.efficiency, found.unseen])


def test_uniform_views_lose_nothing():
    n = 20_000
    found = orientation_distribution(uniform_poses(n), BOX_SIZE_PX)
    assert found.scf > 0.98
    assert found.efficiency > 0.98
    assert found.unseen == 0
    assert found.sampling.mean() == pytest.approx(1, abs=0.01)
    assert found.sampling.std() < 0.1
    assert found.counts.sum() == n
    few = orientation_distribution(uniform_poses(800), BOX_SIZE_PX)
    assert few.empty_bins == pytest.approx(few.expected_empty_bins, abs=0.03)
    assert few.expected_empty_bins == pytest.approx((1 - 1 / few.counts.size) ** 800)


@pytest.mark.parametrize("n", [1, 10_000])
def test_a_single_view_leaves_almost_everything_unseen(n: int):
    found = orientation_distribution(np.tile(uniform_poses(1), (n, 1, 1)), BOX_SIZE_PX)
    assert found.scf < 0.03
    assert found.efficiency == 0
    assert found.unseen > 0.95
    assert np.count_nonzero(found.counts) == 1
    view = uniform_poses(1)[0].T @ [0, 0, 1]
    seen = found.sampling > 0
    assert np.abs(found.directions[seen] @ view).max() < 1 / (BOX_SIZE_PX // 4)


def test_side_views_sample_the_axis_least():
    """Views all around z: sampling is (2 / pi) / sin of the angle to z; the mean of its reciprocal is pi^2 / 8."""
    found = orientation_distribution(poses_of_tilt(np.full(20_000, 90.0)), BOX_SIZE_PX)
    sine = np.sqrt(1 - found.directions[:, 2] ** 2)
    off_axis = sine > 0.2
    expected = 2 / np.pi / sine
    assert np.abs(found.sampling / expected - 1)[off_axis].mean() < 0.05
    assert found.scf == pytest.approx(8 / np.pi**2, abs=0.015)
    assert 0.7 < found.efficiency < 0.9
    assert found.unseen == 0
    # The two rows of bins beside the equator hold everything.
    filled = found.counts.sum(axis=1) > 0
    assert np.abs(found.latitude_deg[:-1] + found.latitude_deg[1:])[filled].max() < 10


def test_top_views_leave_a_cone_unseen():
    cosine = np.random.default_rng(1).uniform(np.cos(np.pi / 6), 1, 20_000)
    found = orientation_distribution(poses_of_tilt(np.rad2deg(np.arccos(cosine))), BOX_SIZE_PX)
    # Planes reach 30 degrees from the equator, and one Fourier pixel further.
    assert found.unseen == pytest.approx(0.5, abs=0.04)
    assert np.all(found.directions[found.sampling == 0, 2] > 0.5)
    assert found.scf == pytest.approx(1 / (found.unseen * 50), rel=0.1)
    wider = np.rad2deg(np.arccos(np.random.default_rng(1).uniform(np.cos(np.pi / 4), 1, 20_000)))
    better = orientation_distribution(poses_of_tilt(wider), BOX_SIZE_PX)
    assert 0 < found.efficiency < better.efficiency < 0.7


def test_heat_map_holds_the_viewing_directions():
    """Viewing direction A^T (0, 0, 1): longitude rot, latitude 90 - tilt; opposite views apart."""
    angles_deg = np.array([[31.0, 57.0, 11.0], [-170.0, 152.0, 80.0], [-149.0, 123.0, 0.0]])
    found = orientation_distribution(euler_to_matrix(angles_deg), BOX_SIZE_PX)
    assert found.counts.sum() == np.count_nonzero(found.counts) == 3
    for rot, tilt, _ in angles_deg:
        row = np.searchsorted(found.latitude_deg, 90 - tilt) - 1
        column = np.searchsorted(found.longitude_deg, rot) - 1
        assert found.counts[row, column] == 1
    height = np.diff(np.sin(np.deg2rad(found.latitude_deg)))
    assert height == pytest.approx(np.full(len(height), height[0]))


@pytest.mark.parametrize("shell", [10, 40])
def test_sampling_is_that_of_every_plane(shell: int):
    rotations = uniform_poses(60, seed=2)
    found = orientation_distribution(rotations, BOX_SIZE_PX, shell=shell)
    for direction, sampling in zip(found.directions[::97], found.sampling[::97], strict=True):
        weight = 0.0
        for rotation in rotations:
            _, _, distance = rotation @ (shell * direction)
            weight += max(1 - abs(distance), 0)
        assert sampling == pytest.approx(weight / (60 / (2 * shell)), abs=1e-3)


def test_merged_views_sample_alike():
    rng = np.random.default_rng(3)
    azimuth = rng.uniform(0, 2 * np.pi, 20_000)
    ring = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros_like(azimuth)], axis=1)
    ring = ring @ uniform_poses(1, seed=4)[0]
    points = half_sphere(300) * 40
    exact, merged = merge_views(ring, 1e-6), merge_views(ring, 0.7 / 40)
    assert len(merged.counts) < len(exact.counts) / 20
    assert merged.counts.sum() == len(ring)
    error = planes_through(points, merged) / planes_through(points, exact) - 1
    assert np.sqrt(np.mean(error**2)) < 0.05
    assert abs(error.mean()) < 0.01
    opposite = merge_views(np.concatenate([ring[:50], -ring[:50]]), 1e-6)
    assert opposite.counts == pytest.approx(np.full(50, 2))


def test_point_spread_function_is_that_summed_out():
    cosine = np.random.default_rng(5).uniform(0.8, 1, 300)
    views = merge_views(poses_of_tilt(np.rad2deg(np.arccos(cosine)))[:, 2], 1e-6)
    directions = np.array([[0.0, 0, 1], [1, 0, 0], [0.6, 0, 0.8]])
    last = 2 * ENVELOPE_SHELL
    k = np.arange(-last, last + 1)
    points = np.stack(np.meshgrid(k, k, k, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[np.sum(points**2, axis=1) <= last**2]
    amplitude = np.sqrt(planes_through(points, views))
    amplitude *= np.exp(-np.sum(points**2, axis=1) / ENVELOPE_SHELL**2)
    for direction, width in zip(directions, point_spread_widths(views, directions), strict=True):
        distance_px = np.arange(0, 20, 0.05)
        waves = np.cos(2 * np.pi / 64 * np.outer(distance_px, points @ direction))
        profile = waves @ amplitude / amplitude.sum()
        assert width == pytest.approx(distance_px[np.argmax(profile < np.exp(-2))], rel=0.03)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_turning_images_in_their_plane_changes_nothing(seed: int):
    poses = uniform_poses(40, seed)
    psi = np.random.default_rng(seed).uniform(0, 2 * np.pi, 40)
    turned = Rotation.from_rotvec(np.stack([0 * psi, 0 * psi, psi], axis=1)).as_matrix() @ poses
    before, after = (orientation_distribution(p, 64) for p in (poses, turned))
    assert np.array_equal(before.counts, after.counts)
    assert after.sampling == pytest.approx(before.sampling, abs=1e-4)
    assert measures(after) == pytest.approx(measures(before), abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), widest_deg=st.floats(20, 90))
def test_turning_the_map_changes_little(seed: int, widest_deg: float):
    cosine = np.random.default_rng(seed).uniform(np.cos(np.deg2rad(widest_deg)), 1, 2000)
    poses = poses_of_tilt(np.rad2deg(np.arccos(cosine)), seed)
    turned = poses @ uniform_poses(1, seed + 1)[0]
    before, after = (measures(orientation_distribution(p, 64)) for p in (poses, turned))
    assert after == pytest.approx(before, abs=0.03)


def test_opposite_views_sample_alike():
    poses = poses_of_tilt(np.full(500, 35.0))
    flipped = np.diag([1.0, -1.0, -1.0]) @ poses
    before, after = (orientation_distribution(p, BOX_SIZE_PX) for p in (poses, flipped))
    assert after.sampling == pytest.approx(before.sampling, rel=1e-4)
    assert not np.any((before.counts > 0) & (after.counts > 0))


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3), (5, 3, 2)])
def test_refuses_what_are_no_poses(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="rotations"):
        orientation_distribution(np.zeros(shape), BOX_SIZE_PX)

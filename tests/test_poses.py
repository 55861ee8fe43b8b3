"""Euler angles and matrices, against scipy's convention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gem3d.particles import angles_between_deg, euler_to_matrix, matrix_to_euler

GIMBAL = [
    (30.0, 0.0, 40.0),
    (30.0, 180.0, 40.0),
    (0.0, 0.0, 0.0),
    (-170.0, -180.0, 350.0),
    (720.0, 360.0, -400.0),
]
angle = st.floats(-400, 400)


def random_angles(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-360, 360, (n, 3))


def test_matrices_are_scipys_zyz_transposed():
    angles = np.concatenate([random_angles(1000), GIMBAL])
    expected = [Rotation.from_euler("ZYZ", a, degrees=True).as_matrix().T for a in angles]
    np.testing.assert_allclose(euler_to_matrix(angles), expected, rtol=0, atol=4e-16)


@pytest.mark.parametrize("angles", [(0, 0, 90), (90, 0, 0)])
def test_quarter_turn(angles):
    expected = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix().T
    np.testing.assert_allclose(expected, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-15)
    np.testing.assert_allclose(euler_to_matrix(angles), expected, atol=1e-15)


@given(st.tuples(angle, angle, angle), st.sampled_from([0, 1e-3, 1e-7, 1e-9, 1e-12, 1e-16, 1]), st.booleans())
def test_matrices_survive_the_way_there_and_back(angles, tilt_scale, flip):
    rot, tilt, psi = angles
    matrix = euler_to_matrix((rot, tilt * tilt_scale + 180 * flip, psi))
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(matrix)), matrix, rtol=0, atol=1e-12)


def test_gimbal_matrices_come_back_without_a_warning():
    exact = np.array(
        [np.eye(3), np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, -1.0])]
    )
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(exact)), exact, rtol=0, atol=1e-15)


def test_angles_within_range_come_back():
    angles = random_angles(500) / [2, 4, 2] + [0, 90, 0]
    np.testing.assert_allclose(matrix_to_euler(euler_to_matrix(angles)), angles, atol=1e-9)


def test_any_leading_shape():
    assert euler_to_matrix(np.zeros((4, 2, 3))).shape == (4, 2, 3, 3)
    assert matrix_to_euler(np.eye(3)).shape == (3,)
    assert euler_to_matrix(np.zeros((0, 3))).shape == (0, 3, 3)
    with pytest.raises(ValueError, match="shape"):
        euler_to_matrix([1.0, 2.0])


def test_angles_between_poses() -> None:
    poses = euler_to_matrix([[10.0, 20.0, 30.0], [200.0, 90.0, -50.0]])
    turned = Rotation.from_rotvec([[3.0, 0.0, 0.0], [0.0, 120.0, 0.0]], degrees=True).as_matrix() @ poses
    np.testing.assert_allclose(angles_between_deg(turned, poses), [3.0, 120.0])
    np.testing.assert_allclose(angles_between_deg(poses, turned), [3.0, 120.0])

"""Euler angles and rotation matrices, in RELION's convention.

    A = (R_z(rot) R_y(tilt) R_z(psi))^T

A map point X appears in the camera frame at A X. This is scipy's intrinsic "ZYZ", transposed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation


def euler_to_matrix(angles_deg: ArrayLike) -> NDArray[np.float64]:
    """Rotation matrices of Euler angles.

    Parameters
    ----------
    angles_deg: `(..., 3)`, rot, tilt, psi in degrees; any range.

    Returns
    -------
    `(..., 3, 3)` float64
    """
    angles = np.asarray(angles_deg, dtype=np.float64)
    if angles.ndim == 0 or angles.shape[-1] != 3:
        raise ValueError(f"angles_deg must have shape (..., 3), got {angles.shape}")
    matrices = Rotation.from_euler("ZYZ", angles.reshape(-1, 3), degrees=True).as_matrix()
    return np.ascontiguousarray(matrices.transpose(0, 2, 1)).reshape(*angles.shape, 3)


def angles_between_deg(rotations: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Angle of the turn from each pose to another, in degrees; `(n, 3, 3)` both, `(n,)` back."""
    turns = np.asarray(rotations) @ np.swapaxes(np.asarray(others), -1, -2)
    angles: NDArray[np.float64] = np.rad2deg(Rotation.from_matrix(turns).magnitude())
    return angles


def mirror_poses(rotations: ArrayLike) -> NDArray[np.float64]:
    """Poses at which a map's mirror image shows the same images as the map did, `(..., 3, 3)`.

    With M = diag(1, 1, -1): V(M X) at the pose M A M, as M leaves x and y, and the integral along z, as they are.
    """
    turned: NDArray[np.float64] = np.asarray(rotations, dtype=np.float64) * np.outer((1, 1, -1), (1, 1, -1))
    return turned


def matrix_to_euler(rotations: ArrayLike) -> NDArray[np.float64]:
    """Euler angles of rotation matrices, the inverse of `euler_to_matrix`.

    Parameters
    ----------
    rotations: `(..., 3, 3)`

    Returns
    -------
    `(..., 3)` float64, rot in [-180, 180], tilt in [0, 180], psi in [-180, 180] degrees. Where tilt is 0 or
    180 only one combination of rot and psi is determined: one of the equivalent choices is returned.
    """
    a = np.asarray(rotations, dtype=np.float64)
    if a.ndim < 2 or a.shape[-2:] != (3, 3):
        raise ValueError(f"rotations must have shape (..., 3, 3), got {a.shape}")
    # With R = A^T, R[:, 2] = (cos rot sin tilt, sin rot sin tilt, cos tilt). Near tilt 0 rot is poorly
    # determined, but any rot will do if tilt and psi are then taken from R_z(-rot) R = R_y(tilt) R_z(psi),
    # whose second row is (sin psi, cos psi, 0): so the matrix is recovered to rounding everywhere.
    rot = np.arctan2(a[..., 2, 1], a[..., 2, 0])
    cos, sin = np.cos(rot), np.sin(rot)
    tilt = np.arctan2(cos * a[..., 2, 0] + sin * a[..., 2, 1], a[..., 2, 2])
    psi = np.arctan2(
        cos * a[..., 0, 1] - sin * a[..., 0, 0],
        cos * a[..., 1, 1] - sin * a[..., 1, 0],
    )
    angles: NDArray[np.float64] = np.rad2deg(np.stack([rot, tilt, psi], axis=-1))
    return angles

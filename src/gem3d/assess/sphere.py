"""Directions spread evenly over half a sphere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def half_sphere(n_directions: int) -> NDArray[np.float64]:
    """Fibonacci lattice on the half sphere z > 0: every direction stands for the same solid angle.

    Half a sphere is enough for planes and lines through the origin, which do not tell a direction from its opposite.

    Returns
    -------
    `(n_directions, 3)` unit vectors x, y, z.
    """
    index = np.arange(n_directions)
    z = (index + 0.5) / n_directions
    azimuth = index * (np.pi * (3 - np.sqrt(5)))  # the golden angle
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)

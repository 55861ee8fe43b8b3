"""Local-linear smoothing of curves over shells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import Curve

KERNEL_WIDTH_SHELLS = 1.5
# Errors of neighbouring shells are correlated (about 0.5, the bands overlap), so pooling gains less than it
# seems.
CORRELATED_SHELLS = 2.2


def local_linear_weights(
    n_effective: Curve, width_shells: float = KERNEL_WIDTH_SHELLS
) -> NDArray[np.float64]:
    """Rows of local-linear regression weights: `weights @ curve` is the smoothed curve.

    At each shell a straight line is fitted with the weights K(d) n_eff, K a Gaussian of `width_shells`, and
    read at the shell. Shell 0 (the mean of the map) is kept out of the other shells.

    Parameters
    ----------
    n_effective: `(n,)` independent values per shell.
    width_shells: standard deviation of the kernel.

    Returns
    -------
    `(n, n)`, rows summing to 1.
    """
    shells = np.arange(len(n_effective), dtype=np.float64)
    result = np.zeros((len(shells), len(shells)))
    for i in range(len(shells)):
        offset = shells - i
        kernel = np.exp(-0.5 * (offset / width_shells) ** 2) * np.maximum(n_effective, 1e-12)
        kernel[np.abs(offset) > 4 * width_shells] = 0
        kernel[0] = 0
        s0, s1, s2 = (float((kernel * offset**p).sum()) for p in range(3))
        determinant = s0 * s2 - s1 * s1
        if i == 0 or determinant <= 1e-9 * s0 * s0:
            result[i, i] = 1
        else:
            result[i] = kernel * (s2 - s1 * offset) / determinant
    return result


def pooled_number(weights: NDArray[np.float64], n_effective: Curve) -> Curve:
    """Independent values behind each smoothed one, `(n,)`: 1 / sum_j w_j^2 / n_j, over 2.2 (correlation)."""
    n = np.maximum(n_effective, 1e-12)
    pooled: Curve = 1.0 / (weights**2 @ (1.0 / n)) / CORRELATED_SHELLS
    # A row that pools nothing (shell 0) keeps its own number.
    alone = (weights != 0).sum(axis=1) == 1
    pooled[alone] *= CORRELATED_SHELLS
    return pooled

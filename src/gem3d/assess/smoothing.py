"""Smoothing of curves over shells by local quadratic regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import Curve

KERNEL_WIDTH_SHELLS = 2.5
# Errors of neighbouring shells are correlated (0.5, and 0.15 two shells apart: the bands overlap), so pooling gains
# less than it seems. With 2.5 the errors of smoothed curves are in simulations what their standard errors say.
CORRELATED_SHELLS = 2.5
_DEGREE = 2


def local_quadratic_weights(
    n_effective: Curve, width_shells: float = KERNEL_WIDTH_SHELLS
) -> NDArray[np.float64]:
    """Rows of local quadratic regression weights: `weights @ curve` is the smoothed curve.

    At each shell a parabola is fitted with the weights K(d) n_eff, K a Gaussian of `width_shells`, and read at the
    shell (Fan & Gijbels 1996, Local Polynomial Modelling, section 3.1). A straight line would lie above the convex
    curves that an FSC is where it falls, and carry its crossing outwards. Shell 0 (the mean of the map) is kept out
    of the other shells.

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
        offset = (shells - i) / width_shells
        kernel = np.exp(-0.5 * offset**2) * np.maximum(n_effective, 1e-12)
        kernel[np.abs(offset) > 4] = 0
        kernel[0] = 0
        powers = offset ** np.arange(_DEGREE + 1)[:, None]
        moments = (powers * kernel) @ powers.T
        if i == 0 or np.linalg.cond(moments) > 1e9:
            result[i, i] = 1
        else:
            result[i] = np.linalg.solve(moments, powers * kernel)[0]
    return result


def pooled_number(weights: NDArray[np.float64], n_effective: Curve) -> Curve:
    """Independent values behind each smoothed one, `(n,)`: 1 / sum_j w_j^2 / n_j, over 2.5 (correlation)."""
    n = np.maximum(n_effective, 1e-12)
    pooled: Curve = 1.0 / (weights**2 @ (1.0 / n)) / CORRELATED_SHELLS
    # A row that pools nothing (shell 0) keeps its own number.
    alone = (weights != 0).sum(axis=1) == 1
    pooled[alone] *= CORRELATED_SHELLS
    return pooled

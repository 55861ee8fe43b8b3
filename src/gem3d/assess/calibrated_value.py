"""The calibrated FSC of one shell and its standard error, from the correlations of the half maps there."""

from __future__ import annotations

import numpy as np

from gem3d.assess.shells import Curve


def calibrated_value(cross12: Curve, cross21: Curve, fsc_linear: Curve) -> Curve:
    """F = cross12 cross21 / FSC(B1,B2), crosses over |G_i| sqrt(|B1| |B2|); 0 unless all are positive."""
    positive = (cross12 > 0) & (cross21 > 0) & (fsc_linear > 0)
    value: Curve = np.divide(cross12 * cross21, fsc_linear, out=np.zeros_like(cross12), where=positive)
    return value


def calibrated_stderr(
    value: Curve, fsc_linear: Curve, overfit1: Curve, overfit2: Curve, n_effective: Curve
) -> Curve:
    """Standard error of F from the linear FSC, the over-fit o_i and the number of independent values.

    SE = F sqrt((rho a2 + 2 o1 o2 - 2 rho (o1 + o2) + rho^2) / (2 n_eff)), rho = 1/FSC(B1,B2) - 1, a2 = 2 (1/F
    - 1); the bracket is not let fall below a quarter of its value without over-fit. This is first order and
    vanishes at F = 0, where the product of the noise of both crosses remains: (1 - F FSC(B1,B2))^2 / (2 n_eff
    FSC(B1,B2)), added in quadrature. Infinite where FSC(B1,B2) is not positive.
    """
    n = np.maximum(n_effective, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rho = np.where(fsc_linear > 0, np.maximum(1 / fsc_linear - 1, 0), np.inf)
        spread = np.where(value > 0, np.maximum(2 * (1 - value), 0) * value, 0)  # a2 F^2, finite at F = 0
        o1, o2 = np.clip(overfit1, 0, rho), np.clip(overfit2, 0, rho)
        upper = rho * spread + (rho * value) ** 2
        bracket = upper + (2 * o1 * o2 - 2 * rho * (o1 + o2)) * value**2
        remainder = np.maximum(1 - value * fsc_linear, 0) ** 2 / (2 * n * fsc_linear)
        stderr = np.sqrt(np.maximum(bracket, upper / 4) / (2 * n) + remainder**2)
    return np.where(fsc_linear > 0, stderr, np.inf)

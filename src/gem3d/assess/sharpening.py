"""Sharpening by a B factor and weighting per shell (Rosenthal & Henderson 2003, J. Mol. Biol. 333:721)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gem3d.assess.shells import (
    Curve,
    FloatVolume,
    check_same_box,
    fourier_transform,
    inverse_fourier_transform,
    radii,
    shell_sizes,
    shell_sums,
)
from gem3d.kernels.radial import multiply_radially

FEWEST_GUINIER_SHELLS = 5
# Real maps have some 20 to 400; far beyond, single precision overflows.
LARGEST_BFACTOR_A2 = 2000.0


@dataclass(frozen=True)
class GuinierFit:
    """Straight line through ln(mean amplitude) against k^2, slope -B/4.

    bfactor_A2: B in A^2, positive where amplitudes decay; None with a `reason` where no line can be fitted.
    low_A, high_A: fitting range in A, low resolution first.
    n_shells: shells in it.
    intercept: ln(amplitude) of the line at k = 0.
    """

    bfactor_A2: float | None
    low_A: float
    high_A: float
    n_shells: int
    intercept: float | None
    reason: str | None


def guinier_bfactor(
    volume: FloatVolume,
    pixel_size_A: float,
    *,
    high_A: float,
    low_A: float = 10.0,
    shell_weights: Curve | None = None,
) -> GuinierFit:
    """B factor of a map from its Guinier plot: ln(mean |V(k)|) = intercept - B k^2 / 4.

    Parameters
    ----------
    volume: `(D, D, D)` map, unsharpened.
    pixel_size_A: A per voxel.
    high_A: high-resolution end of the fit, the claimed resolution.
    low_A: low-resolution end; below 10 A the shape of the particle and the solvent govern the amplitudes.
    shell_weights: `(n,)` multiply the amplitudes of shells 0 .. n-1 first, so that noise is not taken for
        signal; the shells beyond are left out.

    Returns
    -------
    The fit; its B is None, with a reason, where fewer than 5 shells with amplitude lie in the range.
    """
    box_size = check_same_box(volume=volume)
    amplitude = shell_amplitudes(volume)
    if shell_weights is not None:
        amplitude[len(shell_weights) :] = 0
        amplitude[: len(shell_weights)] *= shell_weights
    frequency_per_A = np.arange(len(amplitude)) / (box_size * pixel_size_A)
    inside = (frequency_per_A >= 1 / low_A) & (frequency_per_A <= 1 / high_A) & (amplitude > 0)
    n_shells = int(inside.sum())
    if n_shells < FEWEST_GUINIER_SHELLS:
        found = f"only {n_shells} shells between {low_A:.1f} and {high_A:.2f} A"
        reason = f"{found}; a B factor needs {FEWEST_GUINIER_SHELLS}"
        return GuinierFit(None, low_A, high_A, n_shells, None, reason)
    slope, intercept = np.polyfit(frequency_per_A[inside] ** 2, np.log(amplitude[inside]), 1)
    return GuinierFit(float(-4 * slope), low_A, high_A, n_shells, float(intercept), None)


def shell_amplitudes(volume: FloatVolume) -> Curve:
    """Mean amplitude of a map's transform in each shell, `(D//2 + 1,)`."""
    box_size = len(volume)
    return shell_sums(np.abs(fourier_transform(volume)), box_size) / shell_sizes(box_size)


def sharpen_and_weight(
    volume: FloatVolume,
    pixel_size_A: float,
    bfactor_A2: float | None,
    *,
    shell_weights: Curve | None = None,
    resolution_A: float | None = None,
    edge_width_shells: float = 4.0,
) -> FloatVolume:
    """Multiply a map's transform by exp(+B k^2 / 4), by a weight per shell, and by a soft low-pass.

    Parameters
    ----------
    volume: `(D, D, D)` map.
    pixel_size_A: A per voxel.
    bfactor_A2: decay to undo, as `guinier_bfactor` gives it; None or 0 for none.
    shell_weights: `(n,)`, interpolated linearly between shells, 0 beyond the last.
    resolution_A: where the low-pass, half a cosine `edge_width_shells` wide, has fallen to one half; None for
        none.
    edge_width_shells: width of that edge in Fourier pixels.
    """
    box_size = check_same_box(volume=volume)
    radius = radii(box_size)
    factor = np.ones_like(radius)
    if shell_weights is not None:
        factor *= np.interp(radius, np.arange(len(shell_weights)), shell_weights, right=0)
    if resolution_A is not None:
        cutoff = box_size * pixel_size_A / resolution_A
        edge = np.clip((radius - cutoff) / edge_width_shells + 0.5, 0, 1)
        factor *= 0.5 + 0.5 * np.cos(np.pi * edge)
    if bfactor_A2:
        # Only where something passes: far beyond the edge the exponential may overflow.
        exponent = bfactor_A2 / 4 * (radius / (box_size * pixel_size_A)) ** 2
        factor[factor != 0] *= np.exp(exponent[factor != 0])
    spectrum = fourier_transform(volume)
    multiply_radially(spectrum, factor.astype(np.float32))
    return inverse_fourier_transform(spectrum, box_size)

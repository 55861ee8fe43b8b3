"""A map held against a truth or a model of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gem3d.assess.fsc import Crossing, fourier_shell_correlation, resolution_at
from gem3d.assess.sharpening import sharpen_and_weight
from gem3d.assess.shells import (
    Curve,
    FloatVolume,
    check_same_box,
    fourier_transform,
    inverse_fourier_transform,
)
from gem3d.errors import warn

REFERENCE_THRESHOLD = 0.5
"""FSC against a truth without noise at which a map correlates 0.5 with it (Rosenthal & Henderson 2003)."""
# A reference is called displaced where a shift brings its correlation to this, by at least so much.
DISPLACED_CORRELATION, DISPLACED_GAIN = 0.5, 0.1


@dataclass(frozen=True)
class ReferenceComparison:
    """A map against a reference that is taken for the truth.

    name: of the reference file.
    fsc_masked, fsc_unmasked: `(last_shell + 1,)`.
    crossing: of 0.5 by the masked curve.
    correlation: real-space correlation inside the mask, both maps low-passed alike.
    low_pass_A: to which resolution.
    """

    name: str
    fsc_masked: Curve
    fsc_unmasked: Curve
    crossing: Crossing
    correlation: float
    low_pass_A: float


def compare_with_reference(
    volume: FloatVolume,
    reference_values: FloatVolume,
    mask: FloatVolume,
    pixel_size_A: float,
    *,
    name: str,
    low_pass_A: float,
    last_shell: int,
) -> ReferenceComparison:
    """FSC and real-space correlation of a map and a reference, compared where they stand.

    A warning says so where the reference would match far better after a shift.

    Parameters
    ----------
    volume, reference_values: `(D, D, D)` on one grid; their scales do not matter.
    mask: `(D, D, D)` in [0, 1]; weights the real-space correlation.
    low_pass_A: resolution in A at which the soft low-pass before the real-space correlation has fallen to one
        half.
    last_shell: where the curves end.

    Raises
    ------
    MapError: the maps are not cubic, alike and finite.
    """
    box_size = check_same_box(volume=volume, reference=reference_values, mask=mask)
    masked = fourier_shell_correlation(volume, reference_values, mask, last_shell=last_shell)
    smooth, smooth_reference = (
        sharpen_and_weight(each, pixel_size_A, None, resolution_A=low_pass_A)
        for each in (volume, reference_values)
    )
    correlation = _correlation(smooth, smooth_reference, mask)
    shift = _best_shift(smooth, smooth_reference, mask)
    moved = _correlation(smooth, np.roll(smooth_reference, shift, axis=(0, 1, 2)), mask)
    if moved >= max(DISPLACED_CORRELATION, correlation + DISPLACED_GAIN):
        x, y, z = (steps * pixel_size_A for steps in reversed(shift))
        warn(
            f"{name}: would match the map better if it were moved by {x:.1f}, {y:.1f}, {z:.1f} A along x, y, z "
            f"(correlation {moved:.2f} in place of {correlation:.2f} at {low_pass_A:.1f} A). It is compared where it "
            "stands; fit it into the map and save it in the map's coordinates (ChimeraX: fitmap)"
        )
    return ReferenceComparison(
        name=name,
        fsc_masked=masked,
        fsc_unmasked=fourier_shell_correlation(volume, reference_values, last_shell=last_shell),
        crossing=resolution_at(masked, REFERENCE_THRESHOLD, pixel_size_A, box_size),
        correlation=correlation,
        low_pass_A=low_pass_A,
    )


def _correlation(a: FloatVolume, b: FloatVolume, weight: FloatVolume) -> float:
    """Pearson correlation of the voxels under a weight; 0 where one of the maps is flat."""
    a, b = (each - float(np.average(each, weights=weight)) for each in (a, b))
    aa, bb, ab = (float(np.sum(p * weight, dtype=np.float64)) for p in (a * a, b * b, a * b))
    return ab / math.sqrt(aa * bb) if aa * bb > 0 else 0.0


def _best_shift(volume: FloatVolume, reference: FloatVolume, mask: FloatVolume) -> tuple[int, int, int]:
    """Voxels along z, y, x by which to move the reference: the peak of its cross-correlation with the masked map."""
    box_size = len(volume)
    masked = (volume - float(np.average(volume, weights=mask))) * mask
    cross = fourier_transform(masked) * fourier_transform(reference).conj()
    peak = np.unravel_index(inverse_fourier_transform(cross, box_size).argmax(), volume.shape)
    z, y, x = ((int(index) + box_size // 2) % box_size - box_size // 2 for index in peak)
    return z, y, x

"""The Fourier shell correlation (FSC) and where it crosses a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import (
    Curve,
    FloatVolume,
    check_same_box,
    fourier_transform,
    ratio,
    shell_products,
    shell_resolution_A,
)

FSC_THRESHOLD = 0.143
"""Half-map FSC at which the map of all data correlates 0.5 with the truth (Rosenthal & Henderson 2003)."""


def fourier_shell_correlation(
    a: FloatVolume, b: FloatVolume, mask: FloatVolume | None = None, *, last_shell: int | None = None
) -> Curve:
    """FSC of two maps (Harauz & van Heel 1986): Re sum A conj(B) / sqrt(sum |A|^2 sum |B|^2) over each shell.

    Parameters
    ----------
    a, b: `(D, D, D)` maps.
    mask: `(D, D, D)` multiplies both maps first; None for the unmasked FSC.
    last_shell: where the curve ends; None for D//2.

    Returns
    -------
    `(last_shell + 1,)` one value a shell, shell = round(|k| in Fourier pixels); 0 where either map has no power.

    Raises
    ------
    MapError: the maps are not cubic, alike and finite.
    """
    check_same_box(a=a, b=b, mask=mask)
    spectra = (fourier_transform(volume if mask is None else volume * mask) for volume in (a, b))
    return fsc_of_spectra(*spectra, last_shell=last_shell)


def fsc_of_spectra(
    a: NDArray[np.complex64], b: NDArray[np.complex64], *, last_shell: int | None = None
) -> Curve:
    """FSC of two maps whose half spectra `(D, D, D//2 + 1)` are given, see `fourier_shell_correlation`."""
    cross, power_a, power_b = shell_products(a, b)
    curve = ratio(cross, np.sqrt(power_a * power_b))
    return curve if last_shell is None else curve[: last_shell + 1]


@dataclass(frozen=True)
class Crossing:
    """Where a curve first falls below a threshold; nowhere: resolution and shell are None, with a reason."""

    resolution_A: float | None
    reason: str | None
    shell: float | None = None

    @property
    def words(self) -> str:
        """The resolution, or why there is none."""
        return f"{self.resolution_A:.2f} A" if self.resolution_A is not None else str(self.reason)


def resolution_at(
    curve: Curve, threshold: float, pixel_size_A: float, box_size: int, *, first_shell: int = 1
) -> Crossing:
    """First crossing of a threshold from above, linearly interpolated in shell index.

    Parameters
    ----------
    curve: `(n,)` correlation of shells 0 .. n-1; a curve that ends before D//2 is not extrapolated.
    threshold: 0.143 for half maps, 0.5 for map against model.
    pixel_size_A: A per voxel.
    box_size: voxels per side.
    first_shell: where to start; shell 0 holds only the mean of the map and says nothing about resolution.
    """
    curve = np.asarray(curve, dtype=np.float64)
    last = len(curve) - 1
    if last < first_shell:
        return Crossing(None, "no shell to judge")
    if not curve[first_shell] >= threshold:
        start_A = shell_resolution_A(first_shell, pixel_size_A, box_size)
        return Crossing(None, f"below {threshold:g} from the first shell judged ({start_A:.1f} A) on")
    below = np.flatnonzero(~(curve[first_shell:] >= threshold))
    if len(below) == 0:
        last_A = shell_resolution_A(last, pixel_size_A, box_size)
        where = f"Nyquist ({last_A:.2f} A)" if 2 * last == box_size else f"the last shell ({last_A:.2f} A)"
        return Crossing(None, f"not below {threshold:g} up to {where}")
    after = first_shell + int(below[0])
    drop = curve[after - 1] - curve[after]
    # A NaN counts as below: the crossing is then the last shell known to be above.
    shell = after - 1 + (float((curve[after - 1] - threshold) / drop) if np.isfinite(drop) else 0.0)
    return Crossing(shell_resolution_A(shell, pixel_size_A, box_size), None, shell)

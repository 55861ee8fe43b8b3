"""What resolution the calibrated FSC allows one to claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gem3d.assess.fsc import resolution_at
from gem3d.assess.shells import Curve, shell_resolution_A

# Two-sided 90 % interval of a normal distribution.
INTERVAL_SIGMAS = 1.64
# A single number needs the interval's low-resolution end this close, relative in frequency.
LARGEST_RELATIVE_ERROR = 0.03
END_OF_DATA = "where the data end"


@dataclass(frozen=True)
class ResolutionClaim:
    """A resolution, or why there is none.

    resolution_A: the number to quote; None where only the interval, or nothing, can be claimed.
    interval_A: 90 % interval in A, the low-resolution end (larger number) first. An end is None where it is
        open: the lower one if F - 1.64 SE starts below the threshold, the upper one if F + 1.64 SE stays
        above it up to the last valid shell.
    kind: "crossing" of the threshold; "last valid shell" where the curve ends, still valid, above it; or
        "none".
    reason: what the reader must know beside or instead of the number; None for a plain crossing.
    estimate_A: best estimate even where the interval is too wide to quote it alone; for choosing a filter.
    """

    resolution_A: float | None
    interval_A: tuple[float | None, float | None]
    kind: Literal["crossing", "last valid shell", "none"]
    reason: str | None
    estimate_A: float | None


def ends_with_the_data(claim: ResolutionClaim) -> bool:
    """Whether nothing but the end of the data keeps the claim from being finer."""
    return claim.kind == "last valid shell" and (claim.reason or "").endswith(END_OF_DATA)


def claim_resolution(
    curve: Curve,
    stderr: Curve,
    *,
    first_shell: int | None,
    valid_up_to_shell: int | None,
    last_tested_shell: int,
    threshold: float,
    pixel_size_A: float,
    box_size: int,
) -> ResolutionClaim:
    """Read the claim off a calibrated FSC.

    The estimate m is the first crossing of the threshold, the interval the crossings of F -/+ 1.64 SE. One
    number is quoted only where (m - lower end) / m < 3 % in frequency.

    Parameters
    ----------
    curve, stderr: `(n,)` smoothed calibrated FSC and its standard error, shells 0 .. n-1.
    first_shell: the first shell whose validity could be tested; the curve is read from here.
    valid_up_to_shell: last shell of the contiguous valid range; None if there is none.
    last_tested_shell: the last shell whose validity could be tested, as the data end there.
    threshold: usually 0.143.
    pixel_size_A: A per voxel.
    box_size: voxels per side.
    """
    if first_shell is None:
        reason = "the mask holds too few independent voxels to tell signal from noise in any shell"
        return ResolutionClaim(None, (None, None), "none", reason, None)
    if valid_up_to_shell is None:
        start_A = shell_resolution_A(first_shell, pixel_size_A, box_size)
        reason = f"the half maps do not correlate significantly even at {start_A:.1f} A"
        return ResolutionClaim(None, (None, None), "none", reason, None)

    valid = slice(0, valid_up_to_shell + 1)
    crossing, low, high = (
        resolution_at(values[valid], threshold, pixel_size_A, box_size, first_shell=first_shell)
        for values in (curve, curve - INTERVAL_SIGMAS * stderr, curve + INTERVAL_SIGMAS * stderr)
    )
    last_A = shell_resolution_A(valid_up_to_shell, pixel_size_A, box_size)
    starts_above = curve[first_shell] - INTERVAL_SIGMAS * stderr[first_shell] >= threshold
    low_A = last_A if low.shell is None and starts_above else low.resolution_A
    interval_A = (low_A, high.resolution_A)
    if crossing.shell is not None:
        assert crossing.resolution_A is not None
        if low.shell is not None and (crossing.shell - low.shell) / crossing.shell < LARGEST_RELATIVE_ERROR:
            return ResolutionClaim(crossing.resolution_A, interval_A, "crossing", None, crossing.resolution_A)
        reason = "the 90 % interval is too wide for a single number"
        return ResolutionClaim(None, interval_A, "crossing", reason, crossing.resolution_A)
    if not curve[first_shell] >= threshold:
        return ResolutionClaim(None, (None, None), "none", crossing.reason, None)

    why = (
        END_OF_DATA
        if valid_up_to_shell == last_tested_shell
        else "the last shell where the half maps correlate significantly"
    )
    not_below = f"not below {threshold:g} up to {last_A:.2f} A, {why}"
    return ResolutionClaim(last_A, interval_A, "last valid shell", not_below, last_A)

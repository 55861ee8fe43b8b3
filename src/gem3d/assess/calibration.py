"""The calibrated FSC: what the half maps of a regularised reconstruction are worth against the truth.

Half maps G1, G2 with a prior agree more than they are right. The linear half maps B1, B2 of the same halves
carry no prior, and their noise is independent of the other half's G. Per shell, with <A,B> the inner product,

    F = <G1,B2> <G2,B1> / (|G1| |G2| <B1,B2>)

estimates corr(G1,S) corr(G2,S), S the truth as blurred by the poses and CTFs given: Spearman's correction for
attenuation applied twice, a disattenuated cross-half FSC; we are not aware of a publication of it. It equals
the ordinary FSC when G = B and takes the threshold of Rosenthal & Henderson 2003 (J. Mol. Biol. 333:721),
0.143. The mask acts after the shell filter (mFSC; Penczek 2020, IUCrJ 7(6)). Errors that both halves share,
such as those of common poses, are invisible to it as to every half-map measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gem3d.assess.band_pass import BandProducts, band_passed_products
from gem3d.assess.calibrated_value import calibrated_stderr, calibrated_value
from gem3d.assess.claim import ResolutionClaim, claim_resolution
from gem3d.assess.fsc import FSC_THRESHOLD
from gem3d.assess.shells import Curve, FloatVolume, check_same_box, fourier_transform, ratio, shell_products
from gem3d.assess.significance import sphere_significance
from gem3d.assess.smoothing import local_quadratic_weights, pooled_number

# Raw values where SE/F is below 4 %, smoothed ones above 10 %, a blend between.
RAW_BELOW_RELATIVE_STDERR = 0.04
SMOOTHED_ABOVE_RELATIVE_STDERR = 0.10
# From this misfit of one of the three FSCs on, the smoothed value gives way to the raw one.
MISFIT_SIGMAS = 2.0
VALID_SIGMAS = 4.0
# z = FSC sqrt(2 n) cannot reach 4 reliably with fewer independent values, however good the maps.
FEWEST_POOLED_VALUES = 16.0
# The band around the last shell of the data reaches beyond it, where a map with a prior goes on and one without
# ends: F is too low there, by up to 0.1 in simulations.
EDGE_SHELLS = 1
LARGEST_REGRESSION_WEIGHT = 1.5
G1, G2, B1, B2 = range(4)


@dataclass(frozen=True)
class CalibratedFSC:
    """The calibrated FSC of a reconstruction; every curve is `(last_shell + 1,)`, masked after the shell
    filter.

    raw, smoothed: F before and after smoothing; `smoothed` is the one to report, up to `valid_up_to_shell`.
    stderr: standard error of `smoothed`.
    n_effective: independent complex values per shell under the mask.
    z_mask, z_sphere: pooled significance of <B1,B2> under the mask and under an a priori sphere.
    first_tested_shell: below it no test is possible; those shells share the fate of this one. None: none
        testable.
    valid_up_to_shell: last shell of the valid range, contiguous from low frequency; None if there is none.
    fsc_gaussian, fsc_linear: FSC(G1,G2) and FSC(B1,B2).
    cross12, cross21: <G1,B2> and <G2,B1>, each over |G_i| sqrt(|B1| |B2|).
    overfit1, overfit2: o_i = <G_i,B_i> / <G_i,B_j> - 1, how much more a Gaussian map follows its own half's
        noise.
    regression_weight: <G_i,B_j> / <G_i,G_i>, mean of both crosses, smoothed, within [0, 1.5], 0 beyond
        validity: the least-squares weight of a Gaussian half map against the truth.
    final_map_correlation: sqrt(2 F / (1 + FSC(G1,G2))), estimated correlation of the map from all data with
        the truth.
    final_map_weight: the regression weight of that map.
    claim: the resolution.
    """

    raw: Curve
    smoothed: Curve
    stderr: Curve
    n_effective: Curve
    z_mask: Curve
    z_sphere: Curve
    first_tested_shell: int | None
    valid_up_to_shell: int | None
    fsc_gaussian: Curve
    fsc_linear: Curve
    cross12: Curve
    cross21: Curve
    overfit1: Curve
    overfit2: Curve
    regression_weight: Curve
    final_map_correlation: Curve
    final_map_weight: Curve
    claim: ResolutionClaim


def calibrated_fsc(
    gaussian_half1: FloatVolume,
    gaussian_half2: FloatVolume,
    linear_half1: FloatVolume,
    linear_half2: FloatVolume,
    mask: FloatVolume | None,
    *,
    pixel_size_A: float,
    particle_diameter_A: float | None = None,
    final_map: FloatVolume | None = None,
    threshold: float = FSC_THRESHOLD,
    last_shell: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CalibratedFSC:
    """Calibrated FSC F = <G1,B2> <G2,B1> / (|G1| |G2| <B1,B2>) with its uncertainty, validity and claim.

    Parameters
    ----------
    gaussian_half1, gaussian_half2: `(D, D, D)` half maps with a prior, unmasked, unfiltered.
    linear_half1, linear_half2: `(D, D, D)` half maps without any, of the same halves, isotropically weighted.
    mask: `(D, D, D)` in [0, 1]; None for no mask.
    pixel_size_A: A per voxel.
    particle_diameter_A: diameter of the a priori sphere of the validity test; None for 0.9 of the box.
    final_map: `(D, D, D)` map fitted to all data, for `final_map_weight`; None: the mean of the Gaussian half
        maps.
    threshold: at which the resolution is read.
    last_shell: last Fourier shell that the maps were made from; curves end there, and the claim one shell before.
        None for D//2, the claim included.
    progress: called with (work done, work in all).

    Raises
    ------
    MapError: the maps are not cubic, alike and finite.
    """
    box_size = check_same_box(
        gaussian_half1=gaussian_half1,
        gaussian_half2=gaussian_half2,
        linear_half1=linear_half1,
        linear_half2=linear_half2,
        mask=mask,
        final_map=final_map,
    )
    mask = np.ones_like(gaussian_half1) if mask is None else np.asarray(mask, dtype=np.float32)
    maps = [gaussian_half1, gaussian_half2, linear_half1, linear_half2]
    # Half maps without a prior are their own linear maps: they need not be filtered twice.
    distinct = {id(volume): volume for volume in maps}
    place = [list(distinct).index(id(volume)) for volume in maps]
    found = band_passed_products(
        list(distinct.values()), np.square(mask), last_shell=last_shell, progress=progress
    )
    products = replace(found, inner_products=found.inner_products[:, place][:, :, place])
    z_sphere = sphere_significance(
        linear_half1,
        linear_half2,
        pixel_size_A=pixel_size_A,
        particle_diameter_A=particle_diameter_A,
        last_shell=last_shell,
    )
    mean = np.asarray((gaussian_half1 + gaussian_half2) / 2, np.float32)
    final_norm = np.ones(len(z_sphere)) if final_map is None else _norms(final_map, mean, mask, len(z_sphere))
    return _assess(
        products,
        z_sphere,
        final_norm,
        threshold=threshold,
        pixel_size_A=pixel_size_A,
        box_size=box_size,
        edge_shells=0 if last_shell is None else EDGE_SHELLS,
    )


def _assess(
    products: BandProducts,
    z_sphere: Curve,
    final_norm: Curve,
    *,
    threshold: float,
    pixel_size_A: float,
    box_size: int,
    edge_shells: int,
) -> CalibratedFSC:
    """Everything that follows from the inner products under the mask and the test under the sphere.

    `final_norm` is that of the final map over that of the mean of the Gaussian half maps.
    """
    under_mask, n = products.inner_products, products.n_effective
    norm_g1, norm_g2, norm_b1, norm_b2 = (
        np.sqrt(np.maximum(under_mask[:, i, i], 0)) for i in (G1, G2, B1, B2)
    )
    of_sum = under_mask[:, : G2 + 1, : G2 + 1].sum(axis=(1, 2))
    norm_final = final_norm * np.sqrt(np.maximum(of_sum, 0)) / 2
    norm_b = np.sqrt(norm_b1 * norm_b2)
    fsc_linear = ratio(under_mask[:, B1, B2], norm_b1 * norm_b2)
    fsc_gaussian = ratio(under_mask[:, G1, G2], norm_g1 * norm_g2)
    # Own crosses (G_i with B_i) are scaled like the others, so that their ratio is that of the inner
    # products.
    cross12, cross21, own1, own2 = (
        ratio(under_mask[:, i, j], norm * norm_b)
        for i, j, norm in ((G1, B2, norm_g1), (G2, B1, norm_g2), (G1, B1, norm_g1), (G2, B2, norm_g2))
    )
    overfit1, overfit2 = ratio(own1, cross12) - 1, ratio(own2, cross21) - 1
    raw = calibrated_value(cross12, cross21, fsc_linear)
    raw_stderr = calibrated_stderr(raw, fsc_linear, overfit1, overfit2, n)

    kernel = local_quadratic_weights(n)
    n_pooled = pooled_number(kernel, n)
    smooth12, smooth21, smooth_linear = kernel @ cross12, kernel @ cross21, kernel @ fsc_linear
    pooled = calibrated_value(smooth12, smooth21, smooth_linear)
    pooled_overfit = ratio(kernel @ own1, smooth12) - 1, ratio(kernel @ own2, smooth21) - 1
    pooled_stderr = calibrated_stderr(pooled, smooth_linear, *pooled_overfit, n_pooled)

    relative = np.divide(raw_stderr, raw, out=np.full_like(raw, np.inf), where=raw > 0)
    span = SMOOTHED_ABOVE_RELATIVE_STDERR - RAW_BELOW_RELATIVE_STDERR
    share = np.clip((relative - RAW_BELOW_RELATIVE_STDERR) / span, 0, 1)
    # Where the data contradict the smooth value, the curve falls faster than the kernel can follow (a
    # filtered map): smoothing would carry the crossing outwards.
    misfit = np.max(
        [
            np.abs(curve - kernel @ curve) / np.maximum(1 - (kernel @ curve) ** 2, 1e-12)
            for curve in (cross12, cross21, fsc_linear)
        ],
        axis=0,
    )
    share *= np.clip(MISFIT_SIGMAS + 1 - misfit * np.sqrt(2 * n), 0, 1)
    smoothed = _blend(raw, pooled, share)
    stderr = _blend(raw_stderr, pooled_stderr, share)

    z_mask = smooth_linear * np.sqrt(2 * n_pooled)
    last_tested = len(raw) - 1 - edge_shells
    tested = slice(0, last_tested + 1)
    first, last = _valid_range(z_mask[tested], z_sphere[tested], n_pooled[tested])
    within = np.arange(len(raw)) <= (-1 if last is None else last)

    weight1, weight2 = ratio(cross12 * norm_b, norm_g1), ratio(cross21 * norm_b, norm_g2)
    weight = (weight1 + weight2) / 2
    weight = np.clip(_blend(weight, kernel @ weight, share), 0, LARGEST_REGRESSION_WEIGHT) * within
    # From a half map to the map of all data: corr_full / corr_half = sqrt(2 / (1 + c)), over the norms.
    gain = np.sqrt(2 / (1 + np.clip(fsc_gaussian, 0, 1)))
    final_weight = weight * gain * ratio(np.sqrt(norm_g1 * norm_g2), norm_final)
    return CalibratedFSC(
        raw=raw,
        smoothed=smoothed,
        stderr=stderr,
        n_effective=n,
        z_mask=z_mask,
        z_sphere=z_sphere,
        first_tested_shell=first,
        valid_up_to_shell=last,
        fsc_gaussian=fsc_gaussian,
        fsc_linear=fsc_linear,
        cross12=cross12,
        cross21=cross21,
        overfit1=overfit1,
        overfit2=overfit2,
        regression_weight=weight,
        final_map_correlation=np.minimum(np.sqrt(np.clip(smoothed, 0, 1)) * gain, 1),
        final_map_weight=np.clip(final_weight, 0, LARGEST_REGRESSION_WEIGHT),
        claim=claim_resolution(
            smoothed,
            stderr,
            first_shell=first,
            valid_up_to_shell=last,
            last_tested_shell=last_tested,
            threshold=threshold,
            pixel_size_A=pixel_size_A,
            box_size=box_size,
        ),
    )


def _norms(volume: FloatVolume, other: FloatVolume, mask: FloatVolume, n_shells: int) -> Curve:
    """|volume| / |other| in every shell, for two maps so alike that the mask may come before the shells are taken."""
    _, power, other_power = shell_products(*(fourier_transform(each * mask) for each in (volume, other)))
    return np.sqrt(ratio(power, other_power))[:n_shells]


def _valid_range(z_mask: Curve, z_sphere: Curve, n_pooled: Curve) -> tuple[int | None, int | None]:
    """First testable shell and last valid one: z >= 4 under both weights, without a gap from the first on."""
    testable = np.flatnonzero((n_pooled >= FEWEST_POOLED_VALUES) & (np.arange(len(n_pooled)) > 0))
    if len(testable) == 0:
        return None, None
    first = int(testable[0])
    fails = np.flatnonzero(~((z_mask >= VALID_SIGMAS) & (z_sphere >= VALID_SIGMAS))[first:])
    last = len(n_pooled) - 1 if len(fails) == 0 else first + int(fails[0]) - 1
    return first, (last if last >= first else None)


def _blend(raw: Curve, smooth: Curve, share: Curve) -> Curve:
    """(1 - share) raw + share smooth, without letting an infinite value count for nothing."""
    return np.where(
        share >= 1, smooth, np.where(share <= 0, raw, _finite(raw) * (1 - share) + _finite(smooth) * share)
    )


def _finite(values: Curve) -> Curve:
    return np.minimum(values, np.finfo(np.float64).max / 4)

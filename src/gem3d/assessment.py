"""Everything that half maps say of a reconstruction, in one value: what report and summary.json are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.calibration import CalibratedFSC, calibrated_fsc
from gem3d.assess.claim import ResolutionClaim
from gem3d.assess.directional import DirectionalFSC, directional_fsc
from gem3d.assess.local_curves import LocalCurves, local_curves
from gem3d.assess.local_filter import filter_locally
from gem3d.assess.local_resolution import LocalResolution, local_resolution, window_for
from gem3d.assess.orientations import OrientationDistribution, orientation_distribution
from gem3d.assess.overfit import LikelihoodGain
from gem3d.assess.phase_randomisation import MaskCorrectedFSC, mask_corrected_fsc
from gem3d.assess.reference import ReferenceComparison, compare_with_reference
from gem3d.assess.sharpening import GuinierFit, guinier_bfactor, sharpen_and_weight, shell_amplitudes
from gem3d.assess.shells import Curve, FloatVolume
from gem3d.assess.slice_correlation import SliceCorrelation, slice_correlation
from gem3d.errors import warn
from gem3d.progress import Reporter

MASK_WARNING = "the mask fakes correlation"
ORIENTATION_WARNING = "preferred orientation"
# Below this ratio of the areas under conical FSCs views are missing.
PREFERRED_ORIENTATION_CFAR = 0.5
# Local resolution needs valid shells up to so many times the frequency whose wave fills the window.
FEWEST_WINDOWS = 2.0


@dataclass(frozen=True)
class Assessment:
    """What was found; maps are `(D, D, D)` float32 [z, y, x].

    calibrated: the calibrated FSC and the resolution that it claims; where there are no linear half maps, it equals
        the ordinary FSC of the half maps with the mask after the shell filter.
    has_linear: whether linear half maps were given.
    half: curves of the half maps; `linear`: of the linear half maps, None without any.
    map: weighted and sharpened; `map_local`: filtered to the local resolution; `map_unfiltered`: before both.
    amplitude: `(shells,)` mean amplitude of `map_unfiltered` in each shell, for the Guinier plot; `weight`:
        `(shells,)` by which it is multiplied before the fit.
    local, directional, slices: None where no resolution can be claimed.
    orientations: None where no particle file is known.
    reference: None where none is given.
    likelihood: of half 1 and 2; None where the maps were not made here.
    """

    pixel_size_A: float
    calibrated: CalibratedFSC
    has_linear: bool
    half: MaskCorrectedFSC
    linear: MaskCorrectedFSC | None
    mask: FloatVolume
    map: FloatVolume
    map_unfiltered: FloatVolume
    map_local: FloatVolume | None
    guinier: GuinierFit | None
    amplitude: Curve
    weight: Curve
    local: LocalResolution | None
    directional: DirectionalFSC | None
    slices: SliceCorrelation | None
    orientations: OrientationDistribution | None
    reference: ReferenceComparison | None
    likelihood: tuple[LikelihoodGain, LikelihoodGain] | None

    @property
    def claim(self) -> ResolutionClaim:
        """The resolution."""
        return self.calibrated.claim

    @property
    def box_size_px(self) -> int:
        """Voxels a side."""
        return len(self.map)


@dataclass(frozen=True)
class Reference:
    """What a map is held against, on its grid."""

    name: str
    values: FloatVolume


def assess_half_maps(
    half_maps: tuple[FloatVolume, FloatVolume],
    linear: tuple[FloatVolume, FloatVolume] | None,
    mask: FloatVolume,
    pixel_size_A: float,
    reporter: Reporter,
    *,
    final_map: FloatVolume | None = None,
    particle_diameter_A: float | None = None,
    last_shell: int | None = None,
    bfactor_A2: float | None = None,
    seed: int = 0,
    rotations: NDArray[np.floating] | None = None,
    reference: Reference | None = None,
    likelihood: tuple[LikelihoodGain, LikelihoodGain] | None = None,
) -> Assessment:
    """Assess half maps, and weight, sharpen and filter the final map by what was found.

    Parameters
    ----------
    half_maps: `(D, D, D)` each, unmasked, unfiltered.
    linear: half maps of the same halves without a prior; None where the half maps themselves have none, or nothing
        is known.
    mask: `(D, D, D)` in [0, 1].
    pixel_size_A: A per voxel.
    final_map: `(D, D, D)` map of all data; None for the mean of the half maps.
    particle_diameter_A: of the sphere that signal is tested in.
    last_shell: last Fourier shell that the maps were made from; None for D//2.
    bfactor_A2: to sharpen by; None for that of the Guinier plot.
    seed: of random phases.
    rotations: `(n, 3, 3)` poses of the particles.
    """
    box_size = len(mask)
    final = np.asarray(
        (half_maps[0] + half_maps[1]) / 2 if final_map is None else final_map, dtype=np.float32
    )
    with reporter.stage("assess") as report:
        calibrated = calibrated_fsc(
            *half_maps,
            *(linear or half_maps),
            mask,
            pixel_size_A=pixel_size_A,
            particle_diameter_A=particle_diameter_A,
            final_map=final_map,
            last_shell=last_shell,
            progress=report,
        )
        half, of_linear = (
            None
            if pair is None
            else mask_corrected_fsc(*pair, mask, pixel_size_A, seed=seed, last_shell=last_shell)
            for pair in (half_maps, linear)
        )
        assert half is not None
        claim = calibrated.claim
        if half.mask_too_tight:
            warn(
                f"{MASK_WARNING} at the resolution of the ordinary masked FSC (phase-randomised FSC above 0.10): "
                f"read the {'calibrated one' if linear else 'one masked after the shell filter'}, or give a softer "
                "--mask"
            )
        limit_A, weight = claim.estimate_A, calibrated.final_map_weight
        sharpened, guinier, b = final, None, bfactor_A2
        if limit_A is not None:
            # Weighted per shell by the regression on the truth, and the decay undone, up to the claimed resolution.
            guinier = guinier_bfactor(final, pixel_size_A, high_A=limit_A, shell_weights=weight)
            b = guinier.bfactor_A2 if bfactor_A2 is None else bfactor_A2
            sharpened = sharpen_and_weight(final, pixel_size_A, b, shell_weights=weight, resolution_A=limit_A)
        compared = None
        if reference is not None:
            compared = compare_with_reference(
                final,
                reference.values,
                mask,
                pixel_size_A,
                name=reference.name,
                low_pass_A=limit_A or 2 * pixel_size_A,
                last_shell=box_size // 2 if last_shell is None else last_shell,
            )

    local, map_local, directional, slices = None, None, None, None
    end = calibrated.valid_up_to_shell
    limit_shell = None if limit_A is None else round(box_size * pixel_size_A / limit_A)
    if limit_shell is not None and end is not None:
        limit_shell = min(limit_shell, end)
        with reporter.stage("local resolution") as report:
            curves = _local_curves(
                half_maps, linear, mask, pixel_size_A, final_map, calibrated, limit_shell, report
            )
            if curves is not None:
                local = local_resolution(curves, mask, pixel_size_A)
                map_local = filter_locally(final, mask, curves, pixel_size_A, b)
        with reporter.stage("directions"):
            directional = directional_fsc(*half_maps, mask, pixel_size_A, linear=linear, last_shell=end)
            slices = slice_correlation(*half_maps, mask, last_shell=limit_shell)
            if directional.cfar < PREFERRED_ORIENTATION_CFAR:
                warn(
                    f"{ORIENTATION_WARNING}: the map is much better along some directions than along others (cFAR "
                    f"{directional.cfar:.2f}, below {PREFERRED_ORIENTATION_CFAR:g})"
                )
    orientations = None
    if rotations is not None:
        orientations = orientation_distribution(rotations, box_size, shell=limit_shell)
    return Assessment(
        pixel_size_A=pixel_size_A,
        calibrated=calibrated,
        has_linear=linear is not None,
        half=half,
        linear=of_linear,
        mask=mask,
        map=sharpened,
        map_unfiltered=final,
        map_local=map_local,
        guinier=guinier,
        amplitude=shell_amplitudes(final),
        weight=weight,
        local=local,
        directional=directional,
        slices=slices,
        orientations=orientations,
        reference=compared,
        likelihood=likelihood,
    )


def _local_curves(
    half_maps: tuple[FloatVolume, FloatVolume],
    linear: tuple[FloatVolume, FloatVolume] | None,
    mask: FloatVolume,
    pixel_size_A: float,
    final_map: FloatVolume | None,
    calibrated: CalibratedFSC,
    limit_shell: int,
    report: Callable[[int, int], None],
) -> LocalCurves | None:
    """Curves in the window that suits the claim, at `limit_shell`; None where the valid shells are too few for it."""
    box_size, end, limit_A = len(mask), calibrated.valid_up_to_shell, calibrated.claim.estimate_A
    assert end is not None
    assert limit_A is not None
    linear_fsc = float(calibrated.fsc_linear[limit_shell])
    window_A = window_for(limit_A, linear_fsc, pixel_size_A, box_size)
    if end < FEWEST_WINDOWS * box_size * pixel_size_A / window_A:
        return None
    return local_curves(
        *half_maps,
        mask,
        pixel_size_A,
        window_A=window_A,
        last_shell=end,
        linear=linear,
        final_map=final_map,
        progress=report,
    )

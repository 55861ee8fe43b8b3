"""How good a map is: FSC curves, masks, the calibrated FSC and its claim, sharpening."""

from gem3d.assess.band_pass import BandProducts, band_passed_products, effective_number
from gem3d.assess.calibration import CalibratedFSC, calibrated_fsc
from gem3d.assess.claim import ResolutionClaim
from gem3d.assess.fsc import FSC_THRESHOLD, Crossing, fourier_shell_correlation, resolution_at
from gem3d.assess.mask import automatic_mask, sphere_mask, support_box
from gem3d.assess.phase_randomisation import MaskCorrectedFSC, mask_corrected_fsc, randomise_phases
from gem3d.assess.sharpening import GuinierFit, guinier_bfactor, sharpen_and_weight
from gem3d.assess.table import FSC_COLUMNS, fsc_rows

__all__ = [
    "FSC_COLUMNS",
    "FSC_THRESHOLD",
    "BandProducts",
    "CalibratedFSC",
    "Crossing",
    "GuinierFit",
    "MaskCorrectedFSC",
    "ResolutionClaim",
    "automatic_mask",
    "band_passed_products",
    "calibrated_fsc",
    "effective_number",
    "fourier_shell_correlation",
    "fsc_rows",
    "guinier_bfactor",
    "mask_corrected_fsc",
    "randomise_phases",
    "resolution_at",
    "sharpen_and_weight",
    "sphere_mask",
    "support_box",
]

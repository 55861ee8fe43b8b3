"""FSC corrected for the mask by phase randomisation (Chen et al. 2013, Ultramicroscopy 135:24).

A mask multiplies in real space, so it convolves in Fourier space: strong low-frequency signal leaks into
shells that hold none. How much it fakes is seen by randomising the phases beyond k_r before masking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.fsc import (
    FSC_THRESHOLD,
    Crossing,
    fourier_shell_correlation,
    fsc_of_spectra,
    resolution_at,
)
from gem3d.assess.shells import (
    Curve,
    FloatVolume,
    check_same_box,
    fourier_transform,
    inverse_fourier_transform,
    shells_of_squares,
)
from gem3d.kernels.radial import multiply_radially
from gem3d.threads import two_at_a_time

RANDOMISE_BELOW_FSC = 0.8
TIGHT_MASK_FSC = 0.10


@dataclass(frozen=True)
class MaskCorrectedFSC:
    """The four curves of a masked pair of half maps, `(last_shell + 1,)` each, and the resolution of the
    corrected one.

    `first_randomised_shell` is k_r, None where the unmasked FSC never falls below 0.8 (nothing is then
    corrected and `randomised` is all zero). `mask_too_tight`: FSC_n exceeds 0.10 at the resolution, which is
    then not to be trusted.
    """

    unmasked: Curve
    masked: Curve
    randomised: Curve
    corrected: Curve
    first_randomised_shell: int | None
    resolution: Crossing
    mask_too_tight: bool


def randomise_phases(volume: FloatVolume, first_shell: int, seed: int | tuple[int, ...]) -> FloatVolume:
    """Map with the same amplitudes and, from `first_shell` on, random phases.

    The phases are those of white noise transformed the same way: uniform, and Hermitian on every plane of the
    half spectrum without a case distinction.

    Parameters
    ----------
    volume: `(D, D, D)` map.
    first_shell: k_r; lower shells are left as they are.
    seed: the same seed gives the same phases.
    """
    check_same_box(volume=volume)
    return _randomised(fourier_transform(volume), first_shell, seed)


def _randomised(
    spectrum: NDArray[np.complex64], first_shell: int, seed: int | tuple[int, ...]
) -> FloatVolume:
    """`randomise_phases` of the map of a half spectrum, which is changed."""
    box_size = len(spectrum)
    phase = fourier_transform(np.random.default_rng(seed).standard_normal((box_size,) * 3, dtype=np.float32))
    magnitude = np.abs(phase)
    phase *= np.divide(np.abs(spectrum), magnitude, out=np.zeros_like(magnitude), where=magnitude > 0)
    kept = shells_of_squares(box_size) < first_shell
    multiply_radially(spectrum, kept.astype(np.float32))
    multiply_radially(phase, (~kept).astype(np.float32))
    spectrum += phase
    return inverse_fourier_transform(spectrum, box_size)


def mask_corrected_fsc(
    half1: FloatVolume,
    half2: FloatVolume,
    mask: FloatVolume,
    pixel_size_A: float,
    *,
    threshold: float = FSC_THRESHOLD,
    seed: int = 0,
    last_shell: int | None = None,
) -> MaskCorrectedFSC:
    """FSC_true = (FSC_t - FSC_n) / (1 - FSC_n) from k_r + 2 on, FSC_t before (Chen et al. 2013).

    FSC_t is the FSC of the masked maps, FSC_n that of the masked phase-randomised maps, k_r the first shell
    where the unmasked FSC is below 0.8.

    Parameters
    ----------
    half1, half2: `(D, D, D)` unmasked half maps.
    mask: `(D, D, D)` in [0, 1].
    pixel_size_A: A per voxel.
    threshold: at which the resolution is read.
    seed: of the random phases; each half map has its own.
    last_shell: last Fourier shell that the maps were made from; curves end there. None for D//2.
    """
    box_size = check_same_box(half1=half1, half2=half2, mask=mask)
    spectra = [fourier_transform(half) for half in (half1, half2)]
    unmasked = fsc_of_spectra(*spectra, last_shell=last_shell)
    masked = fourier_shell_correlation(half1, half2, mask, last_shell=last_shell)
    randomised = np.zeros_like(masked)
    corrected = masked.copy()
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW_FSC)
    first_shell = int(below[0]) + 1 if len(below) else None
    if first_shell is not None:

        def randomise(half: int) -> None:
            spectra[half] = fourier_transform(
                _randomised(spectra[half], first_shell, (seed, half + 1)) * mask
            )

        two_at_a_time(randomise, (0, 1))
        randomised = fsc_of_spectra(*spectra, last_shell=last_shell)
        beyond = slice(first_shell + 2, None)
        corrected[beyond] = (masked[beyond] - randomised[beyond]) / np.maximum(1 - randomised[beyond], 1e-6)
    resolution = resolution_at(corrected, threshold, pixel_size_A, box_size)
    at_claim = (
        0.0
        if resolution.shell is None
        else float(np.interp(resolution.shell, np.arange(len(masked)), randomised))
    )
    return MaskCorrectedFSC(
        unmasked,
        masked,
        randomised,
        corrected,
        first_shell,
        resolution,
        mask_too_tight=at_claim > TIGHT_MASK_FSC,
    )

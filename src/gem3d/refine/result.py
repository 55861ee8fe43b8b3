"""What a refinement is given each round, and what it says in the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess import CalibratedFSC
from gem3d.assess.shells import FloatVolume
from gem3d.fit.observations import Observations
from gem3d.particles import Particles
from gem3d.settings import RefineSettings


@dataclass(frozen=True)
class HalfMaps:
    """What the maps of a round say.

    Attributes
    ----------
    maps: Gaussian half maps.
    noise_power: of each half, see `gem3d.fit.half_sets.HalfSet`.
    calibrated: FSC, and how much of each shell to believe.
    """

    maps: tuple[FloatVolume, FloatVolume]
    noise_power: tuple[torch.Tensor, torch.Tensor]
    calibrated: CalibratedFSC


@dataclass(frozen=True)
class RoundReport:
    """One round: the maps that it began with, and what the refinement against them did.

    Attributes
    ----------
    resolution_A: of the maps before the particles were refined, an estimate where none can be claimed; None where
        there is neither.
    fsc_sum: of the calibrated FSC over its shells.
    last_shell: of the slices compared.
    angle_change_deg, shift_change_A: root mean square of what changed in this round.
    widths: of the prior of each half: angle (degrees), shift (A), defocus (A), contrast.
    gain: mean log likelihood that particles gained since the start.
    comparisons, seconds: of slices with images, in both halves.
    """

    round: int
    resolution_A: float | None
    fsc_sum: float
    last_shell: int
    angle_change_deg: float
    shift_change_A: float
    widths: tuple[tuple[float, ...], tuple[float, ...]]
    gain: float
    comparisons: int
    seconds: float


@dataclass(frozen=True)
class Refinement:
    """Where the particles have come to.

    Attributes
    ----------
    particles: with their new poses, shifts, defoci and contrasts.
    observations: the same, as the reconstruction takes them.
    gain: `(n,)` log likelihood gained since the start, against the last map.
    width: `(n, 4)` posterior: angle (degrees), shift (A), defocus (A), contrast; 0 where nothing was refined.
    settings: that led there.
    rounds: what happened.
    ended: why there were no more.
    """

    particles: Particles
    observations: Observations
    gain: NDArray[np.float64]
    width: NDArray[np.float64]
    settings: RefineSettings
    rounds: tuple[RoundReport, ...]
    ended: str

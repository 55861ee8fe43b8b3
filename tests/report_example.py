"""An assessment to report on: real curves of made-up half maps, and made-up figures of everything else."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from gem3d.assess import (
    automatic_mask,
    calibrated_fsc,
    guinier_bfactor,
    mask_corrected_fsc,
    resolution_at,
    sharpen_and_weight,
)
from gem3d.assess.directional import DirectionalFSC
from gem3d.assess.local_resolution import LocalResolution
from gem3d.assess.orientations import OrientationDistribution
from gem3d.assess.overfit import LikelihoodGain
from gem3d.assess.reference import ReferenceComparison
from gem3d.assess.shells import (
    FloatVolume,
    fourier_transform,
    frequency_radius,
    inverse_fourier_transform,
    shell_sizes,
    shell_sums,
)
from gem3d.assess.slice_correlation import SliceCorrelation
from gem3d.assess.sphere import half_sphere
from gem3d.assessment import Assessment
from gem3d.fit.result import Round
from gem3d.gaussians import Gaussians
from gem3d.report import RunFacts

BOX, PIXEL_A = 40, 3.0


@cache
def example() -> Assessment:
    """With everything that an assessment may hold; the calibrated FSC crosses its threshold near 6.5 A."""
    truth = _molecule()
    radius = frequency_radius(BOX)
    rng = np.random.default_rng(1)
    spectrum = fourier_transform(truth)
    # White noise, under which the falling amplitudes of the molecule drown.
    envelope = np.exp(-800 / 4 * (radius / (BOX * PIXEL_A)) ** 2)
    signal = inverse_fourier_transform(spectrum * envelope, BOX)
    level = 0.25 * float(signal.std())
    linear = [(signal + level * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2)]
    # A prior that takes noise away, and puts the same structure into both halves where there is no signal.
    shared = fourier_transform(level * rng.standard_normal(signal.shape).astype(np.float32))
    kept = 1 / (1 + (radius / 13) ** 8)
    added = 0.5 * ((radius > 14) & (radius < 19))
    half1, half2 = (
        inverse_fourier_transform(fourier_transform(b) * (kept + 0.35 * (kept < 0.5)) + shared * added, BOX)
        for b in linear
    )
    mask = automatic_mask((linear[0] + linear[1]) / 2, PIXEL_A)
    unfiltered = (half1 + half2) / 2
    calibrated = calibrated_fsc(half1, half2, *linear, mask, pixel_size_A=PIXEL_A)
    found_A = calibrated.claim.estimate_A
    weight = calibrated.final_map_weight
    guinier = guinier_bfactor(unfiltered, PIXEL_A, high_A=found_A, shell_weights=weight)
    sharpened = sharpen_and_weight(
        unfiltered, PIXEL_A, guinier.bfactor_A2, shell_weights=weight, resolution_A=found_A
    )
    shells = np.arange(BOX // 2 + 1)
    to_truth = np.clip(1.1 - (shells / 18) ** 2, 0, 1)
    return Assessment(
        pixel_size_A=PIXEL_A,
        calibrated=calibrated,
        has_linear=True,
        half=mask_corrected_fsc(half1, half2, mask, PIXEL_A),
        linear=mask_corrected_fsc(*linear, mask, PIXEL_A),
        mask=mask,
        map=sharpened,
        map_unfiltered=unfiltered,
        map_local=sharpened * np.float32(0.9),
        guinier=guinier,
        amplitude=shell_sums(np.abs(fourier_transform(unfiltered)), BOX) / shell_sizes(BOX),
        weight=weight,
        local=_local(mask, found_A),
        directional=_directional(),
        slices=_slices(),
        orientations=_orientations(),
        reference=ReferenceComparison(
            "truth.mrc", to_truth, to_truth, resolution_at(to_truth, 0.5, PIXEL_A, BOX), 0.94, found_A
        ),
        likelihood=(_gain(1), _gain(2)),
    )


@cache
def example_facts() -> RunFacts:
    """What a run would say."""
    rng = np.random.default_rng(3)
    n = 400
    gaussians = Gaussians(
        centres_A=torch.from_numpy(rng.normal(0, 18, (n, 3))).float(),
        log_scales=torch.from_numpy(rng.normal(0.7, 0.2, (n, 3))).float(),
        quaternions=torch.ones(n, 4),
        raw_masses=torch.from_numpy(rng.normal(-3, 0.5, n)).float(),
        unit_mass=1.0,
    )
    falling = tuple(-100 + 20 * 0.5**i for i in range(8))
    rounds = (Round(200, 8, falling, falling), Round(400, 3, falling[:3], (-99.0, -98.5, -98.0), kept=False))
    summary = {
        "particle_file": "/data/set/particles.star",
        "settings": {"fit": "volume", "seed": 0, "mask": None},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "particles": {"half1": 1000, "half2": 1001},
        "images_per_second": 900.5,
        "seconds": {"accumulate": 4.2, "fit half 1": 61.0, "fit half 2": 60.5},
        "peak_memory_GB": 0.65,
        "warnings": ["the defocus of 3 particles is zero"],
    }
    return RunFacts(
        title="made-up molecule",
        command="gem3d reconstruct particles.star --out results",
        summary=summary,
        gaussians=gaussians,
        rounds={"half 1": rounds, "half 2": rounds[:1], "final map": rounds[:1]},
    )


def _molecule() -> FloatVolume:
    """Blobs at random within an ellipsoid."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (300, 3))
    points *= (rng.random((300, 1)) ** (1 / 3)) / np.linalg.norm(points, axis=1, keepdims=True)
    cells = np.rint(points * [6.5, 8.5, 11]).astype(int) + BOX // 2
    volume = np.zeros((BOX,) * 3, dtype=np.float32)
    np.add.at(volume, tuple(cells.T), 1)
    return volume


def _local(mask: FloatVolume, finest_A: float) -> LocalResolution:
    z, y, x = np.indices(mask.shape) - BOX // 2
    values = (finest_A + 0.1 * np.sqrt(x**2 + y**2 + z**2)).astype(np.float32)
    inside = values[mask > 0.5]
    low, high = (float(q) for q in np.quantile(inside, (0.25, 0.75)))
    return LocalResolution(
        values, 40.0, 10.0, finest_A, 40.0, float(inside.mean()), float(np.median(inside)), (low, high)
    )


def _directional() -> DirectionalFSC:
    directions = half_sphere(60)
    shells = np.arange(BOX // 2 + 1)
    cutoff = 16 - 2 * directions[:, 2] ** 2
    curves = 1 / (1 + np.exp((shells - cutoff[:, None]) / 1.5))
    resolution_A = np.array([resolution_at(c, 0.143, PIXEL_A, BOX).resolution_A or np.nan for c in curves])
    area = curves[:, 1:].mean(1)
    return DirectionalFSC(
        directions, curves, resolution_A, area, 20.0, len(shells) - 1, 0.97, float(area.min() / area.max())
    )


def _slices() -> SliceCorrelation:
    elevation, azimuth = np.arange(-90.0, 91, 15), np.arange(0.0, 360, 15)
    values = 0.9 + 0.05 * np.cos(np.radians(elevation))[:, None] * np.cos(np.radians(2 * azimuth))
    return SliceCorrelation(elevation, azimuth, values, 0.9, 0.03, 18)


def _orientations() -> OrientationDistribution:
    latitude = np.degrees(np.arcsin(np.linspace(-1, 1, 10)))
    longitude = np.linspace(-180, 180, 19)
    counts = np.random.default_rng(2).poisson(12, (9, 18))
    directions = half_sphere(60)
    sampling = 1 + 0.2 * directions[:, 2]
    return OrientationDistribution(
        latitude, longitude, counts, 0.0, 0.0, directions, sampling, 0.0, 0.98, 0.93
    )


def _gain(half: int) -> LikelihoodGain:
    shells = np.arange(BOX // 2 + 1)
    seen = 0.5 * np.exp(-shells / 4)
    return LikelihoodGain(seen, seen * (0.9 - 0.02 * half), 0.1 * seen, 950, 50)

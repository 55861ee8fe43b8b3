"""From particles to half maps, a final map and an honest resolution: the whole job in order."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from gem3d import run_directory
from gem3d.assess import (
    FSC_COLUMNS,
    CalibratedFSC,
    GuinierFit,
    MaskCorrectedFSC,
    ResolutionClaim,
    automatic_mask,
    calibrated_fsc,
    fourier_shell_correlation,
    fsc_rows,
    guinier_bfactor,
    mask_corrected_fsc,
    resolution_at,
    sharpen_and_weight,
)
from gem3d.assess.shells import FloatVolume
from gem3d.errors import MapError
from gem3d.fit.accumulate import HalfSet, accumulate, assign_halves
from gem3d.fit.volume import STAGES, Stage, VolumeFit, fit_volume, support_of
from gem3d.gaussians import Gaussians, initialise_from_map, initialise_random, save_gaussians, save_ply
from gem3d.maps import read_map, write_map
from gem3d.particles import ImageSource, read_particles
from gem3d.progress import Reporter
from gem3d.runtime import available_threads, peak_memory_GB, set_threads
from gem3d.settings import ReconstructSettings

# Volume of the particle that one Gaussian stands for when their number is chosen automatically.
VOLUME_PER_GAUSSIAN_A3 = 40.0
START_LOW_PASS_A = 2.4
# Steps for the final map, which starts from the mean of the half maps.
FINAL_STAGES = (Stage(1.0, 12),)


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstruction found; the maps are `(D, D, D)` float32 [z, y, x].

    Attributes
    ----------
    map: final map, weighted and sharpened; `map_unfiltered` before that.
    gaussians: of the final map.
    calibrated: the calibrated FSC and the resolution it claims.
    summary: what summary.json holds.
    """

    map: FloatVolume
    map_unfiltered: FloatVolume
    half_maps: tuple[FloatVolume, FloatVolume]
    linear_half_maps: tuple[FloatVolume, FloatVolume]
    mask: FloatVolume
    gaussians: Gaussians
    calibrated: CalibratedFSC
    summary: dict[str, Any]


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def reconstruct(
    particle_file: str | Path, out: str | Path, settings: ReconstructSettings | None = None
) -> Reconstruction:
    """Reconstruct a particle set and write every output into the folder `out`.

    Parameters
    ----------
    particle_file: RELION STAR file.
    out: folder; must be empty or new unless `settings.overwrite`.

    Raises
    ------
    Gem3dError
        if the input or the settings are at fault.
    """
    settings = settings or ReconstructSettings()
    out = Path(out)
    reporter, clock = Reporter(quiet=settings.quiet), _Clock()
    set_threads(settings.threads or available_threads())

    with clock.stage("read particles"):
        particles = read_particles(
            particle_file, ctf=settings.ctf, ignore_extras=settings.ignore_optics_extras
        )
        images = ImageSource(particles, settings.datadir)
        particles = images.particles
        halves = assign_halves(
            particles.half_set, settings.seed, random=settings.halves == "random", source=str(particle_file)
        )
    box_size, pixel_size_A = images.box_size_px, particles.pixel_size_A
    given_mask = None if settings.mask is None else _read_mask(settings.mask, box_size)
    run_directory.prepare(out, overwrite=settings.overwrite)
    reporter.say(f"{len(particles)} particles, box {box_size} px, {pixel_size_A:g} A/px")

    diameter_A = settings.particle_diameter_A or 0.9 * box_size * pixel_size_A
    with clock.stage("accumulate"), reporter.task("images") as report:
        sets = accumulate(
            images,
            halves,
            seed=settings.seed,
            particle_radius_px=diameter_A / pixel_size_A / 2,
            normalise=settings.normalise,
            progress=report,
        )
    with clock.stage("linear maps"):
        linear: tuple[FloatVolume, FloatVolume] = (_linear(sets[0]), _linear(sets[1]))
        for number, values in enumerate(linear, start=1):
            write_map(out / f"linear_half{number}.mrc", values, pixel_size_A)

    fits: list[VolumeFit] = []
    for number, (half, values) in enumerate(zip(sets, linear, strict=True), start=1):
        with clock.stage(f"fit half {number}"), reporter.task(f"fit half map {number}") as report:
            fits.append(_fit_half(half, values, number, diameter_A, settings, report))
        write_map(
            out / f"half{number}.mrc", _density(fits[-1].gaussians, box_size, pixel_size_A), pixel_size_A
        )
    with clock.stage("fit final map"), reporter.task("fit final map") as report:
        final = _fit_final(fits, sets, report)

    with clock.stage("assess"):
        mean_linear = np.asarray((linear[0] + linear[1]) / 2, dtype=np.float32)
        mask = given_mask
        if mask is None:
            mask = automatic_mask(mean_linear, pixel_size_A, particle_diameter_A=settings.particle_diameter_A)
        densities = [_density(fit.gaussians, box_size, pixel_size_A) for fit in fits]
        half_maps = (densities[0], densities[1])
        unfiltered = _density(final.gaussians, box_size, pixel_size_A)
        corrected = mask_corrected_fsc(*half_maps, mask, pixel_size_A, seed=settings.seed)
        linear_masked = fourier_shell_correlation(*linear, mask)
        calibrated = calibrated_fsc(
            *half_maps,
            *linear,
            mask,
            pixel_size_A=pixel_size_A,
            particle_diameter_A=settings.particle_diameter_A,
            final_map=unfiltered,
        )
        sharpened, guinier = _sharpen(unfiltered, calibrated, pixel_size_A, settings.bfactor_A2)

    write_map(out / "map.mrc", sharpened, pixel_size_A)
    write_map(out / "map_unfiltered.mrc", unfiltered, pixel_size_A)
    write_map(out / "mask.mrc", mask, pixel_size_A)
    save_gaussians(final.gaussians, out / "gaussians.safetensors", box_size, pixel_size_A)
    save_ply(final.gaussians, out / "gaussians.ply")
    rows = fsc_rows(corrected, linear_masked, calibrated, pixel_size_A=pixel_size_A, box_size=box_size)
    run_directory.write_csv(out / "fsc.csv", FSC_COLUMNS, rows)
    summary = _summary(
        settings, particle_file, halves, fits, final, corrected, linear_masked, calibrated, guinier, clock,
        pixel_size_A=pixel_size_A, box_size=box_size,
    )  # fmt: skip
    run_directory.write_json(out / "summary.json", summary)
    return Reconstruction(
        sharpened,
        unfiltered,
        half_maps,
        linear,
        mask,
        final.gaussians,
        calibrated,
        summary,
    )


def _fit_half(
    half: HalfSet,
    linear: FloatVolume,
    number: int,
    diameter_A: float,
    settings: ReconstructSettings,
    report: Any,
) -> VolumeFit:
    """Fit one half on its own: mask, support, start, random numbers and stopping come from this half alone."""
    pixel_size_A = half.training.pixel_size_A
    mask = automatic_mask(linear, pixel_size_A, particle_diameter_A=diameter_A)
    rng = np.random.default_rng([settings.seed, number])
    volume_A3 = float(mask.sum()) * pixel_size_A**3
    automatic = max(200, round(volume_A3 / VOLUME_PER_GAUSSIAN_A3))
    n = automatic if settings.gaussians == "auto" else int(settings.gaussians)
    min_scale_A = 0.6 * pixel_size_A
    low_passed = gaussian_filter(linear, START_LOW_PASS_A / pixel_size_A) * mask
    if settings.init == "map" and low_passed.max() > 0:
        start = initialise_from_map(low_passed, pixel_size_A, n, rng, min_scale_A)
    else:
        total = max(float(np.maximum(low_passed, 0).sum()), 1e-3) * pixel_size_A**3
        radius_A = (3 * float(mask.sum()) / (4 * np.pi)) ** (1 / 3) * pixel_size_A
        start = initialise_random(radius_A, total, n, rng, min_scale_A)
    return fit_volume(start, half.training, half.held_out, support_of(mask, pixel_size_A), STAGES, report)


def _fit_final(fits: list[VolumeFit], sets: tuple[HalfSet, HalfSet], report: Any) -> VolumeFit:
    """Fit all data, from the mean of both half maps: together they hold twice the Gaussians at half the mass."""
    start = fits[0].gaussians.scaled(0.5).joined(fits[1].gaussians.scaled(0.5))
    centres, reach = start.centres_A.numpy()[:, ::-1], 6.0
    support = tuple(
        (float(a - reach), float(b + reach)) for a, b in zip(centres.min(0), centres.max(0), strict=True)
    )
    return fit_volume(start, sets[0].all + sets[1].all, None, support, FINAL_STAGES, report)


def _linear(half: HalfSet) -> FloatVolume:
    linear: FloatVolume = half.all.linear_map().numpy()
    return linear


def _density(gaussians: Gaussians, box_size: int, pixel_size_A: float) -> FloatVolume:
    with torch.no_grad():
        density: FloatVolume = gaussians.density(box_size, pixel_size_A).numpy()
    return density


def _sharpen(
    unfiltered: FloatVolume, calibrated: CalibratedFSC, pixel_size_A: float, bfactor_A2: float | None
) -> tuple[FloatVolume, GuinierFit | None]:
    """Weight per shell by the regression on the truth and undo the decay, up to the claimed resolution."""
    limit_A = calibrated.claim.estimate_A
    if limit_A is None:
        return unfiltered, None
    weights = calibrated.final_map_weight
    guinier = guinier_bfactor(unfiltered, pixel_size_A, high_A=limit_A, shell_weights=weights)
    b = guinier.bfactor_A2 if bfactor_A2 is None else bfactor_A2
    return sharpen_and_weight(
        unfiltered, pixel_size_A, b, shell_weights=weights, resolution_A=limit_A
    ), guinier


def _read_mask(path: Path, box_size: int) -> FloatVolume:
    mask = read_map(path).values
    if mask.shape != (box_size,) * 3:
        raise MapError(f"{path}: the mask has {mask.shape} voxels, the box {box_size}; resample it")
    return np.asarray(mask, dtype=np.float32)


def describe_claim(claim: ResolutionClaim) -> str:
    """One line for the reader: the resolution with its interval, or why there is none."""
    low_A, high_A = (f"{end:.2f}" if end is not None else "open" for end in claim.interval_A)
    if claim.kind == "none":
        return f"none claimed: {claim.reason}"
    number = f"{claim.resolution_A:.2f} A" if claim.resolution_A is not None else "interval only"
    note = "" if claim.reason is None else f" ({claim.reason})"
    return f"{number}, 90 % interval {low_A} to {high_A} A{note}"


def _summary(
    settings: ReconstructSettings,
    particle_file: str | Path,
    halves: np.ndarray,
    fits: list[VolumeFit],
    final: VolumeFit,
    corrected: MaskCorrectedFSC,
    linear_masked: np.ndarray,
    calibrated: CalibratedFSC,
    guinier: GuinierFit | None,
    clock: _Clock,
    *,
    pixel_size_A: float,
    box_size: int,
) -> dict[str, Any]:
    """Everything needed to quote and to repeat the run."""

    def crossing(curve: np.ndarray) -> dict[str, Any]:
        return asdict(resolution_at(curve, 0.143, pixel_size_A, box_size))

    return {
        "gem3d": version("gem3d"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "particle_file": str(particle_file),
        "settings": asdict(settings),
        "particles": {"half1": int((halves == 1).sum()), "half2": int((halves == 2).sum())},
        "box_size_px": box_size,
        "pixel_size_A": pixel_size_A,
        "gaussians": {
            "half1": len(fits[0].gaussians),
            "half2": len(fits[1].gaussians),
            "final": len(final.gaussians),
        },
        "steps": {"half1": fits[0].steps, "half2": fits[1].steps, "final": final.steps},
        "resolution": {
            "claim": describe_claim(calibrated.claim),
            "calibrated": asdict(calibrated.claim),
            "masked": crossing(corrected.masked),
            "corrected": crossing(corrected.corrected),
            "unmasked": crossing(corrected.unmasked),
            "linear_masked": crossing(linear_masked),
        },
        "guinier": None if guinier is None else asdict(guinier),
        "seconds": clock.seconds,
        "images_per_second": round(len(halves) / clock.seconds["accumulate"], 1),
        "peak_memory_GB": round(peak_memory_GB(), 3),
    }

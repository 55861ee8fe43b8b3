"""What follows the pass over the images: from normal equations to maps and an honest resolution."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d import run_directory
from gem3d.assess import ResolutionClaim
from gem3d.assess.shells import FloatVolume
from gem3d.assessment import Assessment, Reference, assess_half_maps
from gem3d.assessment_files import describe_assessment, write_assessment
from gem3d.errors import warn
from gem3d.fit.methods import Method
from gem3d.fit.normal_equations import LinearMap
from gem3d.gaussians import Gaussians, save_gaussians, save_ply
from gem3d.half_maps import Job, density_of, fit_halves
from gem3d.inputs import measuring_mask
from gem3d.maps import write_map
from gem3d.particles.image_grids import Resampled
from gem3d.reference_map import read_reference
from gem3d.refine.result import Refinement
from gem3d.report import RunFacts, write_report
from gem3d.resume import RunCheckpoints
from gem3d.settings import FitSettings
from gem3d.summary import describe_effort, describe_rounds, summarise

# Share of a shell's Fourier voxels below which the map has gaps worth a warning.
LEAST_COVERAGE = 0.9


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstruction found; the maps are `(D, D, D)` float32 [z, y, x].

    Attributes
    ----------
    gaussians: of the final map.
    assessment: the final map before and after weighting, sharpening and filtering, and how good it is.
    summary: what summary.json holds.
    """

    half_maps: tuple[FloatVolume, FloatVolume]
    linear_half_maps: tuple[FloatVolume, FloatVolume]
    gaussians: Gaussians
    assessment: Assessment
    summary: dict[str, Any]


@dataclass
class ImagesRead:
    """What reading the images has come to.

    Attributes
    ----------
    particle_file: where they come from.
    pixel_size_A: of the maps.
    linear_maps: of both halves.
    method: that fits them; `take_method` hands it over.
    counts: particles of each half that were used.
    n_images: that were read in this run.
    excluded: number of particles left out for each reason.
    rotations: `(n, 3, 3)` poses of the particles used.
    resampled: particles whose images were taken to the grid of the others, or binned.
    refined: None where the particles were taken as they are.
    further: what else summary.json is to hold.
    """

    particle_file: str | Path
    pixel_size_A: float
    linear_maps: tuple[LinearMap, LinearMap]
    method: Method | None
    counts: tuple[int, int]
    n_images: int
    excluded: dict[str, int]
    rotations: NDArray[np.floating[Any]]
    resampled: tuple[Resampled, ...] = ()
    refined: Refinement | None = None
    further: dict[str, Any] = field(default_factory=dict)

    def take_method(self) -> Method:
        """The method, which is kept here no longer: its equations take most of the memory."""
        method, self.method = self.method, None
        assert method is not None
        return method


@dataclass(frozen=True)
class Measures:
    """What the user gave to measure with; read before the work begins, so that bad files are refused then.

    Attributes
    ----------
    mask: None to draw one.
    """

    mask: FloatVolume | None
    reference: Reference | None

    @classmethod
    def given(cls, settings: FitSettings, box_size: int, pixel_size_A: float) -> Measures:
        """Those of the settings."""
        mask = None if settings.mask is None else measuring_mask(settings.mask, box_size, pixel_size_A)
        reference = None
        if settings.reference is not None:
            values = read_reference(settings.reference, box_size, pixel_size_A)
            reference = Reference(settings.reference.name, values)
        return cls(mask, reference)


def finish(
    job: Job,
    read: ImagesRead,
    reference: Reference | None,
    out: Path,
    checkpoints: RunCheckpoints,
    threads: int,
) -> Reconstruction:
    """Fit, assess and write every result into the folder `out`."""
    settings, reporter, pixel_size_A = job.settings, job.reporter, read.pixel_size_A
    for number, found in enumerate(read.linear_maps, start=1):
        write_map(out / f"linear_half{number}.mrc", found.values, pixel_size_A)
    linear = (read.linear_maps[0].values, read.linear_maps[1].values)
    coverage = np.minimum(read.linear_maps[0].coverage, read.linear_maps[1].coverage)
    box_size = len(linear[0])

    def keep_half_map(number: int, values: FloatVolume) -> None:
        write_map(out / f"half{number}.mrc", values, pixel_size_A)

    method = read.take_method()
    fits, half_maps = fit_halves(job, method, linear, keep=keep_half_map)
    with reporter.stage("fit final map", method.final_unit) as report:
        final = method.fit_final(fits, report)
    if final.rounds:
        reporter.log.write(f"fit final map: {describe_rounds(final)}")
    del method

    unfiltered = density_of(final.gaussians, box_size, pixel_size_A)
    write_map(out / "map_unfiltered.mrc", unfiltered, pixel_size_A)
    save_gaussians(final.gaussians, out / "gaussians.safetensors", box_size, pixel_size_A)
    save_ply(final.gaussians, out / "gaussians.ply")
    gains = fits[0].gain, fits[1].gain
    assessment = assess_half_maps(
        half_maps,
        linear,
        job.mask_of(linear, pixel_size_A),
        pixel_size_A,
        reporter,
        final_map=unfiltered,
        particle_diameter_A=settings.particle_diameter_A,
        last_shell=job.last_shell,
        bfactor_A2=settings.bfactor_A2,
        seed=settings.seed,
        rotations=read.rotations,
        reference=reference,
        likelihood=None if gains[0] is None or gains[1] is None else (gains[0], gains[1]),
    )
    _warn_of_gaps(coverage, assessment.claim, box_size, pixel_size_A)

    write_assessment(out, assessment)
    described = describe_assessment(assessment, limited=job.last_shell < (box_size - 1) // 2)
    summary = summarise(
        settings, read.refined, read.particle_file, read.counts, read.excluded, fits, final, coverage, described,
        resampled=read.resampled, pixel_size_A=pixel_size_A, box_size=box_size, threads=threads,
        device=job.place.device.name, resumed=checkpoints.going_on,
    )  # fmt: skip
    summary |= read.further
    run_directory.write_json(out / "summary.json", summary | describe_effort(reporter, read.n_images))
    with reporter.stage("report"):
        facts = RunFacts(
            command=summary["command"],
            summary=summary | describe_effort(reporter, read.n_images),
            gaussians=final.gaussians,
            rounds={"half 1": fits[0].rounds, "half 2": fits[1].rounds, "final map": final.rounds},
        )
        write_report(out, assessment, facts)
    summary |= describe_effort(reporter, read.n_images)
    run_directory.write_json(out / "summary.json", summary)
    checkpoints.remove()
    reporter.log.write(f"resolution (calibrated FSC 0.143): {summary['resolution']['claim']}")
    reporter.log.write(f"peak memory {summary['peak_memory_GB']:.2f} GB; done")
    return Reconstruction(half_maps, linear, final.gaussians, assessment, summary)


def _warn_of_gaps(
    coverage: NDArray[np.float64], claim: ResolutionClaim, box_size: int, pixel_size_A: float
) -> None:
    """Warn where a resolution is claimed though some directions of Fourier space were hardly seen."""
    if claim.estimate_A is None:
        return
    last = int(box_size * pixel_size_A / claim.estimate_A)
    worst = int(np.argmin(coverage[1 : last + 1])) + 1
    if coverage[worst] < LEAST_COVERAGE:
        warn(
            f"the images reach only {100 * coverage[worst]:.0f} % of Fourier space at "
            f"{box_size * pixel_size_A / worst:.1f} A: views are missing, so that the map is smeared "
            "along some directions, and its resolution is an average over them"
        )

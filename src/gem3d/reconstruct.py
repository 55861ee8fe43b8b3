"""From particles to half maps, a final map and an honest resolution: the whole job in order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d import ranks, run_directory
from gem3d.assess import ResolutionClaim
from gem3d.assess.shells import FloatVolume
from gem3d.assessment import Assessment, Reference, assess_half_maps
from gem3d.assessment_files import describe_assessment, write_assessment
from gem3d.errors import warn
from gem3d.fit.contrast_sign import refuse_inverted
from gem3d.fit.observations import Observations
from gem3d.fit.sample import look_at_sample
from gem3d.gaussians import Gaussians, save_gaussians, save_ply
from gem3d.half_maps import Job, density_of, fit_halves, maps_of_round, read_images
from gem3d.inputs import (
    background_diameter_A,
    find_images,
    last_shell_of,
    measuring_mask,
    refuse_without_micrographs,
)
from gem3d.maps import write_map
from gem3d.particles import ExcludedImages, Particles, write_excluded
from gem3d.particles.image_grids import find_resampled
from gem3d.progress import Reporter
from gem3d.reference_map import read_reference
from gem3d.refine.outputs import write_refinement
from gem3d.refine.rounds import refine_particles
from gem3d.report import RunFacts, write_report
from gem3d.resume import RunCheckpoints
from gem3d.runtime import kernels_are_compiled, return_freed_memory
from gem3d.settings import ReconstructSettings, RefineSettings
from gem3d.summary import describe_effort, describe_rounds, log_start, summarise
from gem3d.threads import available_threads, set_threads

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


def reconstruct(
    particle_file: str | Path,
    out: str | Path,
    settings: ReconstructSettings | None = None,
    refinement: RefineSettings | None = None,
) -> Reconstruction:
    """Reconstruct a particle set and write every output into the folder `out`.

    Parameters
    ----------
    particle_file: RELION STAR file or cryoSPARC `.cs` file.
    out: folder; must be empty or new unless `settings.overwrite`.
    refinement: refine the particles first; None takes them as they are.

    Raises
    ------
    Gem3dError
        if the input or the settings are at fault.
    """
    settings = settings or ReconstructSettings()
    reporter = Reporter(quiet=settings.quiet)
    with reporter.recording(), ExitStack() as begun:
        return _reconstruct(particle_file, Path(out), settings, refinement, reporter, begun)


def _reconstruct(
    particle_file: str | Path,
    out: Path,
    settings: ReconstructSettings,
    refinement: RefineSettings | None,
    reporter: Reporter,
    begun: ExitStack,
) -> Reconstruction:
    run_directory.refuse_inputs(
        out, particle_file, settings.mask, settings.reference, settings.poses, settings.ctf_table
    )
    if refinement is not None and not settings.ctf:
        if refinement.defocus == "micrograph" or refinement.sigma_defocus_A != "auto":
            warn("--no-ctf: there is no defocus to refine")
        refinement = replace(refinement, defocus="fixed", sigma_defocus_A="auto")
    run_directory.check(out, overwrite=settings.overwrite, resume=settings.resume)
    threads = settings.threads or available_threads()
    ranks.together(set_threads, threads)
    log_start(reporter, particle_file, settings, refinement, threads)

    with reporter.stage("read particles"):
        images, halves = find_images(particle_file, settings)
        return_freed_memory()
    particles, box_size, pixel_size_A = images.particles, images.box_size_px, images.pixel_size_A
    narrowest = images.narrowest_grid
    diameter_A = background_diameter_A(
        settings.particle_diameter_A, narrowest.box_size_px, narrowest.pixel_size_A
    )
    observations = Observations.of(images, diameter_A / pixel_size_A / 2, normalise=settings.normalise)
    last_shell = last_shell_of(settings.max_resolution_A, box_size, pixel_size_A)
    given_mask = None if settings.mask is None else measuring_mask(settings.mask, box_size, pixel_size_A)
    reference = None
    if settings.reference is not None:
        # Now, so that one that cannot be used is refused before the work begins.
        values = read_reference(settings.reference, box_size, pixel_size_A)
        reference = Reference(settings.reference.name, values)
    if refinement is not None:
        refuse_without_micrographs(particles, refinement)
    job = Job(settings, reporter, halves, last_shell, diameter_A, given_mask)
    checkpoints = RunCheckpoints(out, particles, settings, refinement, threads)
    run_directory.prepare(out, overwrite=settings.overwrite, resume=settings.resume)
    reporter.log.open(out / run_directory.RUN_LOG, append=settings.resume)
    checkpoints.begin()
    begun.enter_context(checkpoints.advising())
    counts = [int((halves == half).sum()) for half in (1, 2)]
    reporter.say(
        f"{len(particles)} particles ({counts[0]} and {counts[1]}), box {box_size} px, {pixel_size_A:g} A/px"
    )
    resampled = find_resampled(particles, images.grid)
    if resampled:
        reporter.say(f"images resampled to that grid: {'; '.join(map(str, resampled))}")
    if not kernels_are_compiled():
        reporter.say("first run here: kernels are compiled once, which takes up to half a minute")

    with reporter.stage("look at a sample"):
        sample = look_at_sample(observations, settings.seed)
    refuse_inverted(sample.sign, particles.source, inverted=settings.invert)
    observations.excluded.usual_power = sample.usual_power

    refined = None
    if refinement is not None:
        refined = refine_particles(
            observations,
            halves,
            refinement,
            lambda observed, name: maps_of_round(
                job, observed, name, partial(checkpoints.stage, of=name), checkpoints.images_were_read
            ),
            reporter,
            seed=settings.seed,
            checkpoint=checkpoints.stage("refinement"),
            going_on=checkpoints.going_on,
        )
        observations = refined.observations
    linear_maps, method = read_images(job, observations, checkpoints.stage)
    checkpoints.images_were_read()
    excluded = observations.excluded
    if len(excluded) > 0:
        _tell_excluded(out, excluded, particles)
    used = halves.copy()
    used[excluded.rows] = 0
    if refined is not None:
        write_refinement(out, refined, particles, halves)
    for number, found in enumerate(linear_maps, start=1):
        write_map(out / f"linear_half{number}.mrc", found.values, pixel_size_A)
    linear = (linear_maps[0].values, linear_maps[1].values)
    coverage = np.minimum(linear_maps[0].coverage, linear_maps[1].coverage)

    def keep_half_map(number: int, values: FloatVolume) -> None:
        write_map(out / f"half{number}.mrc", values, pixel_size_A)

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
        last_shell=last_shell,
        bfactor_A2=settings.bfactor_A2,
        seed=settings.seed,
        rotations=observations.rotations.numpy()[used > 0],
        reference=reference,
        likelihood=None if gains[0] is None or gains[1] is None else (gains[0], gains[1]),
    )
    _warn_of_gaps(coverage, assessment.claim, box_size, pixel_size_A)

    write_assessment(out, assessment)
    described = describe_assessment(assessment, limited=last_shell < (box_size - 1) // 2)
    summary = summarise(
        settings, refined, particle_file, used, excluded.counts(), fits, final, coverage, described,
        resampled=resampled, pixel_size_A=pixel_size_A, box_size=box_size, threads=threads,
        resumed=checkpoints.going_on,
    )  # fmt: skip
    run_directory.write_json(out / "summary.json", summary | describe_effort(reporter, len(halves)))
    with reporter.stage("report"):
        facts = RunFacts(
            command=summary["command"],
            summary=summary | describe_effort(reporter, len(halves)),
            gaussians=final.gaussians,
            rounds={"half 1": fits[0].rounds, "half 2": fits[1].rounds, "final map": final.rounds},
        )
        write_report(out, assessment, facts)
    summary |= describe_effort(reporter, len(halves))
    run_directory.write_json(out / "summary.json", summary)
    checkpoints.remove()
    reporter.log.write(f"resolution (calibrated FSC 0.143): {summary['resolution']['claim']}")
    reporter.log.write(f"peak memory {summary['peak_memory_GB']:.2f} GB; done")
    return Reconstruction(half_maps, linear, final.gaussians, assessment, summary)


def _tell_excluded(out: Path, excluded: ExcludedImages, particles: Particles) -> None:
    write_excluded(particles, excluded, out / run_directory.EXCLUDED_STAR)
    n = len(excluded)
    warn(
        f"{n} of {len(particles)} images {'is' if n == 1 else 'are'} left out, as they cannot be used: "
        f"{excluded.first_few(particles)}. {run_directory.EXCLUDED_STAR} lists them all"
    )


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

"""From particles to half maps, a final map and an honest resolution: the whole job in order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from gem3d import ranks, run_directory
from gem3d.device import describe
from gem3d.errors import warn
from gem3d.finish import ImagesRead, Measures, Reconstruction, finish
from gem3d.given_images import GivenImages
from gem3d.half_maps import Job, maps_of_round, read_images
from gem3d.inputs import refuse_without_micrographs
from gem3d.particles import ExcludedImages, Particles, write_excluded
from gem3d.progress import Reporter
from gem3d.refine.outputs import write_refinement
from gem3d.refine.rounds import refine_particles
from gem3d.resume import RunCheckpoints
from gem3d.settings import ReconstructSettings, RefineSettings
from gem3d.summary import log_start
from gem3d.threads import available_threads, set_threads

__all__ = ["Reconstruction", "reconstruct"]


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

    given = GivenImages.find(particle_file, settings, reporter)
    observations, halves, particles = given.observations, given.halves, given.particles
    measures = Measures.given(settings, observations.box_size_px, observations.pixel_size_A)
    if refinement is not None:
        refuse_without_micrographs(particles, refinement)
    place = given.settle_place(settings)
    job = Job(settings, reporter, halves, given.last_shell, given.diameter_A, measures.mask, place)
    checkpoints = RunCheckpoints(out, particles, settings, refinement, threads)
    run_directory.prepare(out, overwrite=settings.overwrite, resume=settings.resume)
    reporter.log.open(out / run_directory.RUN_LOG, append=settings.resume)
    checkpoints.begin()
    begun.enter_context(checkpoints.advising())
    reporter.say(describe(place.device))
    given.look(settings, reporter)

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
    if refined is not None:
        write_refinement(out, refined, particles, halves)
    used = excluded.without(np.arange(len(halves)))
    read = ImagesRead(
        particle_file,
        observations.pixel_size_A,
        linear_maps,
        method,
        counts=(int((halves[used] == 1).sum()), int((halves[used] == 2).sum())),
        n_images=len(halves),
        excluded=excluded.counts(),
        rotations=(particles if refined is None else refined.particles).rotations[used],
        resampled=given.resampled,
        refined=refined,
    )
    del method
    return finish(job, read, measures.reference, out, checkpoints, threads)


def _tell_excluded(out: Path, excluded: ExcludedImages, particles: Particles) -> None:
    write_excluded(particles, excluded, out / run_directory.EXCLUDED_STAR)
    n = len(excluded)
    warn(
        f"{n} of {len(particles)} images {'is' if n == 1 else 'are'} left out, as they cannot be used: "
        f"{excluded.first_few(particles)}. {run_directory.EXCLUDED_STAR} lists them all"
    )

"""What `gem3d fit` does: add up shards, then all that a reconstruction does once it has read the images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from gem3d import ranks, run_directory
from gem3d.device import describe
from gem3d.errors import SettingsError, warn
from gem3d.finish import ImagesRead, Measures, Reconstruction, finish
from gem3d.half_maps import Job, from_equations
from gem3d.particles.image_grids import ImageGrid, Resampled
from gem3d.place import settle_place
from gem3d.progress import Reporter
from gem3d.resume import RunCheckpoints
from gem3d.settings import FitSettings, PassSettings, ReconstructSettings
from gem3d.shard_checks import check_shards
from gem3d.shards import Shard, add_up, equations_of
from gem3d.summary import log_start
from gem3d.threads import available_threads, set_threads

# Files and the work itself are each shard's own affair.
_OF_ONE_SHARD = {
    "datadir",
    "passthrough",
    "poses",
    "ctf_table",
    "ind",
    *(f.name for f in fields(FitSettings)),
}


def fit_shards(
    files: Sequence[Path], out: Path, settings: FitSettings | None = None, *, incomplete: bool = False
) -> Reconstruction:
    """Add up shards and write into the folder `out` what `reconstruct` does; their order does not matter.

    Parameters
    ----------
    incomplete: go on though some of the N shards of a set are missing.

    Raises
    ------
    Gem3dError: the shards or the settings are at fault.
    """
    settings = settings or FitSettings()
    reporter = Reporter(quiet=settings.quiet)
    with reporter.recording(), ExitStack() as begun:
        return _fit_shards(files, Path(out), settings, incomplete, reporter, begun)


def _fit_shards(
    files: Sequence[Path],
    out: Path,
    settings: FitSettings,
    incomplete: bool,
    reporter: Reporter,
    begun: ExitStack,
) -> Reconstruction:
    if not files:
        raise SettingsError("no shard is given; give files that `gem3d accumulate` has written")
    run_directory.refuse_inputs(out, *files, settings.mask, settings.reference)
    run_directory.check(out, overwrite=settings.overwrite, resume=settings.resume)
    threads = settings.threads or available_threads()
    ranks.together(set_threads, threads)
    shards = [Shard.open(Path(file)) for file in files]
    check_shards(shards, incomplete=incomplete)
    # Sums of floats depend on their order.
    shards.sort(key=lambda shard: (shard.facts.particle_file, shard.facts.block or (0, 0), shard.digest))
    facts = shards[0].facts
    whole = _as_one_run(shards, settings)
    particle_file = ", ".join(dict.fromkeys(shard.facts.particle_file for shard in shards))
    log_start(reporter, particle_file, whole, None, threads)

    measures = Measures.given(settings, facts.box_size_px, facts.pixel_size_A)
    diameter_A = min(shard.facts.diameter_A for shard in shards)
    place = settle_place(settings, facts.box_size_px, facts.pixel_size_A, facts.last_shell, diameter_A)
    no_halves = np.empty(0, np.int8)  # no image will be read
    job = Job(whole, reporter, no_halves, facts.last_shell, diameter_A, measures.mask, place)
    identity = hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()[:16]
    checkpoints = RunCheckpoints(out, f"shards, SHA-256 {identity}", whole, None, threads)
    run_directory.prepare(out, overwrite=settings.overwrite, resume=settings.resume)
    reporter.log.open(out / run_directory.RUN_LOG, append=settings.resume)
    checkpoints.begin()
    begun.enter_context(checkpoints.advising())
    reporter.say(describe(place.device))
    _repeat_what_was_said(shards, reporter)

    with reporter.stage("add up shards", "shards") as report:
        sets, rotations = add_up(shards, report)
    used = [equations.n_particles for equations in equations_of(sets).values()]
    linear_maps, method = from_equations(job, sets, checkpoints.stage)
    del sets
    checkpoints.images_were_read()
    read = ImagesRead(
        particle_file,
        facts.pixel_size_A,
        linear_maps,
        method,
        counts=(used[0] + used[1], used[2] + used[3]),
        n_images=sum(shard.facts.n_images for shard in shards),
        excluded=dict(Counter(reason for shard in shards for _, reason in shard.facts.excluded)),
        rotations=rotations,
        resampled=_resampled(shards),
        further={"shards": [_describe(shard) for shard in shards]},
    )
    del method
    return finish(job, read, measures.reference, out, checkpoints, threads)


def _as_one_run(shards: Sequence[Shard], settings: FitSettings) -> ReconstructSettings:
    """The settings of a reconstruction of all particles: as the shards have them, where they agree."""
    names = {field.name for field in fields(PassSettings)} - _OF_ONE_SHARD
    first, *others = (shard.facts.settings for shard in shards)
    agreed = {name: first[name] for name in names if all(other[name] == first[name] for other in others)}
    own = {field.name: getattr(settings, field.name) for field in fields(FitSettings)}
    return ReconstructSettings(**agreed, **own)


def _repeat_what_was_said(shards: Sequence[Shard], reporter: Reporter) -> None:
    facts = shards[0].facts
    n = sum(shard.facts.n_images for shard in shards)
    plural = "" if len(shards) == 1 else "s"
    reporter.say(
        f"{len(shards)} shard{plural}, {n} particles, box {facts.box_size_px} px, {facts.pixel_size_A:g} A/px"
    )
    for shard in shards:
        reporter.log.write(f"shard {_describe(shard)}")
        for image, reason in shard.facts.excluded:
            reporter.log.write(f"left out: {image}: {reason}")
    for message in dict.fromkeys(message for shard in shards for message in shard.facts.warnings):
        warn(message)


def _resampled(shards: Sequence[Shard]) -> tuple[Resampled, ...]:
    """Those of all shards, grid by grid."""
    counts: Counter[ImageGrid] = Counter()
    groups: dict[ImageGrid, dict[str, None]] = {}
    for shard in shards:
        for box_size_px, pixel_size_A, n, names in shard.facts.resampled:
            grid = ImageGrid(box_size_px, pixel_size_A)
            counts[grid] += n
            groups.setdefault(grid, {}).update(dict.fromkeys(names))
    return tuple(Resampled(grid, n, tuple(groups[grid])) for grid, n in counts.items())


def _describe(shard: Shard) -> dict[str, Any]:
    facts = shard.facts
    return {
        "file": str(shard.path),
        "particle_file": facts.particle_file,
        "shard": None if facts.block is None else f"{facts.block[0]}/{facts.block[1]}",
        "particles": sum(facts.n_particles.values()),
        "excluded": len(facts.excluded),
        "half_sets": facts.half_sets,
        "gem3d": facts.gem3d,
        "settings": facts.settings,
    }

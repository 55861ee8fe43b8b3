"""What `gem3d accumulate` does: one pass over some of the particles, into a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d import ranks
from gem3d.atomic import check_writable
from gem3d.device import Device, describe
from gem3d.errors import RunDirectoryError, SettingsError, warn
from gem3d.fit.accumulate import accumulate
from gem3d.fit.half_sets import HalfSet
from gem3d.given_images import GivenImages
from gem3d.particles import ImageSource, file_order
from gem3d.particles.image_grids import find_resampled
from gem3d.particles.image_names import image_name
from gem3d.progress import Reporter
from gem3d.resume import digest_of
from gem3d.settings import PassSettings
from gem3d.shards import ShardFacts, equations_of, image_hashes, save_shard
from gem3d.threads import available_threads, set_threads


def accumulate_shard(
    particle_file: str | Path,
    out: Path,
    settings: PassSettings | None = None,
    *,
    block: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the normal equations of particles into the file `out`.

    Parameters
    ----------
    block: (K, N) for the K-th of N blocks of the particles that the settings choose; None for all. Noise and what is
        usual among the images are those of all in either case, so that the sum over the blocks is one run's.
    overwrite: replace the file.

    Raises
    ------
    Gem3dError: the input or the settings are at fault.
    """
    settings = settings or PassSettings()
    reporter = Reporter(quiet=settings.quiet)
    with reporter.recording():
        given_files = (particle_file, settings.poses, settings.ctf_table, settings.ind, *settings.passthrough)
        _check_out(out, given_files, overwrite=overwrite)
        ranks.together(set_threads, settings.threads or available_threads())
        given = GivenImages.find(particle_file, settings, reporter)
        images = given.observations.images
        _check_out(out, images.stack_files().values(), overwrite=overwrite)
        check_writable(out.parent)
        rows = rows_of_block(images, block)
        place = given.settle_place(settings)
        reporter.say(describe(place.device))
        given.look(settings, reporter)
        if block is not None:
            reporter.say(f"shard {block[0]} of {block[1]}: {len(rows)} particles")

        def sets_on(device: Device) -> list[HalfSet]:
            sets: list[HalfSet] = []
            for wanted in ((1, 2),) if device.both_halves else ((1,), (2,)):
                half = "" if len(wanted) == 2 else f" half {wanted[0]}"
                with reporter.stage(f"accumulate{half}", "images") as report:
                    found = accumulate(
                        given.observations,
                        given.halves,
                        seed=settings.seed,
                        wanted=wanted,
                        radius=given.last_shell,
                        device=device.of_tensors,
                        rows=None if block is None else rows,
                        progress=report,
                    )
                sets += [each.to("cpu") for each in found]
            return sets

        sets = place.compute(sets_on, with_others=True)
        excluded = np.intersect1d(given.observations.excluded.rows, rows)
        if len(excluded) > 0:
            warn(
                f"{len(excluded)} of {len(rows)} images {'is' if len(excluded) == 1 else 'are'} left out, as they "
                f"cannot be used: {given.observations.excluded.first_few(given.particles)}"
            )
        with reporter.stage("write shard"):
            facts = _facts(particle_file, given, settings, block, rows, excluded, sets, reporter.warnings)
            hashes = [image_hashes(given.particles, rows[given.halves[rows] == half]) for half in (1, 2)]
            used = np.setdiff1d(rows, excluded)
            rotations = given.particles.rotations[used].astype(np.float32)
            save_shard(out, facts, sets, hashes, rotations)
        reporter.say(f"{out}: {sum(facts.n_particles.values())} particles")


def parse_block(text: str) -> tuple[int, int]:
    """(K, N) of `K/N`.

    Raises
    ------
    SettingsError
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    k, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= k <= n:
        raise SettingsError(f"--shard {text}: give K/N, the K-th of N shards, such as 1/8 to 8/8")
    return k, n


def rows_of_block(images: ImageSource, block: tuple[int, int] | None) -> NDArray[np.int64]:
    """Rows of the K-th of N contiguous blocks, in file order; all rows of an image are in one block.

    Raises
    ------
    SettingsError: there are more blocks than images.
    """
    order = file_order(images.particles)
    if block is None:
        return order
    k, n = block
    ids = images.image_ids()[order]
    begins = np.concatenate([[0], 1 + np.flatnonzero(ids[1:] != ids[:-1])])
    edges = [len(order) * i // n for i in (k - 1, k)]
    first, last = (int(np.append(begins, len(order))[np.searchsorted(begins, edge)]) for edge in edges)
    if first == last:
        raise SettingsError(
            f"--shard {k}/{n}: no particle is left for this shard of {len(begins)} images; make fewer shards"
        )
    return order[first:last]


def _check_out(out: Path, inputs: Iterable[Path | str | None], *, overwrite: bool) -> None:
    for given in inputs:
        if given is not None and Path(given).resolve() == out.resolve():
            raise RunDirectoryError(f"{given}: is read, and would be replaced; give another --out")
    if out.is_dir():
        raise RunDirectoryError(f"{out}: is a folder; give a file with --out, such as shard1.safetensors")
    if out.exists() and not overwrite:
        raise RunDirectoryError(f"{out}: exists; choose another file, or use --overwrite to replace it")


def _facts(
    particle_file: str | Path,
    given: GivenImages,
    settings: PassSettings,
    block: tuple[int, int] | None,
    rows: NDArray[np.int64],
    excluded: NDArray[np.int64],
    sets: Sequence[HalfSet],
    warnings: Sequence[str],
) -> ShardFacts:
    observations, particles = given.observations, given.particles
    all_reasons = observations.excluded
    reasons = dict(zip(all_reasons.rows.tolist(), all_reasons.reasons(), strict=True))
    resampled = find_resampled(particles.subset(rows), observations.images.grid)
    return ShardFacts(
        gem3d=version("gem3d"),
        particle_file=str(Path(particle_file).absolute()),
        particle_set=digest_of(particles),
        block=block,
        half_sets="file" if settings.halves == "auto" and particles.half_set.all() else "drawn",
        box_size_px=observations.box_size_px,
        pixel_size_A=observations.pixel_size_A,
        last_shell=given.last_shell,
        diameter_A=given.diameter_A,
        settings=json.loads(json.dumps(asdict(settings), default=str)),
        n_images=len(rows),
        n_particles={name: equations.n_particles for name, equations in equations_of(sets).items()},
        excluded=[(image_name(particles, row), reasons[row]) for row in excluded.tolist()],
        resampled=[
            (each.grid.box_size_px, each.grid.pixel_size_A, each.n_particles, list(each.optics_groups))
            for each in resampled
        ],
        warnings=list(warnings),
    )

"""A dry run of a reconstruction: everything that can be told of a particle set in a few seconds.

A reconstruction stops at the first fault; this goes on and gathers all that it can find.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.orientations import orientation_distribution
from gem3d.errors import Gem3dError, Gem3dWarning
from gem3d.fit.contrast_sign import describe_inverted
from gem3d.fit.observations import Observations
from gem3d.fit.sample import look_at_sample
from gem3d.forecast import forecast_reconstruction
from gem3d.input_settings import InputSettings
from gem3d.inputs import (
    background_diameter_A,
    find_shared_images,
    open_stacks,
    read_input,
    settle_halves,
)
from gem3d.inspection import (
    GridSummary,
    Inspection,
    OpticsSummary,
    OrientationsSummary,
    Range,
    SampleSummary,
    StacksSummary,
)
from gem3d.particles import ImageGrid, ImageSource, Particles, file_order
from gem3d.particles.excluded import MOST_EXCLUDED_SHARE, ExcludedImages
from gem3d.particles.image_grids import common_grid, find_grids, find_resampled
from gem3d.particles.image_names import describe_particle
from gem3d.particles.missing_stacks import MissingStacks, find_missing_stacks
from gem3d.particles.plausibility import find_odd_values
from gem3d.threads import available_threads

T = TypeVar("T")

# Views that tell the distribution of them all; images read one after the other to tell how fast that goes.
MOST_VIEWS, TIMED_IMAGES = 50_000, 64
# The box that the sampling of directions is counted for where the size of the images is not known.
ASSUMED_BOX_PX = 128
UNEVEN_EFFICIENCY, MOST_UNSEEN = 0.5, 0.1
# Fewer views do not reach everything, however even they are.
FEWEST_VIEWS = 1000


@dataclass
class _Notes:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def attempt(self, work: Callable[[], T]) -> T | None:
        """The result of some work; None where it finds a fault, which is put down, as are its warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Gem3dWarning)
            try:
                return work()
            except Gem3dError as error:
                self.problems.append(str(error))
                return None
            finally:
                self.warnings += [str(w.message) for w in caught if issubclass(w.category, Gem3dWarning)]


def inspect_particles(particle_file: str | Path, settings: InputSettings, *, seed: int = 0) -> Inspection:
    """Look at a particle set as a reconstruction with these settings would take it.

    Faults of the set are in the result, none is raised.
    """
    notes = _Notes()
    found: dict[str, Any] = {}
    particles, has_ctf = _read(particle_file, settings, notes)
    if particles is not None:
        images = _images(particles, settings, notes, found)
        # With the box sizes of the images, where there are any.
        known = particles if images is None else replace(particles, optics=images.particles.optics)
        _describe_metadata(particle_file, known, images, settings, seed, notes, found)
        found["optics"] = _optics(known, has_ctf)
        if images is not None:
            _describe_images(images, settings, seed, len(particles), notes, found)
    found |= {name: tuple(dict.fromkeys(getattr(notes, name))) for name in ("problems", "warnings")}
    return Inspection(str(particle_file), **found)


def _read(particle_file: str | Path, settings: InputSettings, notes: _Notes) -> tuple[Particles | None, bool]:
    """The particles, and whether with their CTF: all that can be read, where it cannot be read as asked."""
    particles = notes.attempt(lambda: read_input(particle_file, settings))
    if particles is not None:
        return particles, settings.ctf
    for ctf in (settings.ctf, False):
        easier, aside = replace(settings, ctf=ctf, ignore_optics_extras=True), _Notes()
        particles = aside.attempt(lambda easier=easier: read_input(particle_file, easier))  # type: ignore[misc]
        if particles is not None:
            return particles, ctf
        notes.problems += aside.problems
    return None, False


def _images(
    particles: Particles, settings: InputSettings, notes: _Notes, found: dict[str, Any]
) -> ImageSource | None:
    """The images of the particles whose stacks are there."""
    missing = find_missing_stacks(particles, settings.datadir)
    found["stacks"] = StacksSummary(
        n_stacks=missing.n_stacks,
        n_missing=len(missing.names),
        first_missing=missing.names[0] if missing.names else None,
        suggested_datadir=None if missing.datadir is None else str(missing.datadir),
        n_found_there=missing.n_found_there,
    )
    if missing.names:
        notes.problems.append(_describe_missing(particles, missing))
        here = ~np.isin(np.array(particles.stacks, dtype=object), missing.names)[particles.stack_index]
        if not here.any():
            return None
        particles = particles.subset(here)
    return notes.attempt(lambda: open_stacks(particles, settings))


def _describe_missing(particles: Particles, missing: MissingStacks) -> str:
    first = int(np.argmax(particles.stack_index == particles.stacks.index(missing.names[0])))
    which = "the stack" if missing.n_stacks == 1 else f"{len(missing.names)} of {missing.n_stacks} stacks"
    of = describe_particle(particles, first)
    return f"{particles.source}: {which} cannot be found, as that of {of}: {missing.advice}"


def _describe_metadata(
    particle_file: str | Path,
    particles: Particles,
    images: ImageSource | None,
    settings: InputSettings,
    seed: int,
    notes: _Notes,
    found: dict[str, Any],
) -> None:
    n = len(particles)
    found |= {
        "n_particles": n,
        "n_micrographs": len(np.unique(particles.micrograph_index)),
        "defocus_A": _range(particles.defocus_A.mean(axis=1)) if particles.defocus_A.any() else None,
        "shift_A": _range(np.linalg.norm(particles.shifts_A, axis=1)),
    }
    grid = notes.attempt(lambda: _common_grid(particles, settings))
    if grid is not None:
        resampled = sum(each.n_particles for each in find_resampled(particles, grid))
        found["grid"] = GridSummary(grid.box_size_px, grid.pixel_size_A, resampled)
        found["forecast"] = forecast_reconstruction(n, grid.box_size_px, available_threads())
    for finding in find_odd_values(particles):
        (notes.problems if finding.refused else notes.warnings).append(finding.message)

    halves = notes.attempt(lambda: settle_halves(particle_file, particles, settings, seed))
    if halves is not None:
        drawn = settings.halves == "random" or not particles.half_set.any()
        found |= {"half1": int((halves == 1).sum()), "half2": int((halves == 2).sum()), "halves_drawn": drawn}
        everything_there = images is not None and len(images) == n
        ids = images.image_ids() if images is not None and everything_there else _ids_by_name(particles)
        finding_ = find_shared_images(particle_file, particles, ids, halves)
        if finding_ is not None:
            (notes.problems if finding_.refused else notes.warnings).append(finding_.message)

    if np.isfinite(particles.rotations).all():
        box = ASSUMED_BOX_PX if grid is None else grid.box_size_px
        _describe_views(particles, box, notes, found)


def _common_grid(particles: Particles, settings: InputSettings) -> ImageGrid | None:
    """What images are taken to; None where a box size is not known."""
    grids, grid_index = find_grids(particles)
    if min(grid.box_size_px for grid in grids) == 0:
        return None
    return common_grid(grids, grid_index, settings.bin)


def _optics(particles: Particles, has_ctf: bool) -> tuple[OpticsSummary, ...]:
    count = np.bincount(particles.optics_index, minlength=len(particles.optics)).tolist()
    return tuple(
        OpticsSummary(
            group.name,
            n,
            group.pixel_size_A,
            group.box_size_px,
            *(
                (group.voltage_kV, group.spherical_aberration_mm, group.amplitude_contrast)
                if has_ctf
                else (None, None, None)
            ),
        )
        for group, n in zip(particles.optics, count, strict=True)
    )


def _ids_by_name(particles: Particles) -> NDArray[np.int64]:
    """Alike for particles that refer to one image by the same name; its file may have others."""
    return (particles.stack_index.astype(np.int64) << 32) + particles.image_index


def _describe_views(particles: Particles, box: int, notes: _Notes, found: dict[str, Any]) -> None:
    views = particles.rotations[:: -(-len(particles) // MOST_VIEWS)]
    seen = orientation_distribution(views, box)
    found["orientations"] = OrientationsSummary(
        len(views), seen.efficiency, seen.scf, seen.unseen, seen.empty_bins, seen.expected_empty_bins
    )
    unseen = seen.unseen > MOST_UNSEEN and len(views) >= FEWEST_VIEWS
    if seen.efficiency < UNEVEN_EFFICIENCY or unseen:
        notes.warnings.append(
            f"{particles.source}: the particles are seen from few directions (efficiency {seen.efficiency:.2f}, "
            f"{100 * seen.unseen:.0f} % of Fourier space not reached): the map will be smeared along some directions"
        )


def _describe_images(
    images: ImageSource,
    settings: InputSettings,
    seed: int,
    n_particles: int,
    notes: _Notes,
    found: dict[str, Any],
) -> None:
    box, narrowest = images.box_size_px, images.narrowest_grid
    diameter_A = background_diameter_A(None, narrowest.box_size_px, narrowest.pixel_size_A)
    observations = Observations.of(images, diameter_A / images.pixel_size_A / 2, normalise=settings.normalise)
    seconds_each = notes.attempt(lambda: _time_reading(images))
    sample = notes.attempt(lambda: look_at_sample(observations, seed))
    if seconds_each is None or sample is None:
        return
    found["forecast"] = forecast_reconstruction(n_particles, box, available_threads(), seconds_each)

    source = images.particles.source
    # Of the sample alone, so that it never refuses by itself.
    judged = ExcludedImages(len(images), most_share=1.0)
    judged.usual_power = sample.usual_power
    good = judged.judge(sample.rows, sample.statistics, images.particles)
    n, n_bad = len(good), int((~good).sum())
    if n_bad:
        share = f"{n_bad} of {n} images looked at cannot be used ({judged.first_few(images.particles)})"
        if n_bad > MOST_EXCLUDED_SHARE * n:
            limit = f"more than {100 * MOST_EXCLUDED_SHARE:g} %, which a reconstruction refuses"
            notes.problems.append(f"{source}: {share}: {limit}; {judged.advice()}")
        else:
            notes.warnings.append(f"{source}: {share}; a reconstruction will leave them out")
    sign = sample.sign
    if sign.sign < 0:
        notes.problems.append(describe_inverted(sign, source, inverted=settings.invert))
    mean, sd = (
        float(np.median(getattr(sample.statistics, name)[good])) if good.any() else None
        for name in ("background_mean", "background_sd")
    )
    found["sample"] = SampleSummary(
        n_images=n,
        excluded=dict(Counter(judged.reasons())),
        background_mean=mean,
        background_sd=sd,
        contrast_sign=sign.sign,
        contrast_correlation=sign.correlation,
        contrast_standard_error=sign.standard_error if np.isfinite(sign.standard_error) else 0.0,
    )


def _time_reading(images: ImageSource) -> float:
    """Seconds that reading one image takes when they are read in the order of their files."""
    rows = file_order(images.particles)[:TIMED_IMAGES]
    begun_s = time.perf_counter()
    for _ in images.batches(rows, TIMED_IMAGES):
        pass
    return (time.perf_counter() - begun_s) / len(rows)


def _range(values: NDArray[np.float64]) -> Range | None:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    return Range(float(values.min()), float(np.median(values)), float(values.max()))

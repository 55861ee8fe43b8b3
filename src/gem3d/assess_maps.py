"""Half maps from files, judged: what `gem3d assess` does."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gem3d import run_directory
from gem3d.assess import automatic_mask
from gem3d.assess.shells import (
    FloatVolume,
    fourier_transform,
    last_shell_with_power,
    ratio,
    shell_products,
    shell_sizes,
)
from gem3d.assessment import Assessment, Reference, assess_half_maps
from gem3d.assessment_files import describe_assessment, write_assessment
from gem3d.compare import common_pixel_size_A
from gem3d.errors import Gem3dWarning, MapError, warn
from gem3d.inputs import background_diameter_A, measuring_mask
from gem3d.maps import Map, read_cube, write_map
from gem3d.particles import Particles, read_particles
from gem3d.progress import Reporter
from gem3d.reference_map import read_reference
from gem3d.report import RunFacts, write_report
from gem3d.settings import check_bfactor
from gem3d.summary import describe_effort, describe_program

# Two maps that correlate by more than this, over all voxels, are one map, scaled or not: the half maps of a
# refinement differ by their noise.
SAME_MAP_CORRELATION = 1 - 1e-6
SAMPLE_STEP = 3
# Half maps follow the noise of their own linear partners, or none; by so many standard deviations less means that the
# partners are exchanged.
EXCHANGED_SIGMAS = 5.0
PIXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class MapFiles:
    """The maps that an assessment starts from.

    half1, half2: independent half maps, unmasked, unfiltered.
    linear: half maps of the same halves without a prior; None where the half maps themselves are such.
    final: map of all data; None for the mean of the half maps.
    mask: in 0 to 1; None to draw one.
    reference: a map or an atomic model.
    particles: STAR file, for its orientations.
    """

    half1: Path
    half2: Path
    linear: tuple[Path, Path] | None = None
    final: Path | None = None
    mask: Path | None = None
    reference: Path | None = None
    particles: Path | None = None

    @property
    def all(self) -> tuple[Path | None, ...]:
        """Every file."""
        return (
            self.half1, self.half2, *(self.linear or ()), self.final, self.mask, self.reference, self.particles,
        )  # fmt: skip


def assess_maps(
    files: MapFiles,
    out: Path,
    *,
    pixel_size_A: float | None = None,
    particle_diameter_A: float | None = None,
    bfactor_A2: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> tuple[Assessment, dict[str, Any]]:
    """Assess half maps and write what was found, and a report, into the folder `out`.

    Parameters
    ----------
    pixel_size_A: instead of the headers'.
    particle_diameter_A: of a sphere around the centre that holds the particle; None for 0.9 of the box.
    bfactor_A2: to sharpen by; None for that of the Guinier plot.
    seed: of random phases.
    overwrite: replace an earlier run's results in the folder.

    Returns
    -------
    The assessment, and what summary.json holds.

    Raises
    ------
    Gem3dError: the files or the folder are at fault.
    """
    reporter = Reporter(quiet=quiet)
    with reporter.recording():
        check_bfactor(bfactor_A2)
        run_directory.refuse_inputs(out, *files.all)
        run_directory.check(out, overwrite=overwrite)
        with reporter.stage("read maps"):
            given = _read(files, pixel_size_A, particle_diameter_A)
        run_directory.prepare(out, overwrite=overwrite)
        reporter.log.open(out / run_directory.RUN_LOG)
        assessment = assess_half_maps(
            given.half_maps,
            given.linear,
            given.mask,
            given.pixel_size_A,
            reporter,
            final_map=given.final,
            particle_diameter_A=particle_diameter_A,
            last_shell=given.last_shell,
            bfactor_A2=bfactor_A2,
            seed=seed,
            rotations=None if given.particles is None else given.particles.rotations,
            reference=given.reference,
        )
        # Those of a reconstruction that are not made here stay: nothing else could make them again.
        made_here = run_directory.ASSESSMENT_RESULTS + run_directory.REFERENCE_RESULTS
        run_directory.remove_results(out, made_here)
        write_map(out / "map_unfiltered.mrc", assessment.map_unfiltered, given.pixel_size_A)
        write_assessment(out, assessment)
        summary = {
            **describe_program(),
            "maps": {name: _words(value) for name, value in vars(files).items()},
            "settings": {
                "pixel_size_A": pixel_size_A,
                "particle_diameter_A": particle_diameter_A,
                "bfactor_A2": bfactor_A2,
                "seed": seed,
            },
            "box_size_px": len(given.mask),
            "pixel_size_A": given.pixel_size_A,
            **describe_assessment(assessment),
        }
        run_directory.write_json(out / "summary.json", summary | describe_effort(reporter))
        with reporter.stage("report"):
            title = f"{files.half1.name} and {files.half2.name}"
            facts = RunFacts(title, summary["command"], summary | describe_effort(reporter))
            write_report(out, assessment, facts)
        summary |= describe_effort(reporter)
        run_directory.write_json(out / "summary.json", summary)
        resolution = summary["resolution"]
        reporter.log.write(f"resolution ({resolution['claimed_from']} 0.143): {resolution['claim']}")
    return assessment, summary


@dataclass(frozen=True)
class _Given:
    """What the files hold."""

    half_maps: tuple[FloatVolume, FloatVolume]
    linear: tuple[FloatVolume, FloatVolume] | None
    final: FloatVolume | None
    mask: FloatVolume
    pixel_size_A: float
    last_shell: int | None
    reference: Reference | None
    particles: Particles | None


def _read(files: MapFiles, pixel_size_A: float | None, particle_diameter_A: float | None) -> _Given:
    """Read and check all files.

    Raises
    ------
    Gem3dError
    """
    names = (files.half1, files.half2, *(files.linear or ()), *([files.final] if files.final else []))
    maps = {path: read_cube(path) for path in names}
    box_size = _common_box(maps)
    pixel_A = common_pixel_size_A(pixel_size_A, {path: found.voxel_size_A for path, found in maps.items()})
    if particle_diameter_A is not None:
        background_diameter_A(particle_diameter_A, box_size, pixel_A)
    half_maps = maps[files.half1].values, maps[files.half2].values
    _refuse_one_map(files.half1, files.half2, half_maps)
    linear = None
    if files.linear is not None:
        linear = maps[files.linear[0]].values, maps[files.linear[1]].values
        _refuse_one_map(*files.linear, linear)
        _refuse_wrong_partners(files.linear, half_maps, linear)
    one, two = linear or half_maps
    mean = ((one + two) / 2).astype(np.float32)
    mask = (
        automatic_mask(mean, pixel_A, particle_diameter_A=particle_diameter_A)
        if files.mask is None
        else measuring_mask(files.mask, box_size, pixel_A)
    )
    reference = None
    if files.reference is not None:
        values = read_reference(files.reference, box_size, pixel_A)
        reference = Reference(files.reference.name, values)
    particles = None if files.particles is None else _read_particles(files.particles, box_size, pixel_A)
    last = last_shell_with_power(mean)
    return _Given(
        half_maps,
        linear,
        None if files.final is None else maps[files.final].values,
        mask,
        pixel_A,
        # Only an even box has a shell at Nyquist.
        None if 2 * last == box_size else last,
        reference,
        particles,
    )


def _read_particles(path: Path, box_size: int, pixel_size_A: float) -> Particles:
    """Only the orientations are used, and the half sets checked; the CTF is not read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Gem3dWarning)  # of aberrations, which do not matter here
        particles = read_particles(path, ctf=False, ignore_extras=True)
    map_A = box_size * pixel_size_A
    widths_A = [group.box_size_px * group.pixel_size_A for group in particles.optics if group.box_size_px]
    # Of several optics groups one has the width of the maps, to which the images of the others are taken.
    if widths_A and all(abs(width_A / map_A - 1) > PIXEL_TOLERANCE for width_A in widths_A):
        warn(
            f"{path}: images {widths_A[0]:.0f} A wide, but the maps are {map_A:.0f} A wide: are these the particles "
            "of the maps?"
        )
    image = np.stack([particles.stack_index, particles.image_index], axis=1)
    one, two = (np.unique(image[particles.half_set == half], axis=0) for half in (1, 2))
    shared = len(one) + len(two) - len(np.unique(np.concatenate([one, two]), axis=0))
    if shared:
        warn(
            f"{path}: {shared} image{' is' if shared == 1 else 's are'} in both half sets: the half maps share "
            "noise, and every resolution is too fine"
        )
    return particles


def _words(value: object) -> object:
    """Paths as text."""
    if isinstance(value, tuple):
        return [str(path) for path in value]
    return None if value is None else str(value)


def _common_box(maps: dict[Path, Map]) -> int:
    (first, found), *others = maps.items()
    box_size = len(found.values)
    for path, other in others:
        if len(other.values) != box_size:
            raise MapError(
                f"{path}: a box of {len(other.values)} voxels, but {first} has {box_size}; resample one of them"
            )
    return box_size


def _refuse_one_map(path1: Path, path2: Path, pair: tuple[FloatVolume, FloatVolume]) -> None:
    """Refuse a map that would be compared with itself, or with itself scaled."""
    if path1.resolve() == path2.resolve():
        raise MapError(f"{path1}: given as both half maps; give the two of one refinement")
    for path, values in zip((path1, path2), pair, strict=True):
        if float(values.max()) == float(values.min()):
            raise MapError(f"{path}: the map is the same everywhere; give another")
    if _is_one_map(*pair):
        raise MapError(f"{path1} and {path2} hold the same map; give the two half maps of one refinement")


def _is_one_map(a: FloatVolume, b: FloatVolume) -> bool:
    """Judged by a sample of the voxels: of one map, any will do."""
    a64, b64 = (
        sample - sample.mean()
        for sample in (
            values[::SAMPLE_STEP, ::SAMPLE_STEP, ::SAMPLE_STEP].astype(np.float64).ravel()
            for values in (a, b)
        )
    )
    return float(a64 @ b64) > SAME_MAP_CORRELATION * float(np.sqrt((a64 @ a64) * (b64 @ b64)))


def _refuse_wrong_partners(
    paths: tuple[Path, Path],
    half_maps: tuple[FloatVolume, FloatVolume],
    linear: tuple[FloatVolume, FloatVolume],
) -> None:
    """Refuse linear half maps that are the half maps themselves, or are given in the wrong order."""
    for path, partner in zip(paths, linear, strict=True):
        if any(_is_one_map(partner, half) for half in half_maps):
            raise MapError(
                f"{path}: given as a half map and as a linear one. If the half maps have no prior, leave --linear "
                "out; if they have, give the maps made without it"
            )
    box_size = len(linear[0])
    g1, g2, b1, b2 = (fourier_transform(volume) for volume in (*half_maps, *linear))
    _, power1, power2 = shell_products(b1, b2)
    difference = b1 - b2
    follows = np.zeros(box_size // 2 + 1)
    for half, sign in ((g1, 1), (g2, -1)):
        product, power, _ = shell_products(half, difference)
        follows += sign * ratio(product, np.sqrt(power * np.sqrt(power1 * power2)))
    # Each of the four correlations has the variance 1 / N of a shell of N Fourier pixels.
    n = shell_sizes(box_size)
    n[0] = 0
    if float(n @ follows) < -EXCHANGED_SIGMAS * np.sqrt(4 * n.sum()):
        raise MapError(
            f"{paths[0]}: the linear half maps follow the noise of the other half: are they given in the wrong "
            "order? Give that of half map 1 first"
        )

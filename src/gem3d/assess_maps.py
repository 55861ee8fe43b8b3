"""Half maps from files, judged: what `gem3d assess` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gem3d import run_directory
from gem3d.assess import automatic_mask
from gem3d.assess.shells import FloatVolume, last_shell_with_power
from gem3d.assessment import Assessment, Reference, assess_half_maps
from gem3d.assessment_files import describe_assessment, write_assessment
from gem3d.compare import common_pixel_size_A
from gem3d.errors import MapError, warn
from gem3d.inputs import measuring_mask
from gem3d.maps import Map, read_cube
from gem3d.particles import read_particles
from gem3d.progress import Reporter
from gem3d.reference_map import read_reference
from gem3d.report import RunFacts, write_report
from gem3d.summary import describe_effort, describe_program

# Half maps correlate less than this in no shell that holds signal; equal ones share their noise.
SAME_MAP_FSC = 0.9999


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
        run_directory.refuse_inputs(out, *files.all)
        run_directory.check(out, overwrite=overwrite)
        with reporter.stage("read maps"):
            names = (
                files.half1,
                files.half2,
                *(files.linear or ()),
                *(() if files.final is None else (files.final,)),
            )
            maps = {path: read_cube(path) for path in names}
            box_size = _common_box(maps)
            pixel_A = common_pixel_size_A(
                pixel_size_A, {path: found.voxel_size_A for path, found in maps.items()}
            )
            half_maps = maps[files.half1].values, maps[files.half2].values
            _refuse_equal(files.half1, files.half2, half_maps)
            linear = None
            if files.linear is not None:
                linear = maps[files.linear[0]].values, maps[files.linear[1]].values
                _refuse_equal(*files.linear, linear)
            final = None if files.final is None else maps[files.final].values
            del maps
            particles = (
                None if files.particles is None else read_particles(files.particles, ignore_extras=True)
            )
            reference = None
            if files.reference is not None:
                values = read_reference(files.reference, box_size, pixel_A)
                reference = Reference(files.reference.name, values)
            mean = np.asarray(sum(linear or half_maps) / 2, dtype=np.float32)
            mask = (
                automatic_mask(mean, pixel_A, particle_diameter_A=particle_diameter_A)
                if files.mask is None
                else measuring_mask(files.mask, box_size, pixel_A)
            )
        run_directory.prepare(out, overwrite=overwrite)
        reporter.log.open(out / run_directory.RUN_LOG)
        last = last_shell_with_power(mean)
        assessment = assess_half_maps(
            half_maps,
            linear,
            mask,
            pixel_A,
            reporter,
            final_map=final,
            particle_diameter_A=particle_diameter_A,
            last_shell=None if last == box_size // 2 else last,
            bfactor_A2=bfactor_A2,
            seed=seed,
            rotations=None if particles is None else particles.rotations,
            reference=reference,
        )
        run_directory.remove_results(out)
        write_assessment(out, assessment)
        summary = {
            **describe_program(),
            "maps": {
                "half1": str(files.half1),
                "half2": str(files.half2),
                "linear": None if files.linear is None else [str(path) for path in files.linear],
                "final": None if files.final is None else str(files.final),
            },
            "box_size_px": box_size,
            "pixel_size_A": pixel_A,
            **describe_assessment(assessment),
        }
        with reporter.stage("report"):
            title = f"{files.half1.name} and {files.half2.name}"
            facts = RunFacts(title, summary["command"], summary | describe_effort(reporter))
            write_report(out, assessment, facts)
        summary |= describe_effort(reporter)
        run_directory.write_json(out / "summary.json", summary)
        reporter.log.write(
            f"resolution ({summary['resolution']['claimed_from']} 0.143): {summary['resolution']['claim']}"
        )
    return assessment, summary


def _common_box(maps: dict[Path, Map]) -> int:
    (first, found), *others = maps.items()
    box_size = len(found.values)
    for path, other in others:
        if len(other.values) != box_size:
            raise MapError(
                f"{path}: a box of {len(other.values)} voxels, but {first} has {box_size}; resample one of them"
            )
    return box_size


def _refuse_equal(path1: Path, path2: Path, pair: tuple[FloatVolume, FloatVolume]) -> None:
    """Refuse a map that is compared with itself, or with itself scaled."""
    if path1.resolve() == path2.resolve():
        raise MapError(f"{path1}: given as both half maps; give the two of one refinement")
    for path, values in zip((path1, path2), pair, strict=True):
        if float(values.max()) == float(values.min()):
            raise MapError(f"{path}: the map is the same everywhere; give another")
    a, b = (values - values.mean() for values in pair)
    correlation = float(np.vdot(a, b) / np.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b))))
    if correlation > SAME_MAP_FSC:
        warn(
            f"{path1} and {path2} are all but the same map (correlation {correlation:.5f}): the half maps of a "
            "refinement differ by their noise"
        )

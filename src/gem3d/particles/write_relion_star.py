"""Particles to RELION's STAR files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.particles import Particles
from gem3d.particles.poses import matrix_to_euler
from gem3d.particles.relion_star import CONTRAST_COLUMN
from gem3d.particles.star_table import StarTable, find_tables, format_numbers, read_star, write_star_table

_Columns = dict[str, Iterable[str]]


def write_relion_star(
    particles: Particles,
    path: Path | str,
    *,
    template: Path | str | None = None,
    own_columns: Mapping[str, NDArray[np.float64] | list[str]] | None = None,
) -> None:
    """Write particles in RELION 3.1's form, to full precision.

    Parameters
    ----------
    path: the file to write.
    template: a particle STAR file (any version) of as many particles in the same order. Its blocks and
        columns are kept word for word, but for the angles, the origins, the defocus (unless the particles
        have none, read with `ctf=False`), `rlnRandomSubset` (where the particles have half sets) and
        `gem3dContrast` (where they have any or had some).
    own_columns: further columns of the particles, `(n,)` each, by name: numbers, or words without blanks.

    Raises
    ------
    ParticleFileError: the template is of another length, or only some particles have a half set.
    """
    path = Path(path)
    has_half_set = particles.half_set != 0
    if has_half_set.any() and not has_half_set.all():
        raise ParticleFileError(
            f"{path}: {int((~has_half_set).sum())} of {len(particles)} particles have no half set; "
            "assign all of them before writing, or none."
        )
    own: _Columns = {
        name: values if isinstance(values, list) else format_numbers(values)
        for name, values in (own_columns or {}).items()
    }
    if template is None:
        blocks = {"optics": _optics_columns(particles), "particles": _particle_columns(particles) | own}
    else:
        blocks = _merged_blocks(particles, Path(template), own)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for name, columns in blocks.items():
            write_star_table(file, name, columns, version=30001 if "optics" in blocks else None)


def _optics_columns(particles: Particles) -> _Columns:
    groups = particles.optics
    columns: _Columns = {
        "rlnOpticsGroup": [str(number) for number in range(1, len(groups) + 1)],
        "rlnOpticsGroupName": [gemmi.cif.quote(group.name) for group in groups],
        "rlnVoltage": [repr(group.voltage_kV) for group in groups],
        "rlnSphericalAberration": [repr(group.spherical_aberration_mm) for group in groups],
        "rlnAmplitudeContrast": [repr(group.amplitude_contrast) for group in groups],
        "rlnImagePixelSize": [repr(group.pixel_size_A) for group in groups],
    }
    if all(group.box_size_px for group in groups):
        columns["rlnImageSize"] = [str(group.box_size_px) for group in groups]
    columns["rlnImageDimensionality"] = ["2"] * len(groups)
    return columns


def _particle_columns(particles: Particles) -> _Columns:
    columns: _Columns = {
        "rlnImageName": _image_names(particles),
        "rlnOpticsGroup": format_numbers(particles.optics_index + np.int32(1)),
        **_pose_columns(particles),
        **_origin_columns(particles, in_pixels=False),
        **_defocus_columns(particles),
        "rlnPhaseShift": format_numbers(particles.phase_shift_deg),
        "rlnCtfBfactor": format_numbers(particles.ctf_bfactor_A2),
        "rlnCtfScalefactor": format_numbers(particles.ctf_scale),
    }
    columns |= _contrast_column(particles)
    if particles.half_set.any():
        columns["rlnRandomSubset"] = format_numbers(particles.half_set)
    return columns


def _image_names(particles: Particles) -> Iterable[str]:
    quoted = [gemmi.cif.quote(f"1@{stack}") != f"1@{stack}" for stack in particles.stacks]
    for stack, image in zip(particles.stack_index.tolist(), particles.image_index.tolist(), strict=True):
        name = f"{image + 1:06d}@{particles.stacks[stack]}"
        yield gemmi.cif.quote(name) if quoted[stack] else name


def _pose_columns(particles: Particles) -> _Columns:
    angles = matrix_to_euler(particles.rotations)
    return {f"rlnAngle{name}": format_numbers(angles[:, i]) for i, name in enumerate(("Rot", "Tilt", "Psi"))}


def _origin_columns(particles: Particles, *, in_pixels: bool) -> _Columns:
    origin = -particles.shifts_A
    if in_pixels:
        pixel_size_A = np.array([group.pixel_size_A for group in particles.optics])
        origin = origin / pixel_size_A[particles.optics_index, None]
    unit = "" if in_pixels else "Angst"
    return {f"rlnOrigin{axis}{unit}": format_numbers(origin[:, i]) for i, axis in enumerate("XY")}


def _defocus_columns(particles: Particles) -> _Columns:
    return {
        "rlnDefocusU": format_numbers(particles.defocus_A[:, 0]),
        "rlnDefocusV": format_numbers(particles.defocus_A[:, 1]),
        "rlnDefocusAngle": format_numbers(particles.astigmatism_deg),
    }


def _contrast_column(particles: Particles, wanted: bool = False) -> _Columns:
    changed = wanted or bool((particles.contrast != 1).any())
    return {CONTRAST_COLUMN: format_numbers(particles.contrast)} if changed else {}


def _merged_blocks(particles: Particles, template: Path, own: _Columns) -> dict[str, _Columns]:
    tables = read_star(template)
    table, optics = find_tables(tables, template)
    if len(table) != len(particles):
        raise ParticleFileError(
            f"{template}: holds {len(table)} particles, the set to be written {len(particles)}; "
            "give the file that the particles were read from."
        )
    replaced = own | _pose_columns(particles) | _contrast_column(particles, CONTRAST_COLUMN in table)
    if particles.defocus_A.any():
        replaced |= _defocus_columns(particles)
    if particles.half_set.any():
        replaced["rlnRandomSubset"] = format_numbers(particles.half_set)
    # The origin in every unit that the file has, so that no column contradicts another.
    if "rlnOriginX" in table or optics is None:
        replaced |= _origin_columns(particles, in_pixels=True)
    if "rlnOriginXAngst" in table or (optics is not None and "rlnOriginX" not in table):
        replaced |= _origin_columns(particles, in_pixels=False)
    return {
        block.name: _verbatim(block) | (replaced if block is table else {})
        for block in tables
        if block.columns
    }


def _verbatim(table: StarTable) -> _Columns:
    return {column: table.raw(column) for column in table.columns}

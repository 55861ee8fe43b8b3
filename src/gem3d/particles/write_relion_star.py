"""Particles to RELION's STAR files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.optics import NO_MAGNIFICATION
from gem3d.particles.image_names import split_image_names
from gem3d.particles.particles import Particles
from gem3d.particles.poses import matrix_to_euler
from gem3d.particles.relion_aberrations import to_even_zernike, to_odd_zernike
from gem3d.particles.relion_optics import MAGNIFICATION, JoinedOptics
from gem3d.particles.relion_star import CONTRAST_COLUMN, rotations_of, shifts_of
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
    template: `Particles.template` of all or more of these particles, a STAR file of any version. Its blocks are kept
        word for word, but for rows that are not of the particles, and columns in which these differ: angles, origins,
        defocus (unless the particles have none, read with `ctf=False`), pixel size, paths of stacks,
        `rlnRandomSubset` (where the particles have half sets) and `gem3dContrast` (where they have any or had some).
    own_columns: further columns of the particles, `(n,)` each, by name: numbers, or words without blanks.

    Raises
    ------
    ParticleFileError: the template has too few rows, or only some particles have a half set.
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
    if any(any(group.phase_coefficients) for group in groups):
        columns["rlnOddZernike"] = [to_odd_zernike(group.phase_coefficients) for group in groups]
    if any(any(group.gamma_coefficients) for group in groups):
        columns["rlnEvenZernike"] = [to_even_zernike(group.gamma_coefficients) for group in groups]
    if any(group.magnification != NO_MAGNIFICATION for group in groups):
        matrices = np.array([group.magnification for group in groups])
        columns |= {
            name: format_numbers(column) for name, column in zip(MAGNIFICATION, matrices.T, strict=True)
        }
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
    # Without need no quotes, which gemmi puts round every underscore and some readers do not know.
    quoted = [re.search(r"[\s'\"#]", stack) is not None for stack in particles.stacks]
    for stack, image in zip(particles.stack_index.tolist(), particles.image_index.tolist(), strict=True):
        name = f"{image + 1:06d}@{particles.stacks[stack]}"
        yield gemmi.cif.quote(name) if quoted[stack] else name


def _pose_columns(particles: Particles) -> _Columns:
    angles = matrix_to_euler(particles.rotations)
    return {f"rlnAngle{name}": format_numbers(angles[:, i]) for i, name in enumerate(("Rot", "Tilt", "Psi"))}


def _origin_columns(particles: Particles, *, in_pixels: bool) -> _Columns:
    origin = -particles.shifts_A
    if in_pixels:
        origin = origin / _pixel_sizes_A(particles)[:, None]
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
    rows = particles.source_row
    if len(particles) and rows.max() >= len(table):
        raise ParticleFileError(
            f"{template}: holds {len(table)} particles, the set to be written is of {rows.max() + 1} or more; "
            "give the file that the particles were read from."
        )
    joined = JoinedOptics(table, optics)
    kept: dict[str, NDArray[np.integer]] = {}
    if not np.array_equal(rows, np.arange(len(table))):
        kept[table.name] = rows
    if optics is not None:
        kept[optics.name] = np.unique(joined.optics_row[rows])
    changes = _changed_pixel_size(particles, joined)
    changes[table.name] = (
        own
        | _changed_names(particles, table)
        | _changed_poses(particles, table)
        | _changed_origins(particles, joined)
        | _changed_defocus(particles, joined)
        | changes[table.name]
        | _contrast_column(particles, CONTRAST_COLUMN in table)
    )
    if particles.half_set.any():
        changes[table.name]["rlnRandomSubset"] = format_numbers(particles.half_set)
    return {
        block.name: _verbatim(block, kept.get(block.name)) | changes.get(block.name, {})
        for block in tables
        if block.columns
    }


def _verbatim(table: StarTable, rows: NDArray[np.integer] | None) -> _Columns:
    if rows is None:
        return {column: table.raw(column) for column in table.columns}
    return {column: table.raw(column).at(rows) for column in table.columns}


def _changed_names(particles: Particles, table: StarTable) -> _Columns:
    stack_index, image_index, stacks = split_image_names(table.raw("rlnImageName"), table.path)
    rows = particles.source_row
    same = (
        stacks == particles.stacks
        and np.array_equal(stack_index[rows], particles.stack_index)
        and np.array_equal(image_index[rows], particles.image_index)
    )
    return {} if same else {"rlnImageName": _image_names(particles)}


def _changed_poses(particles: Particles, table: StarTable) -> _Columns:
    given = rotations_of(table)[particles.source_row]
    return {} if _alike(particles.rotations, given) else _pose_columns(particles)


def _changed_origins(particles: Particles, joined: JoinedOptics) -> _Columns:
    """The origin in every unit that the file has, so that no column contradicts another."""
    table, one_block, rows = joined.particles, joined.optics is None, particles.source_row
    given_A, given_size_A = shifts_of(joined)[rows], joined.pixel_size_A()[rows, None]
    size_A = _pixel_sizes_A(particles)[:, None]
    changed: _Columns = {}
    in_pixels = "rlnOriginX" in table or one_block
    if in_pixels and not _alike(particles.shifts_A / size_A, given_A / given_size_A):
        changed |= _origin_columns(particles, in_pixels=True)
    in_A = "rlnOriginXAngst" in table or ("rlnOriginX" not in table and not one_block)
    if in_A and not _alike(particles.shifts_A, given_A):
        changed |= _origin_columns(particles, in_pixels=False)
    return changed


def _changed_defocus(particles: Particles, joined: JoinedOptics) -> _Columns:
    if not particles.defocus_A.any():
        return {}
    ours = np.column_stack([particles.defocus_A, particles.astigmatism_deg])
    given = [joined.values(column) for column in _defocus_columns(particles)]
    for now, before in zip(ours.T, given, strict=True):
        if before is None or not _alike(now, before[particles.source_row]):
            return _defocus_columns(particles)
    return {}


def _changed_pixel_size(particles: Particles, joined: JoinedOptics) -> dict[str, _Columns]:
    """By block; before RELION 3.1 the size is that of the detector's pixels over the magnification."""
    table, rows = joined.particles, particles.source_row
    changes: dict[str, _Columns] = {table.name: {}}
    given_A, now_A = joined.pixel_size_A(), _pixel_sizes_A(particles)
    if _alike(now_A, given_A[rows]):
        return changes
    of_particle = given_A.copy()
    of_particle[rows] = now_A
    detector_um = joined.values("rlnDetectorPixelSize")
    for block, first in _blocks_with_first_rows(joined, rows):
        sizes_A = of_particle[first]
        changed: _Columns = {}
        if "rlnImagePixelSize" in block:
            changed["rlnImagePixelSize"] = format_numbers(sizes_A)
        if "rlnMagnification" in block and detector_um is not None:
            changed["rlnMagnification"] = format_numbers(detector_um[first] * 1e4 / sizes_A)
        changes[block.name] = changed
    return changes


def _blocks_with_first_rows(
    joined: JoinedOptics, rows: NDArray[np.int32]
) -> list[tuple[StarTable, NDArray[np.integer]]]:
    """Both blocks, and for each of their rows that will be written a particle that it is of."""
    blocks: list[tuple[StarTable, NDArray[np.integer]]] = [(joined.particles, rows)]
    if joined.optics is not None:
        _, first = np.unique(joined.optics_row[rows], return_index=True)
        blocks.append((joined.optics, rows[first]))
    return blocks


def _pixel_sizes_A(particles: Particles) -> NDArray[np.float64]:
    return np.array([group.pixel_size_A for group in particles.optics])[particles.optics_index]


def _alike(ours: NDArray[np.float64], given: NDArray[np.float64]) -> bool:
    """Equal but for rounding: the file's own text says it as well."""
    return bool(np.allclose(ours, given, rtol=1e-12, atol=1e-12))

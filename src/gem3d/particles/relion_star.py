"""Particles from RELION's STAR files: 3.0 (one block), 3.1 and 5 (`data_optics` and `data_particles`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError, warn
from gem3d.particles.image_names import split_image_names
from gem3d.particles.particles import Particles
from gem3d.particles.poses import euler_to_matrix
from gem3d.particles.relion_optics import LARGEST, JoinedOptics, missing_column
from gem3d.particles.star_table import StarTable, find_tables, read_star

CONTRAST_COLUMN = "gem3dContrast"
"""Column of our own, of a file that `gem3d refine` wrote; RELION keeps it and does not use it."""
# What tells micrographs apart, the best first.
_MICROGRAPHS = ("rlnMicrographName", "rlnGroupName", "rlnGroupNumber")
ANGLE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_relion_star(path: Path | str, *, ctf: bool = True, ignore_extras: bool = False) -> Particles:
    """Read a refined particle set.

    Parameters
    ----------
    path: a particle STAR file of RELION 3.0 to 5.
    ctf: False (`--no-ctf`) for images without a CTF: the CTF columns are not needed and not read, and the
        optics returned have a CTF of 1 everywhere.
    ignore_extras: True (`--ignore-optics-extras`) skips the check for symmetric aberrations, antisymmetric ones
        beyond the third degree, magnification matrices and premultiplied images, none of which this version models.

    Returns
    -------
    Particles whose optics are the groups that occur (a particle's own value goes before its group's), with
    `box_size_px` 0 where the file does not give it: `fill_box_size` takes it from the stacks.

    Raises
    ------
    ParticleFileError: naming the file, the column, and the particle where one row is at fault.
    """
    path = Path(path)
    table, optics = find_tables(read_star(path), path)
    for column in (*ANGLE_COLUMNS, "rlnImageName"):
        if column not in table:
            what = (
                "where the image lies" if column == "rlnImageName" else "the refined orientation in degrees"
            )
            raise missing_column(table, column, what)
    if len(table) == 0:
        raise ParticleFileError(f"{path}: block data_{table.name} holds no particles.")

    joined = JoinedOptics(table, optics)
    try:
        joined.refuse_extras()
    except ParticleFileError as extras:
        if not ignore_extras:
            raise
        warn(f"{extras} It is ignored, as asked.")
    groups, optics_index = joined.groups(ctf)
    stack_index, image_index, stacks = split_image_names(table.raw("rlnImageName"), path)

    def per_particle(column: str, default: float, read: bool = True) -> NDArray[np.float64]:
        values = joined.values(column) if read else None
        return np.full(len(table), default) if values is None else values

    return Particles(
        rotations=rotations_of(table),
        shifts_A=shifts_of(joined),
        defocus_A=np.stack([_defocus(joined, f"rlnDefocus{axis}", ctf) for axis in "UV"], axis=1),
        astigmatism_deg=_defocus(joined, "rlnDefocusAngle", ctf),
        phase_shift_deg=per_particle("rlnPhaseShift", 0.0, ctf),
        ctf_bfactor_A2=per_particle("rlnCtfBfactor", 0.0, ctf),
        ctf_scale=per_particle("rlnCtfScalefactor", 1.0, ctf),
        contrast=_contrast(table),
        optics_index=optics_index,
        micrograph_index=micrographs(table, stack_index),
        half_set=half_sets(table),
        stack_index=stack_index,
        image_index=image_index,
        source_row=np.arange(len(table), dtype=np.int32),
        stacks=stacks,
        optics=groups,
        source=path,
        template=path,
    )


def rotations_of(table: StarTable) -> NDArray[np.float64]:
    """`(n, 3, 3)` poses."""
    return euler_to_matrix(np.stack([table.numbers(column) for column in ANGLE_COLUMNS], axis=1))


def shifts_of(joined: JoinedOptics) -> NDArray[np.float64]:
    """`(n, 2)` A, where the projected centre appears: minus RELION's origin."""
    origins = []
    for axis in "XY":
        origin_A = joined.values(f"rlnOrigin{axis}Angst")
        if origin_A is None:
            origin_px = joined.values(f"rlnOrigin{axis}")
            if origin_px is None:
                origin_px = np.zeros(len(joined.particles))
            origin_A = origin_px * joined.pixel_size_A()
        origins.append(origin_A)
    return 0.0 - np.stack(origins, axis=1)


def _defocus(joined: JoinedOptics, column: str, ctf: bool) -> NDArray[np.float64]:
    if not ctf:
        return np.zeros(len(joined.particles))
    return joined.required(column, "the defocus (for images without a CTF pass --no-ctf)")


def _contrast(table: StarTable) -> NDArray[np.float64]:
    if CONTRAST_COLUMN not in table:
        return np.ones(len(table))
    values = table.numbers(CONTRAST_COLUMN)
    table.refuse(CONTRAST_COLUMN, values < 0, values, "is negative; correct the row, or remove the column")
    table.refuse(
        CONTRAST_COLUMN, values > LARGEST, values, "is not possible; correct the row, or remove the column"
    )
    return values


def micrographs(table: StarTable, stack_index: NDArray[np.int32]) -> NDArray[np.int32]:
    """Micrograph of each particle; where the file does not say, those of one stack are of one micrograph."""
    for column in _MICROGRAPHS:
        if column in table:
            numbers: dict[str, int] = {}
            return np.fromiter(
                (numbers.setdefault(name, len(numbers)) for name in table.raw(column)),
                np.int32,
                count=len(table),
            )
    return stack_index.copy()


def half_sets(table: StarTable) -> NDArray[np.int8]:
    """`(n,)` half set of each particle; 0 where the table does not say."""
    if "rlnRandomSubset" not in table:
        return np.zeros(len(table), np.int8)
    values = table.numbers("rlnRandomSubset")
    table.refuse(
        "rlnRandomSubset",
        (values != 1) & (values != 2),
        values,
        "is neither 1 nor 2; give every particle its half set, or remove the column to have halves drawn",
    )
    return values.astype(np.int8)

"""The optics in a cryoSPARC file: the groups `ctf/...` and what of them is not modelled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError, warn
from gem3d.particles.cs_table import CsTable
from gem3d.particles.optics_groups import NOT_MODELLED, OpticsColumns, find_optics_groups, number_repeats
from gem3d.particles.particles import OpticsGroup

_EXTRAS = {"ctf/tilt_A": 2, "ctf/trefoil_A": 2, "ctf/tetra_A": 4, "ctf/shift_A": 2, "ctf/anisomag": 4}
# Beyond these limits a unit is mistaken, or the file is damaged.
_DEFOCUS = (-500_000.0, 500_000.0, "a defocus in A")
_ANGLE = (-1000.0, 1000.0, "an angle in radians")
_LIMITS = {
    "ctf/accel_kv": (10.0, 3000.0, "a voltage in kV"),
    "ctf/cs_mm": (-100.0, 100.0, "a spherical aberration in mm"),
    "ctf/amp_contrast": (0.0, 1.0, "a fraction of 0 to 1"),
    "ctf/df1_A": _DEFOCUS,
    "ctf/df2_A": _DEFOCUS,
    "ctf/df_angle_rad": _ANGLE,
    "ctf/phase_shift_rad": _ANGLE,
    "ctf/scale": (1e-6, 1e6, "a positive scale"),
    "ctf/bfactor": (-100_000.0, 100_000.0, "a B factor in A^2"),
}
CTF_NEEDED = tuple(_LIMITS)[:6]


def ctf_columns(ctf: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The columns to read, their types (numpy's letters) and shapes; without a CTF only what else they tell."""
    columns: dict[str, tuple[str, tuple[int, ...]]] = {"ctf/exp_group_id": ("iu", ())}
    columns |= {column: ("f", (width,)) for column, width in _EXTRAS.items()}
    return columns | (dict.fromkeys(_LIMITS, ("f", ())) if ctf else {})


def refuse_extras(table: CsTable, ignore: bool) -> None:
    """Raise if the file asks for optics that this version does not model, or warn if that is to be ignored."""
    for column in _EXTRAS:
        if column not in table:
            continue
        try:
            table.refuse(column, np.abs(table.values(column)) > 1e-6, NOT_MODELLED)
        except ParticleFileError as extras:
            if not ignore:
                raise
            warn(f"{extras} It is ignored, as asked.")


def optics_groups(
    table: CsTable, pixel_size_A: NDArray[Any], box_size_px: NDArray[np.int64], ctf: bool
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int32]]:
    """The distinct optics that occur, and the `(n,)` index of each particle's; checks all CTF columns."""
    for column, limits in _LIMITS.items():
        table.refuse_outside(column, *limits)
    if ctf:
        instrument = (table.values(column) for column in CTF_NEEDED[:3])
        optics = OpticsColumns(pixel_size_A, box_size_px, *instrument)
    else:
        optics = OpticsColumns.without_ctf(pixel_size_A, box_size_px)
    if "ctf/exp_group_id" in table:
        group = table.values("ctf/exp_group_id").astype(np.int64)
    else:
        group = np.zeros(len(table), np.int64)

    def names(first: NDArray[np.int64]) -> list[str]:
        return number_repeats([f"exp_group_{number}" for number in group[first]])

    return find_optics_groups(group, optics, names)

"""Optics groups: what the optics of a particle set come down to, whatever the format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.particles.particles import OpticsGroup

NOT_MODELLED = (
    "asks for something this version does not model; --ignore-optics-extras reads the file as if the column "
    "were not there, at a cost in resolution"
)


@dataclass(frozen=True)
class OpticsColumns:
    """The optics of each of `n` particles, `(n,)` each; box size 0 where the file does not give it.

    What a group holds several numbers of, `(n, m)` each, is None where it does nothing: see `OpticsGroup`.
    """

    pixel_size_A: NDArray[np.number[Any]]
    box_size_px: NDArray[np.number[Any]]
    voltage_kV: NDArray[np.number[Any]]
    spherical_aberration_mm: NDArray[np.number[Any]]
    amplitude_contrast: NDArray[np.number[Any]]
    phase_coefficients: NDArray[np.float64] | None = None
    gamma_coefficients: NDArray[np.float64] | None = None
    magnification: NDArray[np.float64] | None = None

    @classmethod
    def without_ctf(
        cls,
        pixel_size_A: NDArray[np.number[Any]],
        box_size_px: NDArray[np.number[Any]],
        magnification: NDArray[np.float64] | None = None,
    ) -> OpticsColumns:
        """Optics whose CTF is 1 at zero defocus."""
        # -sin(-asin(1)) = 1: pure amplitude contrast at zero defocus and zero Cs is no CTF at all.
        voltage, cs, contrast = (np.full(len(pixel_size_A), value) for value in (300.0, 0.0, 1.0))
        return cls(pixel_size_A, box_size_px, voltage, cs, contrast, magnification=magnification)


def find_optics_groups(
    key: NDArray[np.int64], optics: OpticsColumns, names: Callable[[NDArray[np.int64]], list[str]]
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int32]]:
    """The distinct optics that occur, and the `(n,)` index of each particle's.

    Parameters
    ----------
    key: `(n,)`, the group that the file puts each particle in; its particles' own values may split it.
    names: from the rows at which each group first occurs to the groups' names.
    """
    given = {field: values for field, values in vars(optics).items() if values is not None}
    several = {field: given.pop(field) for field in tuple(given) if given[field].ndim == 2}
    first, index = _distinct(
        [key, *given.values(), *(column for table in several.values() for column in table.T)]
    )
    groups = []
    for name, row in zip(names(first), first, strict=True):
        # By its text a float32 becomes the number that was meant: 2.7, not 2.700000048.
        values: dict[str, Any] = {field: float(str(column[row])) for field, column in given.items()}
        values |= {field: tuple(table[row].tolist()) for field, table in several.items()}
        groups.append(OpticsGroup(name, box_size_px=int(values.pop("box_size_px")), **values))
    return tuple(groups), index.astype(np.int32)


def number_repeats(names: list[str]) -> list[str]:
    """The names, a repeated one made distinct: `a, b, a` become `a, b, a.2`."""
    seen = dict.fromkeys(names, 0)
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return numbered


def _distinct(columns: list[NDArray[np.generic]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows at which each distinct combination first occurs, and the combination of each row."""
    _, first, code = np.unique(columns[0], return_index=True, return_inverse=True)
    for column in columns[1:]:
        if (column == column[first][code]).all():  # far faster than to sort it
            continue
        values, inverse = np.unique(column, return_inverse=True)
        # Renumbered after every column, so the product cannot overflow.
        _, first, code = np.unique(code * len(values) + inverse, return_index=True, return_inverse=True)
    return first, code

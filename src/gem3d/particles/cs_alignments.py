"""The poses in a cryoSPARC file: of one map, or of several classes, of which the most probable counts.

Homogeneous, non-uniform and local refinements write `alignments3D/`. A heterogeneous refinement of all classes writes
`alignments3D_multi/`, each field with an axis of classes (`pose` `(K, 3)`, `shift` `(K, 2)`, `class_posterior`
`(K,)`); ab-initio reconstruction, and older versions, write a group for each class, `alignments_class_0/` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.cs_file import Block, Columns, CsFile

SINGLE, MULTI = "alignments3D", "alignments3D_multi"
_CLASS = re.compile(r"(alignments_class_\d{1,6})/pose")
# Of one class: their shapes, and whether they must be there.
_FIELDS: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "pose": ("f", (3,), True),
    "shift": ("f", (2,), True),
    "psize_A": ("f", (), False),
    "split": ("iuf", (), False),
}


@dataclass(frozen=True)
class Alignments:
    """Where the poses stand.

    Attributes
    ----------
    file: the file that holds them.
    groups: the groups of columns: one, or one a class.
    prefix: how messages and the table call them.
    n_classes: 0 where there are no classes to choose from.
    """

    file: CsFile
    groups: tuple[str, ...]
    prefix: str
    n_classes: int

    def column(self, field: str) -> str:
        """Name of a column of the table: `pose`, `shift`, `psize_A`, `split`, `class`, `class_posterior`."""
        return f"{self.prefix}/{field}"

    def pick(self, block: Block) -> Columns:
        """The columns, of the most probable class."""
        fields = [field for field in _FIELDS if f"{self.groups[0]}/{field}" in self.file]
        if self.n_classes == 0:
            return {self.column(field): block[f"{self.prefix}/{field}"] for field in fields}
        posterior = self._by_class(block, "class_posterior")
        best = np.argmax(posterior, axis=1)
        rows = np.arange(len(block))
        picked = {self.column(field): self._by_class(block, field)[rows, best] for field in fields}
        return picked | {
            self.column("class"): best.astype(np.int32),
            self.column("class_posterior"): posterior.max(axis=1),  # NaN where any is
        }

    def _by_class(self, block: Block, field: str) -> NDArray[np.generic]:
        """`(n, K, ...)`"""
        if len(self.groups) > 1:
            return np.stack([block[f"{group}/{field}"] for group in self.groups], axis=1)
        values = block[f"{self.prefix}/{field}"]
        one = _FIELDS.get(field, ("f", (), True))[1]
        if values.ndim == 1 + len(one):  # alike for all classes
            values = np.repeat(values[:, None], self.n_classes, axis=1)
        return values


def find_alignments(files: Sequence[CsFile]) -> Alignments | None:
    """The poses of the first file that has any.

    Raises
    ------
    ParticleFileError: a column has another type or shape than it must.
    """
    for file in files:
        names = file.dtype.names or ()
        if f"{SINGLE}/pose" in file:
            for field, (kinds, shape, needed) in _FIELDS.items():
                if needed or f"{SINGLE}/{field}" in file:
                    file.expect(f"{SINGLE}/{field}", kinds, shape)
            return Alignments(file, (SINGLE,), SINGLE, 0)
        if f"{MULTI}/pose" in file:
            return _multi(file)
        if classes := sorted((m[1] for m in map(_CLASS.fullmatch, names) if m), key=_number):
            return _one_group_a_class(file, tuple(classes))
    return None


def _multi(file: CsFile) -> Alignments:
    posterior = f"{MULTI}/class_posterior"
    n_classes = (file.dtype[posterior].shape or (0,))[0] if posterior in file else 0
    if n_classes == 0:
        raise ParticleFileError(
            f"{file.path}: column {posterior} is missing or has no classes, so the class of each particle is not "
            "known; give the particles of one class."
        )
    file.expect(posterior, "f", (n_classes,))
    for field, (kinds, shape, needed) in _FIELDS.items():
        column = f"{MULTI}/{field}"
        if needed or (column in file and file.dtype[column].shape != shape):
            file.expect(column, kinds, (n_classes, *shape))
        elif column in file:
            file.expect(column, kinds, shape)
    return Alignments(file, (MULTI,), MULTI, n_classes)


def _one_group_a_class(file: CsFile, groups: tuple[str, ...]) -> Alignments:
    for group in groups:
        for field, (kinds, shape, needed) in _FIELDS.items():
            if needed or f"{groups[0]}/{field}" in file:
                file.expect(f"{group}/{field}", kinds, shape)
        if len(groups) > 1:
            file.expect(f"{group}/class_posterior", "f", ())
    if len(groups) == 1:
        return Alignments(file, groups, groups[0], 0)
    return Alignments(file, groups, "alignments_class_*", len(groups))


def _number(group: str) -> int:
    return int(group.rpartition("_")[2])

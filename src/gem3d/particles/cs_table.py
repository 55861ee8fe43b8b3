"""A cryoSPARC particle file joined to its passthrough files by `uid`, with errors that say where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.cs_alignments import Alignments
from gem3d.particles.cs_file import Block, Columns, CsFile, open_cs

_JOB = re.compile(r"(?:^|_)(?:(P\d+)_)?(J\d+)(?=_)")


class CsTable:
    """Columns of the particles, in the order of the first file.

    A group of columns, such as `blob/`, is taken whole from the first file that has any of it: what one job wrote
    belongs together, and the particle file's own goes before what was passed through it.

    Parameters
    ----------
    files: the particle file, then its passthrough files.
    wanted: kinds (numpy's letters) and shape of each column that is read where it is there.
    alignments: the poses to read; None for none.

    Raises
    ------
    ParticleFileError: a uid is missing in a passthrough file, or stands in a file twice; a column has another
        type or shape.
    """

    def __init__(
        self,
        files: Sequence[CsFile],
        wanted: Mapping[str, tuple[str, tuple[int, ...]]],
        alignments: Alignments | None,
    ) -> None:
        self.path = files[0].path
        self._length = files[0].n_rows
        self._columns: Columns = {}
        self._texts: dict[str, tuple[str, ...]] = {}
        self._origin: dict[str, Path] = {}
        groups = dict.fromkeys(column.split("/")[0] for column in wanted)
        source = {group: next((file for file in files if file.has_group(group)), None) for group in groups}
        uids: NDArray[np.uint64] | None = None
        for file in files:
            names = [column for column in wanted if source[column.split("/")[0]] is file and column in file]
            poses = alignments if alignments is not None and alignments.file is file else None
            for name in names:
                file.expect(name, *wanted[name])
            if len(files) > 1 or "uid" in file:
                file.expect("uid", "iu", ())
                names.append("uid")
            if file is not files[0] and names == ["uid"] and poses is None:
                continue

            def pick(block: Block, names: list[str] = names, poses: Alignments | None = poses) -> Columns:
                return {name: block[name] for name in names} | (poses.pick(block) if poses else {})

            columns, texts = file.read(pick)
            uid = columns.pop("uid", np.arange(file.n_rows)).astype(np.uint64)
            order = _sorted_uids(file.path, uid)
            if uids is None:
                uids = uid
            else:
                rows = self._rows(file.path, uid, order, uids)
                columns = {name: values[rows] for name, values in columns.items()}
            self._columns |= columns
            self._texts |= texts
            self._origin |= dict.fromkeys(columns, file.path)

    def __len__(self) -> int:
        return self._length

    def __contains__(self, column: str) -> bool:
        return column in self._columns

    def require(self, column: str) -> None:
        """Raise unless the column is there."""
        if column not in self:
            group = column.split("/")[0]
            read = (path for name, path in self._origin.items() if name.startswith(f"{group}/"))
            origin = next(read, self.path)
            raise ParticleFileError(
                f"{origin}: column {column} is missing, but others of {group}/ are there; was the file edited? "
                "Give the one that cryoSPARC wrote."
            )

    def values(self, column: str) -> NDArray[Any]:
        """The values as the file has them, finite, `(n, ...)`."""
        values = self._columns[column]
        self.refuse(column, ~np.isfinite(values), "is not a finite number; correct or remove the particle")
        return values

    def numbers(self, column: str, default: float | None = None) -> NDArray[np.float64]:
        """The values as float64; the default, `(n,)`, where there is no such column."""
        if column not in self and default is not None:
            return np.full(len(self), default)
        return self.values(column).astype(np.float64)

    def numbered(self, column: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """`(n,)` numbers of the distinct values, in order of appearance, and the row of each one's first."""
        _, first, inverse = np.unique(self.values(column), return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order))
        return rank[inverse], first[order]

    def text(self, column: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Index of each particle's text, `(n,)`, and the texts, in order of appearance."""
        numbers, first = self.numbered(column)
        texts = self._texts[column]
        return numbers, tuple(texts[number] for number in self._columns[column][first])

    def refuse(self, column: str, bad: NDArray[np.bool_], why: str) -> None:
        """Raise for the first bad row, if there is one; `bad` is `(n,)`, or `(n, m)` where any one will do."""
        if bad.any():
            row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
            value = self._columns[column][row]
            shown = self._texts[column][value] if column in self._texts else value
            origin = self._origin[column]
            where = f"column {column}" + (f" (of {origin})" if origin != self.path else "")
            raise ParticleFileError(f"{self.path}: particle {row + 1}, {where}: {shown} {why}.")

    def refuse_outside(self, column: str, low: float, high: float, what: str) -> None:
        """Raise for the first value outside limits; does nothing where there is no such column."""
        if column in self:
            values = self.values(column)
            self.refuse(
                column, (values < low) | (values > high), f"is not {what}; correct or remove the particle"
            )

    def _rows(
        self, path: Path, uid: NDArray[np.uint64], order: NDArray[np.int64], wanted: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """Row of each wanted uid in another file."""
        place = np.minimum(np.searchsorted(uid[order], wanted), len(uid) - 1)
        rows: NDArray[np.int64] = order[place]
        lacking = uid[rows] != wanted
        if lacking.any():
            first = int(np.argmax(lacking))
            raise ParticleFileError(
                f"{path}: column uid: {int(lacking.sum())} of the {len(wanted)} particles of {self.path} are not in "
                f"it, the first being particle {first + 1} (uid {wanted[first]}); give the passthrough file of the "
                "same job."
            )
        return rows


def passthrough_beside(path: Path, group: str) -> Path | None:
    """A passthrough file of the same job in the same folder that has a group of columns, for advice in errors."""
    job = _JOB.search(path.name)
    for other in sorted(path.parent.glob("*passthrough_particles*.cs")):
        its = _JOB.search(other.name)
        if other == path or (job is not None and not _same_job(job, its)):
            continue
        try:
            if open_cs(other).has_group(group):
                return other
        except ParticleFileError:
            continue
    return None


def _same_job(job: re.Match[str], other: re.Match[str] | None) -> bool:
    if other is None or job[2] != other[2]:
        return False
    return job[1] == other[1] or None in (job[1], other[1])


def _sorted_uids(path: Path, uid: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The order that sorts them; they must differ."""
    order = np.argsort(uid, kind="stable")
    twice = uid[order[1:]] == uid[order[:-1]]
    if twice.any():
        first, again = np.sort(order[np.argmax(twice) + np.arange(2)]) + 1
        raise ParticleFileError(
            f"{path}: column uid: {int(twice.sum())} particles have the uid of an earlier one, the first pair by uid "
            f"being particles {first} and {again} ({uid[first - 1]}); remove the repeated rows."
        )
    return order.astype(np.int64)

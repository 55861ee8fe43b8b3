"""RELION's optics: joined to the particles, a particle's own value before its group's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.optics import MOST_DISTORTION, N_PHASE_COEFFICIENTS, NO_MAGNIFICATION
from gem3d.particles.optics_groups import NOT_MODELLED, OpticsColumns, find_optics_groups, number_repeats
from gem3d.particles.particles import OpticsGroup
from gem3d.particles.relion_aberrations import of_beam_tilt, of_even_zernike, of_odd_zernike
from gem3d.particles.star_table import StarTable

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
# Does nothing where it is 0; nothing else is modelled.
_PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
# Far beyond anything that is measured: with numbers within it no product of a few overflows.
LARGEST = 1e12
_BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
_ODD, _EVEN = "rlnOddZernike", "rlnEvenZernike"

_ReadZernike = Callable[[str], tuple[NDArray[np.float64], bool]]


class JoinedOptics:
    """Particle values, taken from the particles' own column or from `data_optics` through `rlnOpticsGroup`.

    Parameters
    ----------
    particles: the particle table.
    optics: the `data_optics` table, None in files older than RELION 3.1.
    """

    def __init__(self, particles: StarTable, optics: StarTable | None) -> None:
        self.particles = particles
        self.optics = optics
        self.optics_row = np.zeros(len(particles), np.int64) if optics is None else self._join(optics)

    def values(self, column: str) -> NDArray[np.float64] | None:
        """`(n,)` values, None where neither table has the column."""
        table = self._table_with(column)
        return None if table is None else self._per_particle(table, _possible(table, column))

    def required(self, column: str, what: str) -> NDArray[np.float64]:
        """`(n,)` values of a column that must be there."""
        values = self.values(column)
        if values is None:
            raise missing_column(self.particles, column, what)
        return values

    def pixel_size_A(self) -> NDArray[np.float64]:
        """`(n,)`, angstroms: rlnImagePixelSize, or before RELION 3.1 detector pixel over magnification."""
        size = self.values("rlnImagePixelSize")
        if size is not None:
            return self._positive("rlnImagePixelSize", size)
        detector_um = self.values("rlnDetectorPixelSize")
        magnification = self.values("rlnMagnification")
        if detector_um is None or magnification is None:
            raise missing_column(
                self.particles,
                "rlnImagePixelSize",
                "the pixel size (neither it nor rlnDetectorPixelSize with rlnMagnification is there)",
            )
        detector_um = self._positive("rlnDetectorPixelSize", detector_um)
        return detector_um * 1e4 / self._positive("rlnMagnification", magnification)

    def groups(self, ctf: bool) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int32]]:
        """The distinct optics that occur, and the `(n,)` index of each particle's.

        Parameters
        ----------
        ctf: False leaves the CTF columns unread and gives optics whose CTF is 1 at zero defocus.
        """
        pixel_size = self.pixel_size_A()
        box_size = self.values("rlnImageSize")
        if box_size is None:
            box_size = np.zeros_like(pixel_size)
        else:
            self._check("rlnImageSize", (box_size < 1) | (box_size != np.rint(box_size)), box_size, "pixels")
        if ctf:
            voltage = self._positive("rlnVoltage", self.required("rlnVoltage", "the voltage in kV"))
            cs = self.required("rlnSphericalAberration", "the spherical aberration in mm")
            contrast = self.required(
                "rlnAmplitudeContrast", "the fraction of amplitude contrast, such as 0.1"
            )
            bad = (contrast < 0) | (contrast > 1)
            self._check("rlnAmplitudeContrast", bad, contrast, "a fraction of 0 to 1")
            optics = OpticsColumns(
                pixel_size,
                box_size,
                voltage,
                cs,
                contrast,
                self._phase_coefficients(voltage, cs),
                self._of_zernike(_EVEN, of_even_zernike),
                self._magnification(),
            )
        else:
            optics = OpticsColumns.without_ctf(pixel_size, box_size, self._magnification())
        return find_optics_groups(self.optics_row, optics, self._names)

    def refuse_extras(self) -> None:
        """Raise if the file asks for optics that this version does not model."""
        used = np.unique(self.optics_row)
        for column, read in ((_PREMULTIPLIED, None), (_ODD, of_odd_zernike), (_EVEN, of_even_zernike)):
            table = self._table_with(column)
            if table is None:
                continue
            if read is None:
                bad = np.abs(table.numbers(column)) > 1e-6
            else:
                bad = np.array([not _modelled(text, read)[1] for text in table.text(column)])
            if table is self.optics:
                bad &= np.isin(np.arange(len(table)), used)
            table.refuse(
                column,
                bad,
                table.text(column) if bad.any() else [],
                NOT_MODELLED,
            )

    def _table_with(self, column: str) -> StarTable | None:
        """The table whose values of a column count."""
        return next((t for t in (self.particles, self.optics) if t is not None and column in t), None)

    def _per_particle(self, table: StarTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the rows of either table, for each particle."""
        return values if table is self.particles else values[self.optics_row]

    def _phase_coefficients(
        self, voltage_kV: NDArray[np.float64], spherical_aberration_mm: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """`(n, 6)` of beam tilt and odd Zernike polynomials, as far as they are modelled; None without any."""
        tilt = [self.values(column) for column in _BEAM_TILT]
        phases = np.zeros((len(self.particles), N_PHASE_COEFFICIENTS))
        if any(values is not None for values in tilt):
            none = np.zeros(len(self.particles))
            tilt_mrad = np.stack([none if values is None else values for values in tilt], axis=1)
            phases += of_beam_tilt(tilt_mrad, voltage_kV, spherical_aberration_mm)
        zernike = self._of_zernike(_ODD, of_odd_zernike)
        if zernike is not None:
            phases += zernike
        return phases if phases.any() else None

    def _of_zernike(self, column: str, read: _ReadZernike) -> NDArray[np.float64] | None:
        """`(n, m)` coefficients of the polynomials of a column; None without any, 0 of what is ignored, as asked."""
        table = self._table_with(column)
        if table is None:
            return None
        texts, row_of = np.unique(table.text(column), return_inverse=True)
        of_texts = np.array([_modelled(text, read)[0] for text in texts.tolist()])
        return self._per_particle(table, of_texts[row_of]) if of_texts.any() else None

    def _magnification(self) -> NDArray[np.float64] | None:
        """`(n, 4)` matrices, row after row; None where there are none, or all do nothing."""
        columns = [self.values(column) for column in MAGNIFICATION]
        if all(column is None for column in columns):
            return None
        pairs = zip(columns, NO_MAGNIFICATION, strict=True)
        matrices = np.stack([np.full(len(self.particles), no) if c is None else c for c, no in pairs], axis=1)
        bad = ~(_most_distortion(matrices) <= MOST_DISTORTION)
        for column in MAGNIFICATION:
            table = self._table_with(column)
            if table is not None:
                of_row = bad if table is self.particles else self._of_optics_rows(bad)
                table.refuse(
                    column,
                    of_row,
                    table.text(column) if of_row.any() else [],
                    f"belongs to a matrix that distorts by more than {100 * MOST_DISTORTION:.0f} %, as no microscope "
                    "does; correct it",
                )
        return matrices if (matrices != NO_MAGNIFICATION).any() else None

    def _of_optics_rows(self, of_particles: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows of data_optics have a particle of which something holds."""
        assert self.optics is not None
        rows = np.zeros(len(self.optics), bool)
        rows[self.optics_row[of_particles]] = True
        return rows

    def _join(self, optics: StarTable) -> NDArray[np.int64]:
        if "rlnOpticsGroup" not in optics:
            raise missing_column(
                optics, "rlnOpticsGroup", "which row belongs to which particles, in data_optics"
            )
        groups = optics.integers("rlnOpticsGroup")
        order = np.argsort(groups, kind="stable")
        twice = np.isin(groups, groups[order[1:]][np.diff(groups[order]) == 0])
        optics.refuse("rlnOpticsGroup", twice, groups, "stands in more than one row; give each group one row")
        if "rlnOpticsGroup" not in self.particles:
            if len(groups) == 1:
                return np.zeros(len(self.particles), np.int64)
            raise missing_column(
                self.particles, "rlnOpticsGroup", "which row of data_optics each particle means"
            )
        wanted = self.particles.integers("rlnOpticsGroup")
        place = np.minimum(np.searchsorted(groups, wanted, sorter=order), max(len(groups) - 1, 0))
        known = np.isin(wanted, groups)
        self.particles.refuse(
            "rlnOpticsGroup",
            ~known,
            wanted,
            f"has no row in data_optics, which describes {', '.join(map(str, groups)) or 'none'}; add one",
        )
        return order[place].astype(np.int64)

    def _names(self, first: NDArray[np.int64]) -> list[str]:
        if self.optics is not None and "rlnOpticsGroupName" in self.optics:
            given = self.optics.text("rlnOpticsGroupName")
        elif self.optics is not None:
            given = [f"opticsGroup{value}" for value in self.optics.integers("rlnOpticsGroup")]
        else:
            return [f"opticsGroup{number}" for number in range(1, len(first) + 1)]
        # Particles' own values may split one group into several.
        return number_repeats([given[row] for row in self.optics_row[first]])

    def _positive(self, column: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        self._check(column, values < 1 / LARGEST, values, "positive")
        return values

    def _check(self, column: str, bad: NDArray[np.bool_], values: NDArray[np.float64], must_be: str) -> None:
        self.particles.refuse(
            column, bad, values, f"is not {must_be}; correct it (or its row in data_optics)"
        )


def _possible(table: StarTable, column: str) -> NDArray[np.float64]:
    values = table.numbers(column)
    table.refuse(column, np.abs(values) > LARGEST, values, "is not possible; correct or remove the row")
    return values


def missing_column(table: StarTable, column: str, what: str) -> ParticleFileError:
    """The error for a column that must be there."""
    return ParticleFileError(
        f"{table.path}: column {column} is missing: {what}. Add the column, or give the STAR file of a "
        "finished 3D refinement."
    )


def _most_distortion(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n,)`: by what share the length changes most that `(n, 4)` matrices change most; above 1 where they mirror."""
    xx, xy, yx, yy = matrices.T
    determinant, squares = xx * yy - xy * yx, (matrices**2).sum(axis=1)
    longest = np.sqrt((squares + np.sqrt(np.maximum(squares**2 - 4 * determinant**2, 0))) / 2)
    shortest = determinant / np.maximum(longest, 1e-300)
    change: NDArray[np.float64] = np.maximum(np.abs(longest - 1), np.abs(shortest - 1))
    return change


def _modelled(text: str, read: _ReadZernike) -> tuple[NDArray[np.float64], bool]:
    """Coefficients that Zernike polynomials come to, and whether they are modelled; 0 where they are not."""
    try:
        return read(text)
    except ValueError:
        return read("[]")[0], False

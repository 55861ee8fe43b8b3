"""Atomic models: PDB and mmCIF files, the packaged model, and their density as Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.errors import StructureError
from gem3d.input_file import refuse_unless_file

ATOM_RADIUS_A = 0.6
"""Standard deviation of every atom at rest: one width in place of element-specific scattering factors."""

POSITION_STEP_A = 0.01
BFACTOR_STEP_A2 = 0.5


@dataclass(frozen=True)
class Structure:
    """Atoms of a model.

    Attributes
    ----------
    positions_A: `(n, 3)` float64, x y z.
    atomic_numbers: `(n,)` uint8.
    bfactors_A2: `(n,)` float64.
    """

    positions_A: NDArray[np.float64]
    atomic_numbers: NDArray[np.uint8]
    bfactors_A2: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.positions_A)


def read_structure(path: str | Path) -> Structure:
    """Read the heavy atoms of a PDB or mmCIF file: first model, the file's own assembly, without waters.

    Of alternate conformers the one with the highest occupancy is taken, the first among equals.

    Raises
    ------
    StructureError
        if the file is missing, unreadable or holds no heavy atom.
    """
    refuse_unless_file(Path(path), StructureError)
    try:
        model_file = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise StructureError(f"{path}: cannot be read as PDB or mmCIF ({error})") from error
    atoms = [
        atom
        for chain in (model_file[0] if len(model_file) else ())
        for residue in chain
        if not residue.is_water()
        for atom in _one_conformer(residue)
        if atom.element.atomic_number > 1
    ]
    if not atoms:
        raise StructureError(f"{path}: holds no heavy atoms; give a PDB or mmCIF file with coordinates")
    return Structure(
        np.array([atom.pos.tolist() for atom in atoms]),
        np.array([atom.element.atomic_number for atom in atoms], dtype=np.uint8),
        np.array([max(atom.b_iso, 0.0) for atom in atoms]),
    )


def _one_conformer(residue: gemmi.Residue) -> list[gemmi.Atom]:
    chosen: dict[str, gemmi.Atom] = {}
    for atom in residue:
        rival = chosen.get(atom.name)
        if rival is None or atom.occ > rival.occ:
            chosen[atom.name] = atom
    return list(chosen.values())


def structure_to_gaussians(
    structure: Structure,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Density of a structure as isotropic Gaussians, centred on the mean position of its atoms.

    An atom's mass is its atomic number (electrons), a simplification of the electron scattering factor; its
    variance along each axis is ``B / (8 pi^2) + ATOM_RADIUS_A^2``.

    Returns
    -------
    amplitudes: `(n,)`, electrons.
    means: `(n, 3)` x y z, angstroms.
    covariances: `(n, 6)` xx, yy, zz, xy, xz, yz, square angstroms.
    """
    means = structure.positions_A - structure.positions_A.mean(axis=0)
    covariances = np.zeros((len(structure), 6))
    covariances[:, :3] = (structure.bfactors_A2 / (8 * np.pi**2) + ATOM_RADIUS_A**2)[:, None]
    return structure.atomic_numbers.astype(np.float64), means, covariances


def packaged_structure() -> Structure:
    """The model that comes with the program: beta-galactosidase, PDB entry 5A1A."""
    with files("gem3d.data").joinpath("5a1a.npz").open("rb") as stream:
        return read_compact_structure(stream)


def read_compact_structure(file: str | Path | IO[bytes]) -> Structure:
    """Read what `write_compact_structure` wrote."""
    with np.load(file) as data:
        return Structure(
            data["positions"] * POSITION_STEP_A,
            data["atomic_numbers"],
            data["bfactors"] * BFACTOR_STEP_A2,
        )


def write_compact_structure(source: str | Path, path: str | Path) -> None:
    """Convert a PDB or mmCIF file to the form of the packaged model.

    Positions become int16 multiples of 0.01 A, B factors uint8 multiples of 0.5 A^2 (so at most 127.5).
    """
    structure = read_structure(source)
    positions = np.rint(structure.positions_A / POSITION_STEP_A)
    bfactors = np.rint(structure.bfactors_A2 / BFACTOR_STEP_A2)
    if np.abs(positions).max() > np.iinfo(np.int16).max or bfactors.max() > np.iinfo(np.uint8).max:
        raise StructureError(
            f"{source}: coordinates beyond 327 A or B factors beyond 127 do not fit the format"
        )
    np.savez_compressed(
        path,
        positions=positions.astype(np.int16),
        atomic_numbers=structure.atomic_numbers,
        bfactors=bfactors.astype(np.uint8),
    )

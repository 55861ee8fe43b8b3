"""cryoDRGN's tables: `poses.pkl` and `ctf.pkl`, whose rows are those of the image list.

cryoDRGN's CTF is the negative of ours, and it takes the images times -1 by default: the two cancel, so its numbers
are taken as they are, and the images too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.particles.restricted_pickle import load_arrays

FloatArray = NDArray[np.float64]

# Beyond these limits a unit is mistaken, or the file is damaged.
_COLUMNS: dict[str, tuple[float, float, str]] = {
    "image size": (1, 65_535, "a size in pixels"),
    "pixel size": (0.05, 100.0, "a pixel size in A"),
    "defocus U": (-500_000.0, 500_000.0, "a defocus in A"),
    "defocus V": (-500_000.0, 500_000.0, "a defocus in A"),
    "astigmatism angle": (-10_000.0, 10_000.0, "an angle in degrees"),
    "voltage": (10.0, 3000.0, "a voltage in kV"),
    "spherical aberration": (-100.0, 100.0, "a spherical aberration in mm"),
    "amplitude contrast": (0.0, 1.0, "a fraction of 0 to 1"),
    "phase shift": (-10_000.0, 10_000.0, "an angle in degrees"),
}
_GIVE_CTF = "give the ctf.pkl that cryoDRGN made (parse_ctf_star or parse_ctf_csparc)"
_GIVE_POSES = "give the poses.pkl that cryoDRGN made (parse_pose_star or parse_pose_csparc)"
# Poses in float32 are orthonormal to 1e-6.
_ORTHONORMAL = 1e-3


@dataclass(frozen=True)
class CryodrgnCtf:
    """The rows of a `ctf.pkl`, `(n,)` each unless said otherwise.

    Attributes
    ----------
    box_size_px, pixel_size_A: of the images that it was made from; the box is as wide in A when they are downsampled.
    defocus_A: `(n, 2)`, U and V.
    astigmatism_deg, phase_shift_deg: as in `Particles`.
    instrument: `(n, 3)`: kV, Cs in mm, amplitude contrast.
    """

    box_size_px: FloatArray
    pixel_size_A: FloatArray
    defocus_A: FloatArray
    astigmatism_deg: FloatArray
    phase_shift_deg: FloatArray
    instrument: FloatArray

    def __len__(self) -> int:
        return len(self.defocus_A)


@dataclass(frozen=True)
class CryodrgnPoses:
    """A `poses.pkl`.

    Attributes
    ----------
    rotations: `(n, 3, 3)`, as in `Particles`.
    origins_boxes: `(n, 2)`: RELION's origin, in units of the box size.
    """

    rotations: FloatArray
    origins_boxes: FloatArray

    def __len__(self) -> int:
        return len(self.rotations)


def read_cryodrgn_ctf(path: Path) -> CryodrgnCtf:
    """Read a `ctf.pkl`.

    Raises
    ------
    ParticleFileError: it is not one, or a row holds a value that makes no sense.
    """
    arrays = load_arrays(path, _GIVE_CTF)
    rows = arrays[0]
    if len(arrays) != 1 or rows.ndim != 2 or rows.shape[1] != len(_COLUMNS) or not len(rows):
        raise ParticleFileError(
            f"{path}: holds {_describe(arrays)}; a cryoDRGN CTF table is one of shape (n, {len(_COLUMNS)}): "
            f"{_GIVE_CTF}."
        )
    values = _as_float64(rows)
    for column, (name, (low, high, what)) in zip(values.T, _COLUMNS.items(), strict=True):
        _refuse(path, ~((column >= low) & (column <= high)), f"{name} {{}} is not {what}", column)
    # Stored as float32: rounding gives 2.7 mm back for 2.70000005.
    constants = np.round(values[:, [0, 1, 5, 6, 7]], 6)
    return CryodrgnCtf(
        box_size_px=constants[:, 0],
        pixel_size_A=constants[:, 1],
        defocus_A=np.ascontiguousarray(values[:, 2:4]),
        astigmatism_deg=values[:, 4].copy(),
        phase_shift_deg=values[:, 8].copy(),
        instrument=constants[:, 2:],
    )


def read_cryodrgn_poses(path: Path) -> CryodrgnPoses:
    """Read a `poses.pkl`: `(rotations, translations)`, `(rotations,)`, or the rotations alone.

    Raises
    ------
    ParticleFileError: it is not one, or a row is no rotation, or its translation is not a fraction of the box.
    """
    arrays = load_arrays(path, _GIVE_POSES)
    rotations = arrays[0]
    n = len(rotations) if rotations.ndim else 0
    shapes = [array.shape for array in arrays]
    if not n or shapes not in ([(n, 3, 3)], [(n, 3, 3), (n, 2)]):
        raise ParticleFileError(
            f"{path}: holds {_describe(arrays)}; poses are rotations of shape (n, 3, 3) and translations of "
            f"shape (n, 2): {_GIVE_POSES}."
        )
    rotations = _as_float64(rotations)
    with np.errstate(all="ignore"):  # of what is not finite
        deviation = _deviation(rotations)
    _refuse(path, ~(deviation <= _ORTHONORMAL), "the matrix is no rotation (its rows are not orthonormal)")
    _refuse(
        path,
        np.einsum("ni,ni->n", np.cross(rotations[:, 0], rotations[:, 1]), rotations[:, 2]) < 0,
        "the matrix is a reflection (determinant -1), not a rotation; to change the hand, reflect map and poses "
        "together",
    )
    origins = _as_float64(arrays[1]) if len(arrays) == 2 else np.zeros((n, 2))
    _refuse(path, np.isnan(origins).max(axis=1), "the translation is not finite")
    _refuse(
        path,
        np.abs(origins).max(axis=1) > 1,
        "the translation is {}, more than a box: it seems to be in pixels, as early versions of cryoDRGN wrote it, "
        "and must be a fraction of the box size",
        origins,
    )
    return CryodrgnPoses(rotations, origins)


def _deviation(matrices: FloatArray) -> FloatArray:
    """`(n,)` largest deviation of the rows' inner products from those of a rotation."""
    largest = np.zeros(len(matrices))
    for i, j in combinations_with_replacement(range(3), 2):
        product = np.einsum("ni,ni->n", matrices[:, i], matrices[:, j])
        np.maximum(largest, np.abs(product - (i == j)), out=largest)
    return largest


def _as_float64(values: NDArray[Any]) -> FloatArray:
    with np.errstate(invalid="ignore"):  # of a signalling NaN, refused later like any other
        return np.require(values, np.float64, "W")  # those of a pickle are views of its bytes


def _refuse(path: Path, bad: NDArray[np.bool_], what: str, values: FloatArray | None = None) -> None:
    """Raise for the first bad row, its value in place of the brackets."""
    if bad.any():
        row = int(np.argmax(bad))
        found = "" if values is None else np.array2string(values[row], precision=6)
        raise ParticleFileError(
            f"{path}: particle {row + 1}: {what.format(found)}. Correct the row ({np.count_nonzero(bad)} such), or "
            "make the file again from the refinement's."
        )


def _describe(arrays: tuple[NDArray[Any], ...]) -> str:
    shapes = ", ".join(str(array.shape) for array in arrays[:4])
    return f"an array of shape {shapes}" if len(arrays) == 1 else f"{len(arrays)} arrays of shapes {shapes}"

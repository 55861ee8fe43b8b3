"""Particles from cryoSPARC's `.cs` files.

| column | taken as |
|---|---|
| `blob/path`, `blob/idx` | stack (one leading `>` stripped) and image, counted from 0 |
| `blob/psize_A`, `blob/shape` | pixel and box size of the images; without a shape the stacks tell |
| `blob/sign` | -1 where the particles are dark: a factor of the CTF |
| `alignments3D/pose` | rotation vector in radians, of the transpose of our pose |
| `alignments3D/shift` | RELION's origin, in pixels of `alignments3D/psize_A` |
| `alignments3D/split` | half set: 0, 1 for 1, 2 |
| `alignments3D_multi/...`, `alignments_class_0/...` | the same for each class: see `cs_alignments` |
| `ctf/accel_kv`, `cs_mm`, `amp_contrast`, `exp_group_id` | optics groups |
| `ctf/df1_A`, `df2_A`, `df_angle_rad`, `phase_shift_rad` | defocus U, V, astigmatism, phase shift |
| `ctf/scale`, `bfactor` | envelope |
| `ctf/tilt_A`, `trefoil_A`, `tetra_A`, `shift_A`, `anisomag` | refused unless 0: not modelled |
| `location/micrograph_uid`, `micrograph_path` | micrographs; without them those of one stack are of one micrograph |
| `uid` | joins passthrough files, which hold what a job did not change |

That image times `blob/sign` shows white particles, and that `anisomag` is the magnification matrix less the identity,
is inferred from files (extracted and imported dark particles have -1), not stated by cryoSPARC's makers. An image of
sign -1 under a CTF is one of sign +1 under minus that CTF, so the sign goes into `Particles.ctf_scale`, where every
comparison of images and projections meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gem3d.errors import ParticleFileError, warn
from gem3d.particles.cs_alignments import MULTI, SINGLE, Alignments, find_alignments
from gem3d.particles.cs_file import CsFile, open_cs
from gem3d.particles.cs_optics import CTF_NEEDED, ctf_columns, optics_groups, refuse_extras
from gem3d.particles.cs_table import CsTable, passthrough_beside
from gem3d.particles.particles import Particles

_MICROGRAPH = {"location/micrograph_uid": ("iu", ()), "location/micrograph_path": ("SU", ())}
_COLUMNS = _MICROGRAPH | {
    "blob/path": ("SU", ()),
    "blob/idx": ("iu", ()),
    "blob/psize_A": ("f", ()),
    "blob/shape": ("iu", (2,)),
    "blob/sign": ("if", ()),
}
_NEEDED = ("blob/path", "blob/idx", "blob/psize_A")
# Beyond these limits a unit is mistaken, or the file is damaged.
_PIXEL_SIZE = (0.05, 100.0, "a pixel size in A")
_SHIFT = (-100_000.0, 100_000.0, "a shift in pixels")
_POSE = (-1000.0, 1000.0, "a rotation vector in radians")

_GIVE_3D = (
    "give the particles of a 3D refinement (cryosparc_P*_J*_*_particles.cs of a homogeneous, non-uniform or local "
    "refinement)"
)


def read_cryosparc(
    path: Path | str, *, ctf: bool = True, ignore_extras: bool = False, passthrough: Sequence[Path] = ()
) -> Particles:
    """Read a refined particle set.

    Parameters
    ----------
    path: a particle `.cs` file of cryoSPARC 2 to 5, as a numpy array.
    ctf: False (`--no-ctf`) for images without a CTF: the CTF columns are not needed and not read, and the
        optics returned have a CTF of 1 everywhere (-1 for images of sign -1).
    ignore_extras: True (`--ignore-optics-extras`) goes on with a warning where the file asks for beam tilt,
        higher aberrations or a magnification matrix, none of which this version models.
    passthrough: further `.cs` files of the same job. A group of columns, such as `ctf/`, is taken from the first
        file that has it, the particle file before these.

    Returns
    -------
    Particles, with `box_size_px` 0 where the file does not give it: `fill_box_size` takes it from the stacks.

    Raises
    ------
    ParticleFileError: naming the file, the column, and the particle where one row is at fault.
    """
    files = [open_cs(Path(file)) for file in (path, *passthrough)]
    alignments = find_alignments(files)
    _require(files, "blob", "where the images lie")
    if alignments is None:
        raise _without_alignments(files)
    if ctf:
        _require(files, "ctf", "the CTF (for images without one pass --no-ctf)")
    table = CsTable(files, _COLUMNS | ctf_columns(ctf), alignments)
    for column in (*_NEEDED, *(CTF_NEEDED if ctf else ())):
        table.require(column)
    table.refuse_outside("blob/psize_A", *_PIXEL_SIZE)
    refuse_extras(table, ignore_extras)
    _warn_of_classes(table, alignments)
    stack_index, stacks = _stacks(table)
    optics, optics_index = optics_groups(table, table.values("blob/psize_A"), _box_size(table), ctf)
    return Particles(
        rotations=_rotations(table, alignments),
        shifts_A=_shifts_A(table, alignments),
        # With --no-ctf its columns were not read, and the defaults stand.
        defocus_A=np.stack([table.numbers(f"ctf/df{axis}_A", 0.0) for axis in (1, 2)], axis=1),
        astigmatism_deg=np.rad2deg(table.numbers("ctf/df_angle_rad", 0.0)),
        phase_shift_deg=np.rad2deg(table.numbers("ctf/phase_shift_rad", 0.0)),
        ctf_bfactor_A2=table.numbers("ctf/bfactor", 0.0),
        ctf_scale=table.numbers("ctf/scale", 1.0) * _sign(table),
        contrast=np.ones(len(table)),
        optics_index=optics_index,
        micrograph_index=_micrographs(table, stack_index),
        half_set=_half_set(table, alignments),
        stack_index=stack_index,
        image_index=_image_index(table),
        source_row=np.arange(len(table), dtype=np.int32),
        stacks=stacks,
        optics=optics,
        source=Path(path),
        image_column="blob/path",
        half_set_column=alignments.column("split"),
    )


@dataclass(frozen=True)
class CsImages:
    """The images that a file lists, whatever it says of poses; see `Particles`, and `sign`: -1 for dark particles."""

    stack_index: NDArray[np.int32]
    image_index: NDArray[np.int32]
    micrograph_index: NDArray[np.int32]
    half_set: NDArray[np.int8]
    stacks: tuple[str, ...]
    sign: NDArray[np.float64]


def read_cs_images(path: Path) -> CsImages:
    """Read a `.cs` file as a list of images.

    Raises
    ------
    ParticleFileError
    """
    files = [open_cs(path)]
    _require(files, "blob", "where the images lie")
    alignments = find_alignments(files)
    table = CsTable(files, _COLUMNS, alignments)
    for column in ("blob/path", "blob/idx"):
        table.require(column)
    stack_index, stacks = _stacks(table)
    return CsImages(
        stack_index=stack_index,
        image_index=_image_index(table),
        micrograph_index=_micrographs(table, stack_index),
        half_set=np.zeros(len(table), np.int8) if alignments is None else _half_set(table, alignments),
        stacks=stacks,
        sign=_sign(table),
    )


def _require(files: Sequence[CsFile], group: str, what: str) -> None:
    if not any(file.has_group(group) for file in files):
        raise ParticleFileError(
            f"{files[0].path}: has no columns {group}/...: {what}. {_advise_passthrough(files, group)}"
        )


def _advise_passthrough(files: Sequence[CsFile], group: str) -> str:
    path = files[0].path
    if len(files) > 1:
        return (
            f"Nor has {', '.join(str(file.path) for file in files[1:])}; give the job's own passthrough file."
        )
    if "passthrough" in path.name:
        return "It is a passthrough file: give the job's particle file, and this one with --passthrough."
    other = passthrough_beside(path, group)
    if other is not None:
        return f"The file beside it has them: pass it with --passthrough {other}"
    return (
        "If the job has a passthrough file (..._passthrough_particles.cs), pass it with --passthrough FILE."
    )


def _without_alignments(files: Sequence[CsFile]) -> ParticleFileError:
    path = files[0].path
    flat = any(file.has_group("alignments2D") for file in files)
    holds = "holds 2D alignments only" if flat else "holds no 3D alignments (alignments3D/pose)"
    if "passthrough" in path.name:
        return ParticleFileError(f"{path}: {holds}. {_advise_passthrough(files, SINGLE)}")
    for group in (SINGLE, MULTI) if len(files) == 1 else ():
        if passthrough_beside(path, group) is not None:
            return ParticleFileError(f"{path}: {holds}. {_advise_passthrough(files, group)}")
    return ParticleFileError(f"{path}: {holds}; {_GIVE_3D}.")


def _warn_of_classes(table: CsTable, alignments: Alignments) -> None:
    if alignments.n_classes == 0:
        return
    table.values(alignments.column("class_posterior"))
    used = np.unique(table.values(alignments.column("class")))
    if len(used) > 1:
        warn(
            f"{table.path}: the particles are of {len(used)} classes, each with the pose in its most probable one "
            f"({alignments.column('class_posterior')}), and all go into one map; where the classes differ, give the "
            "particles of one class"
        )


def _stacks(table: CsTable) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    index, paths = table.text("blob/path")
    names = [path.removeprefix(">") for path in paths]
    table.refuse("blob/path", np.array([not name for name in names])[index], "is empty; remove the particle")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int32)[index], tuple(numbers)


def _image_index(table: CsTable) -> NDArray[np.int32]:
    values = table.values("blob/idx")
    table.refuse(
        "blob/idx",
        (values < 0) | (values > np.iinfo(np.int32).max),
        "is not the number of an image, counted from 0; correct or remove the particle",
    )
    return values.astype(np.int32)


def _box_size(table: CsTable) -> NDArray[np.int64]:
    """`(n,)`, 0 where the file does not say."""
    if "blob/shape" not in table:
        return np.zeros(len(table), np.int64)
    shape = table.values("blob/shape")
    bad = (shape[:, 0] != shape[:, 1]) | (shape[:, 0] < 1) | (shape[:, 0] > np.iinfo(np.int32).max)
    table.refuse("blob/shape", bad, "is no square image; extract the particles in square boxes")
    box_size: NDArray[np.int64] = shape[:, 0].astype(np.int64)
    return box_size


def _rotations(table: CsTable, alignments: Alignments) -> NDArray[np.float64]:
    """`(n, 3, 3)`: the transpose of the turn by cryoSPARC's rotation vector."""
    column = alignments.column("pose")
    table.refuse_outside(column, *_POSE)
    matrices = Rotation.from_rotvec(table.numbers(column)).as_matrix()
    return np.ascontiguousarray(matrices.transpose(0, 2, 1))


def _shifts_A(table: CsTable, alignments: Alignments) -> NDArray[np.float64]:
    """`(n, 2)` where the projected centre appears: minus RELION's origin."""
    column = alignments.column("psize_A")
    shift_px = table.numbers(alignments.column("shift"))
    table.refuse_outside(alignments.column("shift"), *_SHIFT)
    table.refuse_outside(column, *_PIXEL_SIZE)
    if column not in table:
        if shift_px.any():
            warn(
                f"{table.path}: column {column} is missing, so the shifts are taken in pixels of blob/psize_A; they "
                "come out wrong if the refinement binned the images"
            )
        column = "blob/psize_A"
    return 0.0 - shift_px * table.numbers(column)[:, None]


def _sign(table: CsTable) -> NDArray[np.float64]:
    sign = table.numbers("blob/sign", 1.0)
    if "blob/sign" in table:
        table.refuse("blob/sign", np.abs(sign) != 1, "is neither 1 nor -1; correct or remove the particle")
    return sign


def _micrographs(table: CsTable, stack_index: NDArray[np.int32]) -> NDArray[np.int32]:
    """Micrograph of each particle; where the file does not tell them apart, those of one stack are of one."""
    for column in _MICROGRAPH:
        if column in table:
            numbers, _ = table.numbered(column)
            if numbers.any():
                return numbers
    return stack_index.copy()


def _half_set(table: CsTable, alignments: Alignments) -> NDArray[np.int8]:
    column = alignments.column("split")
    if column not in table:
        return np.zeros(len(table), np.int8)
    split = table.values(column)
    table.refuse(
        column,
        (split != 0) & (split != 1),
        "is neither 0 nor 1; give the particles of a refinement of two half sets",
    )
    return (split + 1).astype(np.int8)

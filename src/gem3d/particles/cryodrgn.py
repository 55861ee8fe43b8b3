"""Particles as cryoDRGN takes them: a list of images, and pickles of their poses and CTFs, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError, SettingsError, warn
from gem3d.particles.cryodrgn_tables import CryodrgnCtf, read_cryodrgn_ctf, read_cryodrgn_poses
from gem3d.particles.image_lists import read_image_list
from gem3d.particles.mrc_stack import MrcStack
from gem3d.particles.optics_groups import OpticsColumns, find_optics_groups
from gem3d.particles.particles import OpticsGroup, Particles

# The only list of images that may hold half sets.
_HALF_SET_COLUMN = "rlnRandomSubset (of a STAR file, given as the list of images)"


def read_cryodrgn(
    path: Path | str,
    poses: Path,
    ctf_table: Path | None = None,
    *,
    ctf: bool = True,
    datadir: Path | None = None,
    pixel_size_A: float | None = None,
) -> Particles:
    """Read a list of images with its poses and CTFs.

    Parameters
    ----------
    path: the images, see `read_image_list`. What else a STAR file says of poses and optics is not used.
    poses: `poses.pkl`.
    ctf_table: `ctf.pkl`, in which the box and pixel size stand too. Where the images have another box size than it
        says they are taken as downsampled: the box is as wide in A, and the pixels are larger.
    ctf: False (`--no-ctf`) for images without a CTF: of the table only the pixel size is used, and it may be missing.
    datadir: folder that relative stack paths begin in; see `ImageSource`.
    pixel_size_A: of the images, instead of what the table, or without one the stack's header, says.

    Raises
    ------
    Gem3dError: one of the files is at fault, or they are not of the same particles.
    """
    path = Path(path)
    if ctf and ctf_table is None:
        raise SettingsError(
            f"--poses {poses}: cryoDRGN keeps the CTF in another file; give ctf.pkl with --ctf, or --no-ctf if the "
            "images have none"
        )
    images, pose = read_image_list(path, datadir), read_cryodrgn_poses(poses)
    table = None if ctf_table is None else read_cryodrgn_ctf(ctf_table)
    n = len(images)
    counts = {f"images in {path}": n, f"poses in {poses}": len(pose)}
    if table is not None:
        counts[f"rows in {ctf_table}"] = len(table)
    _refuse_unequal(counts)
    if pixel_size_A is not None:
        pixel_sizes_A = np.full(n, pixel_size_A)
    elif table is not None:
        pixel_sizes_A = _scaled_pixel_sizes_A(table, str(ctf_table), images.first_stack)
    else:
        pixel_sizes_A = np.full(n, _header_pixel_size_A(images.first_stack))
    box_size_px = images.first_stack.box_size_px
    with_ctf = table if ctf else None
    optics, optics_index = _optics(pixel_sizes_A, box_size_px, with_ctf)
    return Particles(
        rotations=pose.rotations,
        shifts_A=0.0 - pose.origins_boxes * (pixel_sizes_A * box_size_px)[:, None],
        defocus_A=np.zeros((n, 2)) if with_ctf is None else with_ctf.defocus_A,
        astigmatism_deg=np.zeros(n) if with_ctf is None else with_ctf.astigmatism_deg,
        phase_shift_deg=np.zeros(n) if with_ctf is None else with_ctf.phase_shift_deg,
        ctf_bfactor_A2=np.zeros(n),
        ctf_scale=images.sign,
        contrast=np.ones(n),
        optics_index=optics_index,
        micrograph_index=images.micrograph_index,
        half_set=images.half_set,
        stack_index=images.stack_index,
        image_index=images.image_index,
        source_row=np.arange(n, dtype=np.int32),
        stacks=images.stacks,
        optics=optics,
        source=path,
        image_column=images.image_column,
        half_set_column=_HALF_SET_COLUMN,
    )


def _refuse_unequal(counts: dict[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {what}" for what, count in counts.items())
        raise ParticleFileError(
            f"{listed}: they must be of the same particles in the same order. Give the files that were made from one "
            "another in full; an index file (--ind) then chooses rows of all of them. Where the stack holds chosen "
            "particles only, choose the same rows of the pickles first."
        )


def _scaled_pixel_sizes_A(table: CryodrgnCtf, name: str, stack: MrcStack) -> NDArray[np.float64]:
    """`(n,)` pixel sizes of images that may have been downsampled since the table was made."""
    box = stack.box_size_px
    other = table.box_size_px != box
    scaled: NDArray[np.float64] = table.pixel_size_A * table.box_size_px / box
    if other.any():
        row = int(np.argmax(other))
        was = f"{table.box_size_px[row]:g} px"
        if box % 2:
            raise ParticleFileError(
                f"{stack.path}: images of {box} px, but {name} is of images of {was}; an odd size suggests the "
                "output of `cryodrgn preprocess`, which is transforms: give the images that it was made from."
            )
        warn(
            f"{stack.path}: images of {box} px, but {name} is of images of {was} and {table.pixel_size_A[row]:g} A a "
            f"pixel: taken as downsampled, with pixels of {scaled[row]:.6g} A. If they were cropped instead, give "
            "the pixel size with --pixel-size"
        )
    return scaled


def _header_pixel_size_A(stack: MrcStack) -> float:
    if stack.pixel_size_A <= 0:
        raise ParticleFileError(
            f"{stack.path}: its header has no pixel size; give it with --pixel-size, or the ctf.pkl that has it with "
            "--ctf."
        )
    warn(
        f"{stack.path}: pixels of {stack.pixel_size_A:g} A, as its header says; some programs write 1 A whatever it "
        "is, so give it with --pixel-size if that is wrong"
    )
    return stack.pixel_size_A


def _optics(
    pixel_sizes_A: NDArray[np.float64], box_size_px: int, table: CryodrgnCtf | None
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int32]]:
    box_sizes_px = np.full(len(pixel_sizes_A), box_size_px)
    optics = OpticsColumns.without_ctf(pixel_sizes_A, box_sizes_px)
    if table is not None:
        optics = OpticsColumns(pixel_sizes_A, box_sizes_px, *table.instrument.T)
    return find_optics_groups(
        np.zeros(len(pixel_sizes_A), np.int64),
        optics,
        lambda first: [f"opticsGroup{number}" for number in range(1, len(first) + 1)],
    )

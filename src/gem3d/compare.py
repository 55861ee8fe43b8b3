"""Two map files compared: what `gem3d fsc` prints."""

from __future__ import annotations

import math
from pathlib import Path

from gem3d.assess import fourier_shell_correlation, resolution_at
from gem3d.errors import MapError, SettingsError, warn
from gem3d.maps import read_cube, read_mask

PIXEL_TOLERANCE = 0.005


def compare_maps(
    a_file: Path, b_file: Path, *, mask_file: Path | None = None, pixel_size_A: float | None = None
) -> str:
    """FSC of two map files as CSV (shell, resolution in A, FSC), then comment lines with the crossings.

    Parameters
    ----------
    mask_file: multiplies both maps.
    pixel_size_A: instead of the headers'.

    Raises
    ------
    MapError
        if a file is unreadable, or box or pixel sizes differ.
    """
    a, b = read_cube(a_file), read_cube(b_file)
    box = len(a.values)
    if len(b.values) != box:
        raise MapError(
            f"{b_file}: a box of {len(b.values)} voxels, but {a_file} has {box}; resample one of them"
        )
    pixel_A = common_pixel_size_A(pixel_size_A, {a_file: a.voxel_size_A, b_file: b.voxel_size_A})
    mask = None if mask_file is None else read_mask(mask_file, box).values
    curve = fourier_shell_correlation(a.values, b.values, mask)
    lines = ["shell,resolution_A,fsc"]
    for shell, value in enumerate(curve):
        lines.append(f"{shell},{f'{box * pixel_A / shell:.3f}' if shell else ''},{value:.4f}")
    for threshold in (0.5, 0.143):
        found = resolution_at(curve, threshold, pixel_A, box)
        lines.append(f"# FSC {threshold}: {found.words}")
    return "\n".join(lines) + "\n"


def common_pixel_size_A(given_A: float | None, in_headers: dict[Path, float]) -> float:
    """The pixel size given on the command line, or the one that all headers agree on.

    Raises
    ------
    MapError, SettingsError
    """
    if given_A is not None:
        if not 0 < given_A < math.inf:
            raise SettingsError(f"--pixel-size {given_A:g}: give a positive number of A")
        return given_A
    stated = {path: size for path, size in in_headers.items() if size > 0}
    if not stated:
        raise MapError(
            f"{next(iter(in_headers))}: the header does not state the pixel size; give --pixel-size"
        )
    (first, size_A), *others = stated.items()
    for other, other_A in others:
        if abs(other_A / size_A - 1) > PIXEL_TOLERANCE:
            raise MapError(
                f"{other}: a pixel size of {other_A:g} A, but {first} has {size_A:g}; resample one of them, or "
                "say which is right with --pixel-size"
            )
    for path in in_headers.keys() - stated.keys():
        warn(f"{path}: the header does not state the pixel size; taken to be {size_A:g} A")
    return size_A

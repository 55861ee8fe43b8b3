"""Density maps: MRC files in and out, and resampling in Fourier space.

Maps are `[z, y, x]` with the rotation centre at index n//2 of every axis, for even and odd n.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gem3d.atomic import replacing
from gem3d.errors import MapError
from gem3d.mrc_volume import read_mrc_volume

# Cell sizes are float32 and programs round them; voxels that differ by more than this are meant to differ.
CUBIC_TOLERANCE = 1e-3
# How far resampling may carry a mask beyond 0 to 1.
MASK_TOLERANCE = 1e-3
# What lies inside of a mask is told by this value in more than one place.
LEAST_MASK_MAXIMUM = 0.5
MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".rec")


@dataclass(frozen=True)
class Map:
    """A density map.

    Attributes
    ----------
    values: `(nz, ny, nx)` float32.
    voxel_size_A: edge of the cubic voxel; 0 where the header does not say.
    origin_A: x, y, z of the first voxel as the MRC-2014 `origin` words have it.
    start: x, y, z index of the first voxel in the cell (`nxstart`, ...), the older way to place a map.
    """

    values: NDArray[np.float32]
    voxel_size_A: float
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: tuple[int, int, int] = (0, 0, 0)


def read_map(path: str | Path) -> Map:
    """Read an MRC/CCP4 map, plain or packed by gzip or bzip2; its axes are brought into the order z, y, x.

    Odd machine stamps and the like are tolerated, missing data are not.

    Raises
    ------
    MapError
        if the file is missing, not an MRC map, truncated, not a real volume, not finite, or its voxels are
        not cubes.
    """
    path = Path(path)
    header, data = read_mrc_volume(path)
    file_axes = header.words[16:19].tolist()[::-1]  # maps, mapr, mapc: slowest first; 1, 2, 3 = x, y, z
    start_of_axis = dict(zip(file_axes, header.words[4:7].tolist()[::-1], strict=True))
    if sorted(file_axes) == [1, 2, 3]:
        data = data.transpose([file_axes.index(axis) for axis in (3, 2, 1)])
    elif set(file_axes) == {0}:  # some programs leave these words empty
        start_of_axis = dict.fromkeys((1, 2, 3), 0)
    else:
        raise MapError(f"{path}: axis words mapc, mapr, maps are {file_axes[::-1]}, not an order of 1, 2, 3")

    with np.errstate(invalid="ignore"):  # of a signalling NaN of 16 bits, found below
        values = np.ascontiguousarray(data, dtype=np.float32)
    if data.dtype.kind == "f" and not np.isfinite(values).all():
        raise MapError(f"{path}: {np.count_nonzero(~np.isfinite(values))} voxels are NaN or infinite")
    # One axis may lack its number of samples.
    sizes_A = [size for size in header.voxel_size_A if size > 0] or [0.0]
    if max(sizes_A) - min(sizes_A) > CUBIC_TOLERANCE * max(sizes_A):
        sizes = " x ".join(f"{size:g}" for size in header.voxel_size_A)
        raise MapError(f"{path}: voxels are not cubes ({sizes} A); resample the map")
    x, y, z = header.floats[49:52].tolist()
    if not np.isfinite([x, y, z]).all():
        raise MapError(f"{path}: damaged: its origin words are {x:g}, {y:g}, {z:g}; set them to 0")
    return Map(values, sizes_A[0], (x, y, z), (start_of_axis[1], start_of_axis[2], start_of_axis[3]))


def read_cube(path: str | Path) -> Map:
    """Read a map whose three sides are equal.

    Raises
    ------
    MapError
    """
    found = read_map(path)
    if len(set(found.values.shape)) != 1:
        size = " x ".join(str(n) for n in found.values.shape[::-1])
        raise MapError(f"{path}: {size} voxels; a cube is needed, so pad or crop the map")
    return found


def read_mask(path: str | Path, box_size_px: int) -> Map:
    """Read a mask for maps of `(D, D, D)`: values in 0 to 1, not all zero.

    Raises
    ------
    MapError
    """
    found = read_cube(path)
    lowest, highest = float(found.values.min()), float(found.values.max())
    if len(found.values) != box_size_px:
        has, needed = (" x ".join([str(n)] * 3) for n in (len(found.values), box_size_px))
        raise MapError(
            f"{path}: the mask has a box of {has} voxels, {needed} are needed; resample it to the box and pixel "
            "size of the maps"
        )
    if highest <= 0:
        raise MapError(f"{path}: the mask is zero everywhere; give another")
    if highest <= LEAST_MASK_MAXIMUM:
        raise MapError(
            f"{path}: no value above {LEAST_MASK_MAXIMUM:g} (the highest is {highest:g}); a mask is 1 in the particle"
        )
    if lowest < -MASK_TOLERANCE or highest > 1 + MASK_TOLERANCE:
        raise MapError(f"{path}: values from {lowest:g} to {highest:g}; a mask lies in 0 to 1")
    return found


def write_map(
    path: str | Path,
    values: NDArray[np.floating],
    voxel_size_A: float,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Write a volume `(nz, ny, nx)` as MRC mode 2; a reader sees the old file or the whole new one.

    Parameters
    ----------
    origin_A: x, y, z of the first voxel, where viewers such as ChimeraX place it.
    """
    path = Path(path)
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim != 3 or values.size == 0:
        raise MapError(f"{path}: cannot write an array of shape {values.shape} as a map")
    if not np.isfinite(values).all():
        raise MapError(f"{path}: not written: {np.count_nonzero(~np.isfinite(values))} voxels are not finite")
    with replacing(path, MapError) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(values)
        mrc.set_volume()
        mrc.voxel_size = voxel_size_A
        mrc.header.origin.x, mrc.header.origin.y, mrc.header.origin.z = origin_A
        mrc.header.label[0] = "gem3d"  # mrcfile's own label holds the time: equal maps, unequal files


def fourier_resample(values: NDArray[np.floating], new_size: int) -> NDArray[np.float32]:
    """Sample a cubic map on a coarser or finer grid over the same box, by cropping or padding its transform.

    The centre stays at n//2 and densities keep their values. Of an even grid the Nyquist planes are left out:
    they hold one of two conjugate halves, and cropping would take it for the whole.

    Parameters
    ----------
    values: `(n, n, n)`
    new_size: m, voxels along an edge; the new voxel size is the old one times n / m.

    Returns
    -------
    `(m, m, m)` float32.
    """
    n = values.shape[0]
    if values.ndim != 3 or values.shape != (n, n, n) or new_size < 1:
        raise MapError(f"cannot resample an array of shape {values.shape} to {new_size}: both must be cubes")
    if new_size == n:
        return np.array(values, dtype=np.float32)
    transform = scipy.fft.rfftn(scipy.fft.ifftshift(values.astype(np.float32)))
    half = (min(n, new_size) - 1) // 2  # the highest frequency that both grids have without Nyquist
    resampled = np.zeros((new_size, new_size, new_size // 2 + 1), dtype=transform.dtype)
    kept = np.arange(-half, half + 1)
    resampled[np.ix_(kept, kept, kept[half:])] = transform[np.ix_(kept, kept, kept[half:])]
    volume = scipy.fft.irfftn(resampled, s=(new_size,) * 3)
    return np.ascontiguousarray(scipy.fft.fftshift(volume) * (new_size / n) ** 3, dtype=np.float32)

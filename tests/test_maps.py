"""MRC files in and out, and Fourier resampling."""

from __future__ import annotations

import bz2
import gzip
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gem3d.errors import MapError
from gem3d.maps import fourier_resample, read_map, write_map

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"reference data not at {DATA}")


def random_volume(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def smooth_volume(size: int, voxel_size_A: float) -> np.ndarray:
    """A Gaussian of 4 A around (5, -3, 2) A from the centre n//2."""
    r = (np.arange(size) - size // 2) * voxel_size_A
    z, y, x = np.meshgrid(r, r, r, indexing="ij")
    return np.exp(-((x - 5) ** 2 + (y + 3) ** 2 + (z - 2) ** 2) / (2 * 4.0**2)).astype(np.float32)


def test_round_trip(tmp_path: Path) -> None:
    path, values = tmp_path / "a.mrc", random_volume((5, 6, 7))
    write_map(path, values, 1.37)
    read = read_map(path)
    np.testing.assert_array_equal(read.values, values)
    assert read.voxel_size_A == pytest.approx(1.37, rel=1e-6)
    assert read.start == (0, 0, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrc"]
    with mrcfile.open(path) as mrc:
        assert (int(mrc.header.mode), int(mrc.header.ispg), int(mrc.header.mz)) == (2, 1, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mrcfile's validator reports through warnings too
        assert mrcfile.validate(path)


def test_equal_maps_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.mrc", "b.mrc"):
        write_map(tmp_path / name, random_volume((4, 4, 4)), 1.0)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path, values = tmp_path / "a.mrc", random_volume((4, 4, 4))
    write_map(path, values, 1.0)
    with pytest.raises(MapError, match=r"a\.mrc"):
        write_map(path, values[0], 1.0)
    np.testing.assert_array_equal(read_map(path).values, values)
    with pytest.raises(MapError, match="not finite"):
        write_map(path, values * np.inf, 1.0)
    np.testing.assert_array_equal(read_map(path).values, values)
    with pytest.raises(MapError, match="cannot be written"):
        write_map(tmp_path / "no_folder" / "a.mrc", values, 1.0)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 1, 2), (2, 3, 1), (2, 1, 3), (3, 2, 1)])
def test_axis_order(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    values = random_volume((4, 5, 6))
    order = [3 - axis for axis in axes[::-1]]  # array axis of the file's slowest, middle, fastest
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(np.ascontiguousarray(values.transpose(order)))
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = axes
        mrc.header.mx, mrc.header.my, mrc.header.mz = 6, 5, 4
        mrc.header.cella = (12.0, 10.0, 8.0)
        mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = (10 * axis for axis in axes)
    read = read_map(tmp_path / "a.mrc")
    np.testing.assert_array_equal(read.values, values)
    assert read.voxel_size_A == 2.0
    assert read.start == (10, 20, 30)


def test_odd_machine_stamp_and_empty_map_word(tmp_path: Path) -> None:
    path, values = tmp_path / "a.mrc", random_volume((4, 4, 4))
    write_map(path, values, 1.5)
    raw = bytearray(path.read_bytes())
    raw[208:216] = bytes(8)  # "MAP " and the machine stamp
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_map(path).values, values)


def test_other_types(tmp_path: Path) -> None:
    for dtype in (np.int8, np.int16, np.uint16, np.float16):
        values = np.arange(64).reshape(4, 4, 4).astype(dtype)
        with mrcfile.new(tmp_path / f"{np.dtype(dtype)}.mrc") as mrc:
            mrc.set_data(values)
        np.testing.assert_array_equal(read_map(tmp_path / f"{np.dtype(dtype)}.mrc").values, values)


def test_unreadable_files(tmp_path: Path) -> None:
    write_map(tmp_path / "whole.mrc", random_volume((8, 8, 8)), 1.0)
    whole = (tmp_path / "whole.mrc").read_bytes()
    (tmp_path / "nan.mrc").write_bytes(whole[:-4] + np.float32(np.nan).tobytes())
    (tmp_path / "short.mrc").write_bytes(whole[:2000])
    (tmp_path / "empty.mrc").touch()
    (tmp_path / "text.mrc").write_text("not a map\n" * 300)
    with mrcfile.new(tmp_path / "flat.mrc") as mrc:
        mrc.set_data(random_volume((4, 4, 4))[0])
    with mrcfile.new(tmp_path / "bricks.mrc") as mrc:
        mrc.set_data(random_volume((4, 4, 4)))
        mrc.voxel_size = (1.0, 1.0, 1.1)
    for name in ("nan", "short", "empty", "text", "flat", "bricks", "absent"):
        with pytest.raises(MapError, match=rf"{name}\.mrc"):
            read_map(tmp_path / f"{name}.mrc")


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("word", [0, 2, 23])  # nx, nz, size of the extended header
def test_sizes_are_claims(tmp_path: Path, word: int, packed: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.mrc"
    write_map(path, random_volume((8, 8, 8)), 1.0)
    raw = bytearray(path.read_bytes())
    for value in (2**31 - 1, -(2**31), -1, 0) if word != 23 else (2**31 - 1, -(2**31)):
        raw[4 * word : 4 * word + 4] = struct.pack("<i", value)
        path.write_bytes(packed(bytes(raw)))
        tracemalloc.start()
        try:
            with pytest.raises(MapError, match=r"a\.mrc"):
                read_map(path)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(raw) + 2**24  # bzip2 takes some
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_maps(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path, values = tmp_path / "a.mrc", random_volume((4, 4, 4))
    write_map(path, values, 1.5)
    path.write_bytes(pack(path.read_bytes()))
    np.testing.assert_array_equal(read_map(path).values, values)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MapError, match=r"a\.mrc"):
        read_map(path)


@needs_data
def test_published_maps() -> None:
    read = read_map(DATA / "formats" / "EMD-3197.map")
    assert read.values.shape == (20, 20, 20)
    assert read.voxel_size_A == pytest.approx(11.4)
    assert read.start == (-2, 0, 0)
    with pytest.raises(MapError, match=r"EMD-3001\.map.*not cubes"):
        read_map(DATA / "formats" / "EMD-3001.map")


@pytest.mark.parametrize(("size", "new_size"), [(64, 48), (64, 49), (65, 48), (65, 49), (48, 64), (49, 64)])
def test_resampling_keeps_the_density(size: int, new_size: int) -> None:
    box_A = 128.0
    resampled = fourier_resample(smooth_volume(size, box_A / size), new_size)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, smooth_volume(new_size, box_A / new_size), atol=2e-5)


def test_resampling_there_and_back() -> None:
    for size, middle in ((15, 22), (15, 23), (16, 23)):
        values = fourier_resample(
            random_volume((size,) * 3), middle
        )  # has no Nyquist plane of the small grid
        back = fourier_resample(fourier_resample(values, size), middle)
        np.testing.assert_allclose(back, values, atol=1e-5)
    same = random_volume((9, 9, 9))
    np.testing.assert_array_equal(fourier_resample(same, 9), same)
    with pytest.raises(MapError, match="cubes"):
        fourier_resample(random_volume((4, 4, 5)), 8)

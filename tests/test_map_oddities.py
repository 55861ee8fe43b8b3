"""Maps as they are found in archives, and files that are none."""

from __future__ import annotations

import bz2
import gzip
import lzma
import resource
from pathlib import Path

import numpy as np
import pytest

from gem3d.errors import Gem3dError, MapError
from gem3d.gaussians import load_gaussians
from gem3d.maps import read_cube, read_map, read_mask, write_map
from gem3d.reference_map import read_reference
from test_stack_oddities import things_that_are_no_files, write

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"
needs_shared = pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared reference data is not here")


def volume(n: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (n, n, n)).astype(np.float32)


def float_word(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def refusal(path: Path) -> str:
    with pytest.raises(MapError) as error:
        read_map(path)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stamp", [b"DD\0\0", b"\x11\x11\0\0", b"\0\0\0\0", b"D   ", b"\xff\7?!"])
@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_types_byte_orders_and_stamps(tmp_path: Path, order: str, stamp: bytes, mode: int) -> None:
    values = volume() if mode else volume().astype(np.int8)
    path = write(tmp_path / "a.mrc", values, mode, order, stamp, extended=b"x" * 80)
    np.testing.assert_array_equal(read_map(path).values, values)


@pytest.mark.parametrize("space_group", [0, 1, 20, 401])
@pytest.mark.parametrize("n_sampled_z", [0, 4])
def test_space_groups_and_missing_sizes(tmp_path: Path, space_group: int, n_sampled_z: int) -> None:
    words = {22: space_group, 9: n_sampled_z, 10: float_word(6), 11: float_word(6), 12: float_word(6)}
    found = read_map(write(tmp_path / "a.mrc", volume(), words=words))
    assert found.voxel_size_A == 1.5
    assert read_map(write(tmp_path / "a.mrc", volume())).voxel_size_A == 0


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", ["a.map.gz", "a.mrc"])
def test_packed_maps_are_read(tmp_path: Path, pack, name: str) -> None:
    whole = write(tmp_path / "whole.mrc", volume(12)).read_bytes()
    (tmp_path / name).write_bytes(pack(whole))
    np.testing.assert_array_equal(read_map(tmp_path / name).values, volume(12))
    (tmp_path / name).write_bytes(pack(whole[:-4]))
    assert "truncated" in refusal(tmp_path / name)
    packed = pack(whole)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    assert "copy it again" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(packed[:20] + b"\xff" * 40 + packed[60:])
    refusal(tmp_path / name)
    (tmp_path / name).write_bytes(pack(b"no map at all\n" * 200))
    assert "is text" in refusal(tmp_path / name)


def test_maps_that_other_programs_packed(tmp_path: Path) -> None:
    path = tmp_path / "a.map.xz"
    path.write_bytes(lzma.compress(write(tmp_path / "whole.mrc", volume()).read_bytes()))
    assert f"xz -dc {path} > {tmp_path / 'a.map'}" in refusal(path)
    with pytest.raises(MapError, match="is packed by xz"):
        read_reference(path, 4, 1.0)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_a_claim_of_terabytes_takes_no_memory(tmp_path: Path, pack) -> None:
    path = write(tmp_path / "whole.mrc", volume(), words={0: 60_000, 1: 60_000, 2: 60_000})
    path.write_bytes(pack(path.read_bytes()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "truncated: 60000 x 60000 x 60000 voxels" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({2: 1}, "holds one image"),
        ({2: 0}, "nz is 0"),
        ({3: 4}, "mode 4 is not supported (complex floats"),
        ({3: 3}, "mode 3 is not supported"),
        ({3: 101}, "mode 101 is not supported"),
        ({22: 401, 9: 2}, "holds 2 volumes"),
        ({16: 1, 17: 1, 18: 3}, "not an order of 1, 2, 3"),
        ({16: 1, 17: 2, 18: 4}, "not an order of 1, 2, 3"),
        ({10: float_word(4), 11: float_word(4), 12: float_word(5)}, "not cubes (1 x 1 x 1.25 A)"),
        ({49: float_word(np.nan)}, "origin words are nan, 0, 0"),
        ({23: -8}, "extended header"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, words: dict[int, int], said: str) -> None:
    assert said in refusal(write(tmp_path / "a.mrc", volume(), words=words))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    values = volume()
    values[1, 2, 3] = value
    assert "1 voxels are NaN or infinite" in refusal(write(tmp_path / "a.mrc", values))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for path, said in things_that_are_no_files(tmp_path).values():
        readers = [
            read_map,
            read_cube,
            load_gaussians,
            lambda path: read_mask(path, 4),
            lambda path: read_reference(path, 4, 1.0),
        ]
        for read in readers:
            with pytest.raises(Gem3dError) as error:
                read(path)
            assert said in str(error.value)


def test_a_pipe_with_the_name_of_a_map(tmp_path: Path) -> None:
    for name, (path, said) in things_that_are_no_files(tmp_path).items():
        if name not in ("a NUL", "long", "inside of a file"):
            link = tmp_path / f"{name}.mrc"
            link.symlink_to(path)
            with pytest.raises(MapError) as error:
                read_reference(link, 4, 1.0)
            assert said in str(error.value) or "is a link to" in str(error.value)


def test_what_we_write_we_read(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", volume(5), 1.0546875, (1.0, 2.0, 3.0))
    found = read_map(tmp_path / "a.mrc")
    np.testing.assert_array_equal(found.values, volume(5))
    assert found.voxel_size_A == pytest.approx(1.0546875, rel=1e-7)
    assert found.origin_A == (1.0, 2.0, 3.0)


@needs_shared
def test_published_files() -> None:
    small = read_map(FORMATS / "EMD-3197.map")
    assert (small.values.shape, small.voxel_size_A) == ((20, 20, 20), pytest.approx(11.4))
    assert "not cubes" in refusal(FORMATS / "EMD-3001.map")
    assert "holds one image of 64 x 64 px" in refusal(FORMATS / "float16.mrc")
    assert "truncated" in refusal(FORMATS / "truncated_stack.mrcs")
    # A stack passes for a volume, but never for a cube.
    assert read_map(FORMATS / "relion31.mrcs").values.shape == (5, 256, 256)
    with pytest.raises(MapError, match="256 x 256 x 5 voxels; a cube is needed"):
        read_cube(FORMATS / "relion31.mrcs")

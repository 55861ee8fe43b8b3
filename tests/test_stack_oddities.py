"""Image stacks as they are found in archives, and files that are none."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import resource
import shlex
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from gem3d.errors import Gem3dError, ImageStackError, ParticleFileError
from gem3d.particles.image_names import split_image_names
from gem3d.particles.mrc_stack import MrcStack, read_stack_header
from gem3d.particles.stack_paths import find_stack
from gem3d.particles.stack_reader import StackReader

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"
needs_shared = pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared reference data is not here")
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
IMOD_STAMP = 1_146_047_817


def write(
    path: Path,
    images: np.ndarray,
    mode: int = 2,
    order: str = "<",
    stamp: bytes = b"DD\0\0",
    words: dict[int, int] | None = None,
    extended: bytes = b"",
) -> Path:
    """A stack made by hand. `words`: further words of the header by their index from 0."""
    header = np.zeros(256, f"{order}i4")
    header[:4] = *images.shape[::-1], mode
    header[7:10] = images.shape[::-1]
    header[23] = len(extended)
    for index, word in (words or {}).items():
        header[index] = word
    raw = bytearray(header.tobytes())
    raw[212:216] = stamp
    dtype = images.dtype if mode == 0 else np.dtype(DTYPES[mode])
    path.write_bytes(bytes(raw) + extended + images.astype(dtype.newbyteorder(order)).tobytes())
    return path


def images(n: int = 3, box: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (n, box, box)).astype(np.float32)


def pixels(stack: MrcStack) -> np.ndarray:
    out = np.full((stack.n_images, stack.box_size_px, stack.box_size_px), np.nan, np.float32)
    index = np.arange(stack.n_images, dtype=np.int32)
    with StackReader({0: stack}) as reader:
        reader.read(np.zeros_like(index), index, out)
    return out


def refusal(path: Path) -> str:
    with pytest.raises(ImageStackError) as error:
        read_stack_header(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "stamp",
    [
        b"\0\0\0\0",
        b"DA\0\0",
        b"DD\0\0",
        b"D\x11\0\0",
        b"D\0\0\0",
        b"D   ",
        b"\x11\x11\0\0",
        b"\0\0DD",
        b"\xff\x07?!",
    ],
)
@pytest.mark.parametrize("mode", [1, 2, 6, 12])
def test_any_machine_stamp(tmp_path: Path, order: str, stamp: bytes, mode: int) -> None:
    expected = images()
    stack = read_stack_header(write(tmp_path / "a.mrcs", expected, mode, order, stamp))
    assert stack.n_images == 3
    np.testing.assert_array_equal(pixels(stack), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("words", "signed"),
    [
        ({}, True),  # MRC2014
        ({38: IMOD_STAMP, 39: 1}, True),
        ({38: IMOD_STAMP, 39: 0}, False),
        ({38: IMOD_STAMP, 39: 4}, False),  # other flags
        ({38: IMOD_STAMP + 1, 39: 0}, True),  # no mark of IMOD
    ],
)
def test_bytes_are_signed_unless_imod_says_otherwise(
    tmp_path: Path, order: str, words: dict[int, int], signed: bool
) -> None:
    raw = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    stack = read_stack_header(write(tmp_path / "a.mrcs", raw, 0, order, words=words))
    np.testing.assert_array_equal(pixels(stack), raw.view(np.int8) if signed else raw)


@pytest.mark.parametrize("suffix", [".mrcs", ".mrc", ".st", ""])
@pytest.mark.parametrize("space_group", [0, 1, 401, -1])
@pytest.mark.parametrize("n_sampled_z", [0, 1, 3, 77])
def test_words_for_volumes_do_not_matter(
    tmp_path: Path, suffix: str, space_group: int, n_sampled_z: int
) -> None:
    path = write(tmp_path / f"a{suffix}", images(), words={22: space_group, 9: n_sampled_z})
    np.testing.assert_array_equal(pixels(read_stack_header(path)), images())


def test_one_image_in_a_file_and_no_map_word(tmp_path: Path) -> None:
    stack = read_stack_header(write(tmp_path / "a.mrc", images(1)))
    assert b"MAP" not in (tmp_path / "a.mrc").read_bytes()[:1024]
    np.testing.assert_array_equal(pixels(stack), images(1))


@pytest.mark.parametrize("cell_A", [0.0, -3.0, np.nan, np.inf])
def test_a_header_without_a_pixel_size(tmp_path: Path, cell_A: float) -> None:
    word = int(np.float32(cell_A).view(np.int32))
    assert read_stack_header(write(tmp_path / "a.mrcs", images(), words={10: word})).pixel_size_A == 0
    twelve = int(np.float32(12).view(np.int32))
    assert read_stack_header(write(tmp_path / "a.mrcs", images(), words={10: twelve})).pixel_size_A == 2
    assert read_stack_header(write(tmp_path / "a.mrcs", images(), words={10: twelve, 7: 0})).pixel_size_A == 0


@pytest.mark.parametrize("size", [80, 1024, 131_072])
def test_extended_headers(tmp_path: Path, size: int) -> None:
    stack = read_stack_header(write(tmp_path / "a.mrcs", images(), extended=b"\x7f" * size))
    np.testing.assert_array_equal(pixels(stack), images())


@pytest.mark.parametrize("size", [-1, -1024, 2**31 - 1])
def test_extended_headers_that_cannot_be(tmp_path: Path, size: int) -> None:
    message = refusal(write(tmp_path / "a.mrcs", images(), words={23: size}))
    assert f"{size} bytes of an extended header" in message


def test_bytes_after_the_last_image_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mrcs", images())
    path.write_bytes(path.read_bytes() + b"more")
    np.testing.assert_array_equal(pixels(read_stack_header(path)), images())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({2: 0}, "nz is 0"),
        ({2: -1}, "not an MRC image stack"),
        ({0: 65_535, 1: 65_535, 2: 2**31 - 1}, "truncated"),  # 37 exabytes
        ({2: 10_000_000}, "3 complete images"),
        ({3: 3}, "mode 3 is not supported (complex 16-bit integers"),
        ({3: 4}, "mode 4 is not supported (complex floats"),
        ({3: 101}, "mode 101 is not supported (4-bit integers"),
        ({3: 5}, "not an MRC image stack"),
        ({0: 7}, "7 x 6 pixels"),
        ({0: 70_000, 1: 70_000}, "not an MRC image stack"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, words: dict[int, int], said: str) -> None:
    assert said in refusal(write(tmp_path / "a.mrcs", images(), words=words))


def test_a_claim_of_terabytes_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mrcs", images(), words={0: 65_535, 1: 65_535, 2: 2**31 - 1})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB


@pytest.mark.parametrize("suffix", [".mrcs", ".gz", ".zst", ""])
@pytest.mark.parametrize(
    ("packer", "pack"),
    [
        ("gzip", gzip.compress),
        ("bzip2", bz2.compress),
        ("xz", lzma.compress),
        ("zstd", lambda data: b"\x28\xb5\x2f\xfd" + data),
    ],
)
def test_packed_stacks(tmp_path: Path, suffix: str, packer: str, pack) -> None:
    whole = write(tmp_path / "whole.mrcs", images(40)).read_bytes()
    path = tmp_path / f"a b.mrcs{suffix}"
    path.write_bytes(pack(whole))
    message = refusal(path)
    assert f"is packed by {packer}" in message
    command = message.partition("(")[2].partition(")")[0]
    assert shlex.split(command)[:3] == [packer, "-dc", str(path)]
    if packer == "gzip":  # the others may not be installed
        subprocess.run(command, shell=True, check=True)
        unpacked = Path(shlex.split(command)[-1])
        np.testing.assert_array_equal(pixels(read_stack_header(unpacked)), images(40))


def spider(order: str = ">") -> bytes:
    header = np.zeros(256, f"{order}f4")
    header[[0, 1, 4, 11, 12, 21, 22]] = 1, 64, 1, 64, 4, 1024, 256
    return header.tobytes() + bytes(64 * 64 * 4)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tif", b"II*\0" + bytes(2000), "is a TIFF file"),
        ("a.mrcs", b"MM\0*" + bytes(2000), "is a TIFF file"),
        ("a.mrc", b"II+\0" + bytes(2000), "is a large TIFF file"),
        ("a.eer", b"II+\0" + bytes(2000), "is an EER movie"),
        ("a.dm4", b"\0\0\0\4" + bytes(6) + b"\x20\0" + b"\0\0\0\1\1\0" + bytes(2000), "is a DM4 file"),
        ("a.mrc", b"\0\0\0\3" + b"\0\x20\0\0" + b"\0\0\0\1\1\0" + bytes(2000), "is a DM3 file"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(2000), "is a PNG picture"),
        ("a.hdf", b"\x89HDF\r\n\x1a\n" + bytes(2000), "is an HDF5 file, as EMAN2 writes"),
        ("a.spi", spider(), "is a SPIDER file"),
        ("a.mrcs", spider("<"), "is a SPIDER file"),
        ("a.hed", b"\1\0\0\0\4\0\0\0" + bytes(1016), "is an IMAGIC file"),
        ("a.img", b"\xff" * 4096, "is an IMAGIC file"),
        ("a.mrcs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is text ('version https"),
        ("a.mrcs", b"<!DOCTYPE html>\n" + b"<p>sign in</p>\n" * 200, "is text ('<!DOCTYPE html>')"),
        ("a.mrcs", b"", "is empty"),
        ("a.mrcs", bytes(5000), "not an MRC image stack"),
        ("a.mrcs", b"\xff\1\2", "3 bytes are fewer"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said in refusal(path)


def things_that_are_no_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """A path of each kind, and what is to be said of it."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to(folder / "gone")
    (folder / "to_pipe").symlink_to(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # the names of sockets must be short
    server.bind("socket")
    os.chdir(here)
    server.close()
    return {
        "pipe": (folder / "pipe", "is a pipe"),
        "link to a pipe": (folder / "to_pipe", "is a pipe"),
        "folder": (folder / "folder", "is a folder"),
        "dangling link": (folder / "dangling", f"is a link to {folder / 'gone'}, which is not there"),
        "link to itself": (folder / "loop", "cannot be read (Too many levels"),
        "socket": (folder / "socket", "is a socket"),
        "endless device": (Path("/dev/zero"), "is a device"),
        "empty device": (Path("/dev/null"), "is a device"),
        "nothing": (folder / "nothing", "no such"),
        "inside of a file": (Path(__file__) / "a.mrcs", "no such"),
        "a NUL": (folder / "a\0b", "no such"),
        "long": (folder / ("x" * 5000), "no such"),
    }


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for path, said in things_that_are_no_files(tmp_path).values():
        assert said in refusal(path)
        with pytest.raises(ImageStackError, match=r"p\.star: particle 1: .*") as error:
            find_stack(str(path), tmp_path / "p.star", "particle 1", None)
        assert said in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_must_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mrcs", images())
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_a_refusal_of_the_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mrcs", images())

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert refusal(path).endswith("cannot be read (Permission denied).")


def test_a_pipe_in_the_place_of_a_stack_is_not_waited_for(tmp_path: Path) -> None:
    stack = read_stack_header(write(tmp_path / "a.mrcs", images()))
    stack.path.unlink()
    os.mkfifo(stack.path)
    with pytest.raises(Gem3dError, match="can no longer be read"):
        pixels(stack)


def test_names_without_a_number_are_refused() -> None:
    with pytest.raises(ParticleFileError, match=r"'stack.mrc' is not an image name.*000001@.*subtomograms"):
        split_image_names(["1@a.mrcs", "stack.mrc"], Path("p.star"))


def test_ten_thousand_headers(tmp_path: Path) -> None:
    content = write(tmp_path / "a.mrcs", images(1, 4)).read_bytes()
    paths = [tmp_path / f"{i}.mrcs" for i in range(10_000)]
    for path in paths:
        path.write_bytes(content)
    descriptors = Path("/proc/self/fd")
    begin, before = time.process_time(), len(list(descriptors.iterdir()))
    for path in paths:
        read_stack_header(path)
    assert time.process_time() - begin < 5
    assert len(list(descriptors.iterdir())) == before


@needs_shared
def test_published_stacks() -> None:
    assert "1 complete images" in refusal(FORMATS / "truncated_stack.mrcs")
    relion = read_stack_header(FORMATS / "relion31.mrcs")
    assert (relion.n_images, relion.box_size_px, relion.dtype) == (5, 256, np.float32)
    assert np.isfinite(pixels(relion)).all()
    half = read_stack_header(FORMATS / "float16.mrc")
    assert (half.n_images, half.box_size_px, half.dtype) == (1, 64, np.float16)

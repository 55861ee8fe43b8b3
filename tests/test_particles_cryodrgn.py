"""Images, poses and CTFs as cryoDRGN keeps them."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from command_line import refused as refused_by_command
from gem3d.assess import fourier_shell_correlation
from gem3d.cli import main
from gem3d.errors import Gem3dError, Gem3dWarning, ParticleFileError
from gem3d.maps import read_map
from gem3d.particles import ImageSource, Particles, read_particles, read_relion_star, write_relion_star
from gem3d.particles.restricted_pickle import load_arrays
from gem3d.particles.star_table import read_star
from gem3d.simulate import Simulation

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FORMATS = SHARED / "formats"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data is not here")


def empty_stack(path: Path, n: int, box: int, pixel_size_A: float = 0.0) -> Path:
    """A stack of zeros that takes no room."""
    words = np.zeros(256, "<i4")
    words[[0, 1, 2, 7, 8, 9]] = box, box, n, box, box, n
    words[10:13] = np.array([box, box, n], "<f4").view("<i4") if pixel_size_A else 0
    words[10:12] = np.full(2, box * pixel_size_A, "<f4").view("<i4")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(words.tobytes())
    os.truncate(path, 1024 + n * box * box)
    return path


def some_poses(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return Rotation.random(n, rng=rng).as_matrix().astype("f4"), rng.uniform(-0.1, 0.1, (n, 2)).astype("f4")


def some_ctf(n: int, box: int = 16, pixel_size_A: float = 1.35) -> np.ndarray:
    rows = np.tile(np.array([box, pixel_size_A, 0, 0, 0, 300, 2.7, 0.1, 0], "f4"), (n, 1))
    rows[:, 2:5] = np.random.default_rng(1).uniform(5000, 20_000, (n, 3)) * (1, 1, 0.005)
    return rows


def dump(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


class Files:
    """A set of four images with its pickles, to be changed and read."""

    def __init__(self, folder: Path, n: int = 4, box: int = 16) -> None:
        self.folder = folder
        self.images = empty_stack(folder / "images.mrcs", n, box)
        self.rotations, self.origins = some_poses(n)
        self.poses = dump(folder / "poses.pkl", (self.rotations, self.origins))
        self.ctf = dump(folder / "ctf.pkl", some_ctf(n, box))

    def read(self, images: Path | None = None, **options: Any) -> Particles:
        options = {"poses": self.poses, "ctf_table": self.ctf} | options
        return read_particles(images or self.images, **options)

    def refused(self, *words: str, images: Path | None = None, **options: Any) -> None:
        with pytest.raises(Gem3dError) as error:
            self.read(images, **options)
        for word in words:
            assert word in str(error.value), str(error.value)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def text(folder: Path, *lines: str, name: str = "images.txt", end: str = "\n") -> Path:
    (folder / name).write_bytes(end.join([*lines, ""]).encode())
    return folder / name


# ---- what other programs wrote


@needs_shared
def test_a_star_file_and_what_cryodrgn_made_of_it(tmp_path: Path) -> None:
    star = FORMATS / "FinalRefinement-OriginalParticles-PfCRT.star"
    stack = "Extract/job012/FinalRefinement-OriginalParticles-PfCRT.mrcs"
    empty_stack(tmp_path / stack, 5, 300)
    pickles = {"poses": FORMATS / "pose.star.pkl", "ctf_table": FORMATS / "ctf1.pkl"}
    found = read_particles(star, **pickles, datadir=tmp_path)
    ours = read_relion_star(star, ctf=False)
    np.testing.assert_allclose(found.rotations, ours.rotations, atol=1e-12)
    np.testing.assert_allclose(found.shifts_A, ours.shifts_A, atol=1e-12)
    (table,) = read_star(star)
    for column, values in {
        "rlnDefocusU": found.defocus_A[:, 0],
        "rlnDefocusV": found.defocus_A[:, 1],
        "rlnDefocusAngle": found.astigmatism_deg,
        "rlnPhaseShift": found.phase_shift_deg,
    }.items():
        np.testing.assert_allclose(values, table.numbers(column), rtol=1e-7)
    (group,) = found.optics
    assert (group.pixel_size_A, group.box_size_px) == (1.035, 300)
    assert (group.voltage_kV, group.spherical_aberration_mm, group.amplitude_contrast) == (300, 0.001, 0.1)
    for name in ("stack_index", "image_index", "micrograph_index", "half_set", "stacks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(ours, name))
    assert found.half_set.tolist() == table.integers("rlnRandomSubset").tolist()
    assert len(ImageSource(found, tmp_path)) == 5


@needs_shared
def test_a_cryosparc_file_and_what_cryodrgn_made_of_it(tmp_path: Path) -> None:
    table = np.load(FORMATS / "cryosparc_P12_J24_001_particles.cs")
    n, box = len(table), 180
    empty_stack(tmp_path / "images.mrcs", n, box)
    found = read_particles(
        tmp_path / "images.mrcs", poses=FORMATS / "pose.cs.pkl", ctf_table=FORMATS / "ctf2.pkl"
    )
    rotations = Rotation.from_rotvec(table["alignments3D/pose"]).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(found.rotations, rotations, atol=1e-5)
    shifts_A = -table["alignments3D/shift"] * table["alignments3D/psize_A"][:, None]
    np.testing.assert_allclose(found.shifts_A, shifts_A, atol=1e-5)
    for axis in (0, 1):
        np.testing.assert_allclose(found.defocus_A[:, axis], table[f"ctf/df{axis + 1}_A"], rtol=1e-6)
    np.testing.assert_allclose(found.astigmatism_deg, np.rad2deg(table["ctf/df_angle_rad"]), rtol=1e-5)
    np.testing.assert_allclose(found.phase_shift_deg, np.rad2deg(table["ctf/phase_shift_rad"]), atol=1e-5)
    (group,) = found.optics
    assert group.pixel_size_A == pytest.approx(table["blob/psize_A"][0])
    assert group.voltage_kV == table["ctf/accel_kv"][0]
    assert group.spherical_aberration_mm == pytest.approx(table["ctf/cs_mm"][0])
    assert group.amplitude_contrast == pytest.approx(table["ctf/amp_contrast"][0])


@needs_shared
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the truth's header has no "MAP" word
def test_toy_set_of_another_program(tmp_path: Path) -> None:
    """Stack and poses straight from their makers; FSC >= 0.9 up to two thirds of Nyquist."""
    toy, out = SHARED / "toy", tmp_path / "run"
    words = ["--poses", str(toy / "toy_rot_zerotrans.pkl"), "--no-ctf", "--no-normalise"]
    small = ["--threads", "1", "--gaussians", "300", "--quiet"]
    main(["reconstruct", str(toy / "toy_projections.mrcs"), "--out", str(out), *words, *small])
    truth = read_map(toy / "toymodel_small_nocenter.mrc").values
    for name in ("map_unfiltered.mrc", "half1.mrc", "linear_half1.mrc"):
        found = read_map(out / name)
        assert fourier_shell_correlation(found.values, truth)[1:11].min() >= 0.9, name
        assert found.voxel_size_A == 1.0
    assert json.loads((out / "summary.json").read_text())["settings"]["ctf"] is False
    log = " ".join((out / "run.log").read_text().split())
    assert "pixels of 1 A, as its header says" in log
    assert (
        "column rlnRandomSubset (of a STAR file, given as the list of images) is missing, so the half" in log
    )


# ---- the same particles


def as_pickles(particles: Particles, folder: Path, box: int, pixel_size_A: float) -> dict[str, Path]:
    """Poses and CTFs of a set as cryoDRGN writes them, of images with this box and pixel size."""
    (group,) = particles.optics
    n = len(particles)
    constants = (group.voltage_kV, group.spherical_aberration_mm, group.amplitude_contrast)
    ctf = np.column_stack(
        [
            np.tile([box, pixel_size_A], (n, 1)),
            particles.defocus_A,
            particles.astigmatism_deg,
            np.tile(constants, (n, 1)),
            particles.phase_shift_deg,
        ]
    )
    origins = -particles.shifts_A / (box * pixel_size_A)
    return {
        "poses": dump(folder / "poses.pkl", (particles.rotations, origins)),
        "ctf_table": dump(folder / "ctf.pkl", ctf.astype("f4")),
    }


@pytest.mark.parametrize(("box", "pixel_size_A"), [(32, 6.6), (64, 3.3)])
def test_the_set_that_the_pickles_were_made_from(
    made: Simulation, tmp_path: Path, box: int, pixel_size_A: float
) -> None:
    """Directly, and from images downsampled since: pixel size and shifts in A stay right."""
    pickles = as_pickles(made.particles, tmp_path, box, pixel_size_A)
    star = read_relion_star(made.star)
    for images in (made.star, made.stack):
        if box != 32:
            with pytest.warns(Gem3dWarning, match=r"images of 32 px, but .* 64 px and 3.3 A a pixel.* 6.6 A"):
                found = read_particles(images, **pickles)
        else:
            found = read_particles(images, **pickles)
        assert found.pixel_size_A == 6.6
        assert found.box_size_px == 32
        for field in fields(Particles):
            ours = getattr(star, field.name)
            if isinstance(ours, np.ndarray) and (field.name != "half_set" or images == made.star):
                np.testing.assert_allclose(
                    getattr(found, field.name), ours, rtol=1e-6, atol=1e-6, err_msg=field.name
                )
    assert not found.half_set.any()
    assert found.stacks == (str(made.stack.absolute()),)


def test_refined_particles_stand_on_their_own(made: Simulation, tmp_path: Path) -> None:
    """A list with names only, refined: the STAR file that comes of it has poses, optics and half sets."""
    pickles = as_pickles(made.particles, tmp_path, 32, 6.6)
    pickles["poses"] = dump(tmp_path / "few.pkl", load_arrays(pickles["poses"], "")[0][:120])
    dump(pickles["ctf_table"], load_arrays(pickles["ctf_table"], "")[0][:120])
    names = [f"{i + 1}@{made.stack}" for i in range(120)]
    star = text(tmp_path, "data_", "loop_", "_rlnImageName", *names, name="names.star")
    out = tmp_path / "run"
    words = ["--poses", str(pickles["poses"]), "--ctf", str(pickles["ctf_table"]), "--rounds", "1", "--quiet"]
    small = ["--threads", "1", "--gaussians", "100", "--max-resolution", "20"]
    main(["refine", str(star), "--out", str(out), *words, *small])
    assert read_map(out / "map.mrc").voxel_size_A == pytest.approx(6.6)
    refined = read_particles(out / "particles_refined.star")
    assert refined.pixel_size_A == 6.6
    assert set(refined.half_set.tolist()) == {1, 2}
    assert len(ImageSource(refined)) == 120


# ---- image lists


@pytest.mark.parametrize("box", [16, 15])
@pytest.mark.parametrize("form", ["pair", "rotations only", "one in a tuple", "list"])
def test_forms_of_poses(tmp_path: Path, box: int, form: str) -> None:
    files = Files(tmp_path, box=box)
    value = {
        "pair": (files.rotations, files.origins),
        "rotations only": files.rotations,
        "one in a tuple": (files.rotations,),
        "list": [files.rotations, files.origins],
    }[form]
    dump(files.poses, value)
    found = files.read()
    np.testing.assert_array_equal(found.rotations, files.rotations)
    expected = -files.origins * box * 1.35 if form in ("pair", "list") else np.zeros((4, 2))
    np.testing.assert_allclose(found.shifts_A, expected, atol=1e-5)
    assert found.source_row.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_lists_of_stacks(tmp_path: Path, end: str) -> None:
    files = Files(tmp_path, n=7)
    empty_stack(tmp_path / "sub/a b.mrcs", 4, 16)
    empty_stack(tmp_path / "elsewhere/b.mrcs", 3, 16)
    absolute = str(tmp_path / "elsewhere/b.mrcs")
    images = text(tmp_path, "sub/a b.mrcs", "", f"  {absolute}", end=end)
    found = files.read(images)
    assert found.stacks == ("sub/a b.mrcs", absolute)
    assert found.stack_index.tolist() == found.micrograph_index.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.image_index.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert len(ImageSource(found)) == 7
    # Beside the list or in --datadir, as for other particle files.
    relative = text(tmp_path / "elsewhere", "a b.mrcs", "b.mrcs")
    files.refused("images.txt: line 1: no such stack: a b.mrcs", "--datadir", images=relative)
    found = files.read(relative, datadir=tmp_path / "sub")
    assert len(ImageSource(found, tmp_path / "sub")) == 7


def test_text_lists_that_are_none(files: Files) -> None:
    folder = files.folder
    empty_stack(folder / "other.mrcs", 4, 20)
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 10)
    os.mkfifo(folder / "pipe.txt")
    files.refused("names no stacks", images=text(folder, "", " "))
    files.refused("line 2: ", "20 px", "16 px", images=text(folder, "images.mrcs", "other.mrcs"))
    files.refused("no such stack", images=text(folder, "x" * 100_000))
    files.refused("is not text", images=folder / "binary.txt")
    files.refused("pipe.txt: is a pipe, not a file", images=folder / "pipe.txt")
    for name in ("absent.txt", "absent.mrcs"):
        files.refused(f"{name}: no such file", images=folder / name)
    for name in ("images.hdf", "images"):
        files.refused("not a list of images", ".mrcs, .mrc, .txt, .star", images=folder / name)
    files.refused("rlnImageName is missing", images=text(folder, "data_", "_rlnOther 1", name="a.star"))


def test_numbers_that_disagree(files: Files) -> None:
    dump(files.ctf, some_ctf(6))
    files.refused(
        "4 images in ", "images.mrcs, 4 poses in ", "poses.pkl, 6 rows in ", "ctf.pkl: they", "--ind"
    )
    dump(files.poses, some_poses(5))
    files.refused("4 images", "5 poses", "6 rows", "same particles in the same order")
    files.refused(
        "4 images in ", "5 poses in ", "poses.pkl: they", ctf=False, ctf_table=None, pixel_size_A=1.0
    )


# ---- what belongs together


def test_ctf_or_none(files: Files) -> None:
    files.refused("--poses", "--ctf", "--no-ctf", ctf_table=None)
    with pytest.raises(Gem3dError, match=r"--ctf .*ctf\.pkl: goes with.*--poses"):
        read_particles(files.images, ctf_table=files.ctf)
    for name in ("images.mrcs", "images.mrc", "images.txt"):
        with pytest.raises(ParticleFileError, match=r"holds images only.*--poses poses\.pkl --ctf ctf\.pkl"):
            read_particles(files.folder / name)
    # Without a CTF the table still has the pixel size.
    found = files.read(ctf=False)
    assert found.pixel_size_A == 1.35
    assert not found.defocus_A.any()
    assert (found.optics[0].amplitude_contrast, found.optics[0].spherical_aberration_mm) == (1.0, 0.0)


def test_pixel_size_without_a_table(files: Files) -> None:
    without = {"ctf": False, "ctf_table": None}
    files.refused("images.mrcs: its header has no pixel size", "--pixel-size", **without)
    found = files.read(**without, pixel_size_A=2.5)
    assert found.pixel_size_A == 2.5
    np.testing.assert_allclose(found.shifts_A, -files.origins * 16 * 2.5, rtol=1e-6)
    empty_stack(files.images, 4, 16, pixel_size_A=1.1)
    with pytest.warns(Gem3dWarning, match=r"pixels of 1\.1 A, as its header says.*--pixel-size"):
        assert files.read(**without).pixel_size_A == 1.1
    assert files.read(pixel_size_A=2.5).pixel_size_A == 2.5


def test_transforms_are_not_images(files: Files) -> None:
    empty_stack(files.images, 4, 17)
    files.refused("images of 17 px", "16 px", "cryodrgn preprocess")


def test_optics_groups(files: Files) -> None:
    table = some_ctf(4)
    table[1, 5] = 200
    table[3, 1] = 1.4
    dump(files.ctf, table)
    found = files.read()
    assert len(found.optics) == 3
    assert [found.optics[i].voltage_kV for i in found.optics_index] == [300, 200, 300, 300]
    assert [found.optics[i].pixel_size_A for i in found.optics_index] == [1.35, 1.35, 1.35, 1.4]
    pixel_sizes = np.array([1.35, 1.35, 1.35, 1.4])[:, None]
    np.testing.assert_allclose(found.shifts_A, -files.origins * 16 * pixel_sizes, rtol=1e-5)


def changed(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    copy = array.copy()
    copy[place] = value
    return copy


def test_poses_that_are_none(files: Files) -> None:
    rotations, origins = files.rotations, files.origins
    mirror = np.diag([1, 1, -1]).astype("f4")
    for value, words in [
        ((changed(rotations, (2, 0, 0), 2.0), origins), ["particle 3", "is no rotation"]),
        ((changed(rotations, (1, 2, 2), np.nan), origins), ["particle 2", "is no rotation"]),
        ((changed(rotations, (1, 2, 2), np.inf), origins), ["particle 2", "is no rotation"]),
        ((changed(rotations, 3, rotations[3] @ mirror), origins), ["particle 4", "is a reflection", "hand"]),
        ((rotations, origins * 16 * 10), ["in pixels", "fraction of the box"]),
        ((rotations, changed(origins, (0, 1), -1.5)), ["particle 1: the translation is [", "-1.5"]),
        ((rotations, changed(origins, (2, 1), np.nan)), ["particle 3", "not finite"]),
        ((rotations, changed(origins, (2, 1), -np.inf)), ["particle 3", "-inf"]),
        ((rotations.reshape(4, 9), origins), ["2 arrays of shapes (4, 9), (4, 2)", "(n, 3, 3)"]),
        ((rotations, origins[:3]), ["(4, 3, 3), (3, 2)"]),
        ((rotations, origins, origins), ["3 arrays"]),
        (some_ctf(4), ["an array of shape (4, 9)", "parse_pose_star"]),
        (np.float64(3), ["neither arrays nor a list"]),
        (np.array(3.0), ["shape ()"]),
        (rotations[:0], ["shape (0, 3, 3)"]),
    ]:
        dump(files.poses, value)
        files.refused("poses.pkl: ", *words)


def test_ctf_tables_that_are_none(files: Files) -> None:
    table = some_ctf(4)
    for value, words in [
        (table[:, :8], ["an array of shape (4, 8)", "(n, 9)", "parse_ctf_star"]),
        ((files.rotations, files.origins), ["2 arrays of shapes (4, 3, 3), (4, 2)"]),
        (table[0], ["shape (9,)"]),
        (table[:0], ["shape (0, 9)"]),
        (changed(table, (2, 3), np.nan), ["particle 3: defocus V nan is not a defocus in A"]),
        (changed(table, (1, 1), 0), ["particle 2: pixel size 0"]),
        (changed(table, (slice(None), 5), 3e5), ["particle 1: voltage", "not a voltage in kV", "(4 such)"]),
        (changed(table, (1, 7), 10), ["particle 2: amplitude contrast 10", "fraction"]),
        (changed(table, (1, 0), 0), ["particle 2: image size 0"]),
    ]:
        dump(files.ctf, value)
        files.refused("ctf.pkl: ", *words)


def test_from_the_command_line(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reconstruct", str(files.images), "--out", str(files.folder / "out"), "--quiet"]
    assert "give their poses and CTFs with --poses" in refused_by_command(capsys, *words)
    assert "goes with cryoDRGN's poses" in refused_by_command(capsys, *words, "--ctf", str(files.ctf))
    words += ["--poses", str(files.poses)]
    assert "or --no-ctf if the images have none" in refused_by_command(capsys, *words)
    assert "has no pixel size" in refused_by_command(capsys, *words, "--no-ctf")
    dump(files.poses, some_poses(3))
    assert "4 rows in" in refused_by_command(capsys, *words, "--no-ctf", "--ctf", str(files.ctf))
    dump(files.poses, print)
    message = refused_by_command(capsys, *words, "--ctf", str(files.ctf))
    assert "names builtins.print, which is not array data" in message


# ---- pickles


def load(data: bytes, folder: Path) -> tuple[np.ndarray, ...]:
    path = folder / "a.pkl"
    path.write_bytes(data)
    return load_arrays(path, "give another")


ARRAYS = [
    np.arange(12, dtype="f4").reshape(3, 4),
    np.arange(12, dtype=">f8").reshape(3, 4),
    np.asfortranarray(np.arange(24, dtype="f8").reshape(2, 3, 4)),
    np.arange(24, dtype="i4").reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(20, dtype="u2")[::3],
    np.array([True, False]),
    np.array(2.5, "f2"),
    np.zeros((0, 3)),
    np.frombuffer(bytes(range(256)), "i1"),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_from_all_protocols(tmp_path: Path, protocol: int) -> None:
    for array in ARRAYS:
        for value in (array, (array,), [array, array], (array, ARRAYS[0])):
            if array.size == 0 and protocol < 3:
                continue  # Python writes no empty bytes there without naming a builtin
            data = pickle.dumps(value, protocol)
            for text in (data, data.replace(b"numpy._core", b"numpy.core")):
                if len(text) != len(data) and protocol > 3:
                    continue  # the lengths of names would have to be changed too
                found = load(text, tmp_path)
                expected = value if isinstance(value, tuple | list) else (value,)
                assert len(found) == len(expected)
                for ours, theirs in zip(found, expected, strict=True):
                    assert ours.dtype == theirs.dtype
                    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "numbers",
    [
        [3, 1, 2**40],
        (0, 5),
        [True, False],
        [1.5, 2],
        list(np.arange(5)),
        list(np.arange(3, dtype="f4")),
        [np.int64(3), 4],
        [],
    ],
)
def test_lists_of_numbers_make_one_array(tmp_path: Path, protocol: int, numbers: Any) -> None:
    (found,) = load(pickle.dumps(numbers, protocol), tmp_path)
    np.testing.assert_array_equal(found, np.array(numbers))
    assert found.dtype.kind == (np.array(numbers).dtype.kind if numbers else "i")


def test_arrays_of_python_2(tmp_path: Path) -> None:
    """As its pickle and numpy 1 wrote them: byte strings, escaped in protocol 0, and the older name."""
    array = np.array([[1.5, -2.25, 1e-3]], dtype="<f8")
    quoted = repr(array.tobytes())[1:].encode()
    head = b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
    state = b"(I1\n(I1\nI3\ntp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\n"
    text = head + state + b"tp12\nbI00\nS" + quoted + b"\np13\ntp14\nb."
    np.testing.assert_array_equal(load(text, tmp_path)[0], array)
    np.testing.assert_array_equal(pickle.loads(text, encoding="latin1"), array)
    raw = b"T" + struct.pack("<I", array.nbytes) + array.tobytes()
    text = text.replace(b"S" + quoted + b"\n", raw)
    np.testing.assert_array_equal(load(text, tmp_path)[0], array)


def test_real_pickles_are_what_the_library_makes_of_them() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared reference data is not here")
    for path in sorted(SHARED.glob("*/*.pkl")):
        expected = pickle.loads(path.read_bytes())
        if not isinstance(expected, tuple):
            expected = (np.array(expected),)
        for ours, theirs in zip(load_arrays(path, "give it"), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Calls:
    """A value whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_that_a_pickle_names_is_called(tmp_path: Path, protocol: int) -> None:
    made = tmp_path / "made"
    for function, arguments in [
        (os.mkdir, (str(made),)),
        (eval, (f"__import__('os').mkdir({str(made)!r})",)),
        (getattr, ("text", "upper")),
        (np.fromfile, ("/etc/passwd",)),
        (np.load, ("a.npy",)),
        (bytes, (10**12,)),
    ]:
        for value in (Calls(function, *arguments), [np.zeros(2), Calls(function, *arguments)]):
            with pytest.raises(ParticleFileError, match="not array data"):
                load(pickle.dumps(value, protocol), tmp_path)
    for value in ({"a": np.zeros(2)}, {1}, io.BytesIO, Files, complex(1, 2), slice(3)):
        with pytest.raises(ParticleFileError):
            load(pickle.dumps(value, protocol), tmp_path)
    assert not made.exists()


def test_what_is_no_array_of_numbers(tmp_path: Path) -> None:
    for value in (
        np.array([1, "a", None], dtype=object),
        np.array(["a"]),
        np.array([b"a"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.zeros(2, "c8"),
        np.zeros(2, np.longdouble),
        np.array(["2020-01-01"], "M8[D]"),
        np.ma.array([1, 2]),
        [1, "a"],
        [np.zeros(2), 1],
        [[1, 2], [3]],
        [True, 2],
        [2**70],
        "text",
        None,
        [None],
    ):
        with pytest.raises(ParticleFileError):
            load(pickle.dumps(value, 4), tmp_path)


def named(name: bytes) -> bytes:
    module, _, attribute = name.rpartition(b".")
    return b"c" + module + b"\n" + attribute + b"\n"


def dtype_of(name: bytes) -> bytes:
    return named(b"numpy.dtype") + b"(X" + struct.pack("<I", len(name)) + name + b"I0\nI1\ntR"


HUGE = 10**13
VAST = b"\x8a\x06" + HUGE.to_bytes(6, "little")
RECONSTRUCTED = named(b"numpy.core.multiarray._reconstruct") + b"(" + named(b"numpy.ndarray")
NESTED = b"]" * 100_000
DOUBLED = b")" + b"q\x00h\x00\x86" * 200
"""A tuple of one tuple twice, and so on: small, but without end for whoever walks through it."""


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05\x96" + struct.pack("<Q", HUGE),  # BYTEARRAY8
        b"\x80\x04\x8e" + struct.pack("<Q", HUGE),  # BINBYTES8
        b"\x80\x04\x8d" + struct.pack("<Q", HUGE),  # BINUNICODE8
        b"\x80\x04\x8d" + struct.pack("<Q", 2**64 - 1),
        b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"N.",  # FRAME
        b"\x80\x03B" + struct.pack("<I", 2**32 - 1),  # BINBYTES
        b"T" + struct.pack("<i", 2**31 - 1),  # BINSTRING
        b"T" + struct.pack("<i", -1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),  # LONG4
        b"\x8b" + struct.pack("<i", -5),
        b"Nr" + struct.pack("<I", 2**32 - 1) + b"0.",  # LONG_BINPUT
        b"Np99999999999999\n.",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"F" + b"9" * 100_000 + b"\n.",
        named(b"numpy.ndarray") + b"(" + VAST + b"tR.",  # an array of any size
        named(b"numpy.dtype") + b"(X\x0e\x00\x00\x00V1000000000000I0\nI1\ntR.",
        RECONSTRUCTED + VAST + b"\x85C\x01btR.",
        RECONSTRUCTED + b"(I0\ntC\x01btR(I1\n(" + VAST + b"t" + dtype_of(b"f8") + b"I00\nC\x00tb.",
        RECONSTRUCTED
        + b"(I0\ntC\x01btR(I1\n(I0\n"
        + VAST
        + VAST
        + VAST
        + b"t"
        + dtype_of(b"f8")
        + b"I00\nC\x00tb.",
        RECONSTRUCTED + b"(I0\ntC\x01btR.",  # never filled
        named(b"numpy.core.numeric._frombuffer")
        + b"(C\x00"
        + dtype_of(b"f8")
        + b"("
        + VAST
        + b"tX\x01\0\0\0CtR.",
        named(b"numpy._core.numeric._frombuffer") + b"(C\x01a" + dtype_of(b"i1") + b"(I-1\ntX\x01\0\0\0CtR.",
        named(b"numpy.core.multiarray.scalar") + b"(" + dtype_of(b"f8") + b"C\x01atR.",
        NESTED + b".",
        NESTED + b"a" * 99_999 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"N" + b"\x85" * 100_000 + b".",
        b"(" + b"I1\n" * 5 + b"t",  # no end
        b"]q\x00h\x00a.",  # a list that holds itself
        DOUBLED + b".",
        DOUBLED + b"X\x01\0\0\0a\x93.",  # STACK_GLOBAL
        named(b"numpy.core.numeric._frombuffer")
        + (b"(C\x01a" + dtype_of(b"i1") + b"I1\n\x85X\x01\0\0\0K" + DOUBLED + b"\x85tR."),
        b"S'\\q\xff'\n.",
        b"S'a\n.",
        b"h\x05.",
        b"0.",
        b".",
        b"t.",
        b"R.",
        b"b.",
        b"\x93.",
        b"NNR.",
        b"]]b.",
        b"Na.",
        b"NNa.",
        b"",
        b"\x80",
        b"nonsense",
        b"\x93NUMPY",
        b"PK\x03\x04",
        b"\0" * 1000,
        b"P1\n.",  # PERSID
        b"\x97.",  # NEXT_BUFFER
        b"\x82\x01.",  # EXT1
        b"(ios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        named(b"numpy.ndarray") + b")\x81.",  # NEWOBJ
    ],
)
def test_claims_and_damage(tmp_path: Path, data: bytes) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    begun = time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), limits[1]))
    try:
        with pytest.raises(ParticleFileError, match=r"a\.pkl: .*give another"):
            load(data, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.monotonic() - begun < 2


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    for name in ("pipe.pkl", "absent.pkl", "", "x" * 300):
        with pytest.raises(ParticleFileError, match="give another"):
            load_arrays(tmp_path / name, "give another")


SEEDS = [pickle.dumps(value, p) for p in range(6) for value in ((ARRAYS[0], ARRAYS[1]), [1, np.int64(2), 3])]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_never_do_worse_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    whole = whole or bytearray(b".")
    try:
        found = load(bytes(whole), tmp_path_factory.getbasetemp())
    except ParticleFileError:
        return
    assert all(array.dtype.kind in "biuf" and array.nbytes <= 4 * len(whole) for array in found)


def test_a_million_particles(tmp_path: Path) -> None:
    n = 1_000_000
    files = Files(tmp_path, n=4)
    empty_stack(files.images, n, 64)
    dump(files.poses, some_poses(n))
    dump(files.ctf, some_ctf(n, 64))
    tracemalloc.start()
    begun = time.monotonic()
    found = files.read()
    assert time.monotonic() - begun < 15
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()
    assert len(found) == n
    arrays = [getattr(found, f.name) for f in fields(found)]
    assert sum(a.nbytes for a in arrays if isinstance(a, np.ndarray)) < 300 * n


def test_a_star_file_written_from_pickles_reads_alike(files: Files) -> None:
    found = files.read()
    write_relion_star(found, files.folder / "again.star")
    again = read_particles(files.folder / "again.star")
    np.testing.assert_allclose(again.rotations, found.rotations, atol=1e-6)
    np.testing.assert_allclose(again.shifts_A, found.shifts_A, atol=1e-12)
    np.testing.assert_array_equal(again.defocus_A, found.defocus_A)
    assert again.optics == found.optics


def test_a_cs_file_as_the_list_of_images(files: Files) -> None:
    """Only where the images lie is needed of it; that they are dark is taken from it, too."""
    rows = np.zeros(4, [("uid", "<u8"), ("blob/path", "S12"), ("blob/idx", "<u4"), ("blob/sign", "<f4")])
    rows["uid"], rows["blob/path"], rows["blob/idx"] = range(4), b">images.mrcs", [2, 0, 3, 1]
    rows["blob/sign"] = -1
    with (files.folder / "list.cs").open("wb") as stream:
        np.save(stream, rows)
    found = files.read(files.folder / "list.cs")
    assert found.image_index.tolist() == [2, 0, 3, 1]
    assert found.stacks == ("images.mrcs",)
    np.testing.assert_array_equal(found.ctf_scale, -np.ones(4))
    np.testing.assert_array_equal(found.rotations, files.read().rotations)
    assert not found.half_set.any()


@needs_shared
def test_the_same_seven_images_in_three_formats(tmp_path: Path) -> None:
    """A stack, a STAR file and a cryoSPARC file of the same real particles, given the same poses and CTFs."""
    n, box = 7, 320
    poses = dump(tmp_path / "poses.pkl", some_poses(n))
    ctf = dump(tmp_path / "ctf.pkl", some_ctf(n, box))
    found = {}
    for suffix in (".mrc", ".star", ".cs"):
        images = FORMATS / f"empiar_10076_7{suffix}"
        read = read_particles(images, poses=poses, ctf_table=ctf, datadir=FORMATS)
        (batch,) = ImageSource(read, FORMATS).batches(np.arange(n), n)
        found[suffix] = read, batch.images.copy()
    stack, pixels = found[".mrc"]
    for read, its_pixels in found.values():
        np.testing.assert_array_equal(its_pixels, pixels)
        for name in (
            "rotations",
            "shifts_A",
            "defocus_A",
            "astigmatism_deg",
            "phase_shift_deg",
            "image_index",
        ):
            np.testing.assert_array_equal(getattr(read, name), getattr(stack, name), err_msg=name)
        assert read.optics == stack.optics
    # Only cryoSPARC's file says that the particles are dark.
    assert {suffix: set(read.ctf_scale) for suffix, (read, _) in found.items()} == {
        ".mrc": {1.0},
        ".star": {1.0},
        ".cs": {-1.0},
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # A million letters, encoded two thousand times.
        (
            b"c_codecs\nencode\nq\0X\x40\x42\x0f\0" + b"a" * 1_000_000 + b"q\1X\6\0\0\0latin1q\2"
            + b"h\0h\1h\2\x86R" * 2000 + b".",
            "makes more data than it holds",
        ),
        (b"]" * 1_000_000 + b".", "pile up"),
        (b"(" * 1_000_000 + b".", "pile up"),
    ],
)  # fmt: skip
def test_pickles_made_to_fill_memory(tmp_path: Path, data: bytes, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ParticleFileError, match=words):
            load(data, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + 2**23
    finally:
        tracemalloc.stop()

"""The command line end to end: every message names what, where and what to do; exit codes; render and fsc."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from safetensors import safe_open

from gem3d import cli, commands
from gem3d.assess import sphere_mask
from gem3d.gaussians import initialise_random, save_gaussians
from gem3d.maps import read_map, write_map
from gem3d.simulate import simulate
from gem3d.structures import Structure

BOX, PIXEL_A, N = 16, 4.0, 8

Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    atoms = Structure(rng.normal(size=(40, 3)) * 8, np.full(40, 6, np.uint8), np.full(40, 30.0))
    return simulate(atoms, tmp_path_factory.mktemp("set"), N, BOX, PIXEL_A, 1.0).star.parent


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A fresh copy of a particle set that each test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "set"))


def gem3d(*arguments: object) -> int:
    """Exit code."""
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What standard error says of a request that must end with 2, on one line."""
    assert gem3d(*arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in error
    return error


def table(star: Path) -> tuple[list[str], list[str], list[list[str]]]:
    """Lines before the particles' loop, its columns, its rows."""
    lines = star.read_text().splitlines()
    start = lines.index("data_particles")
    columns = [line.split()[0][1:] for line in lines[start:] if line.startswith("_")]
    rows = [line.split() for line in lines[start:] if "@" in line]
    return lines[:start], columns, rows


def rewrite(star: Path, before: list[str], columns: list[str], rows: list[list[str]]) -> None:
    loop = ["data_particles", "", "loop_", *(f"_{column}" for column in columns), *map(" ".join, rows)]
    star.write_text("\n".join(before + loop) + "\n")


def with_value(column: str, row: int, value: str) -> Edit:
    def edit(star: Path) -> None:
        before, columns, rows = table(star)
        rows[row][columns.index(column)] = value
        rewrite(star, before, columns, rows)

    return edit


def with_column(column: str, values: list[str]) -> Edit:
    def edit(star: Path) -> None:
        before, columns, rows = table(star)
        if column in columns:
            at = columns.index(column)
            columns, rows = columns[:at] + columns[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
        rewrite(star, before, [*columns, column], [[*row, v] for row, v in zip(rows, values, strict=True)])

    return edit


def without_column(column: str) -> Edit:
    def edit(star: Path) -> None:
        before, columns, rows = table(star)
        at = columns.index(column)
        rewrite(star, before, columns[:at] + columns[at + 1 :], [row[:at] + row[at + 1 :] for row in rows])

    return edit


def cut_stack(star: Path) -> None:
    stack = star.with_name("particles.mrcs")
    stack.write_bytes(stack.read_bytes()[:-1000])


def without_stack(star: Path) -> None:
    star.with_name("particles.mrcs").unlink()


def with_nan(star: Path) -> None:
    with mrcfile.mmap(star.with_name("particles.mrcs"), "r+") as stack:
        stack.data[4, 3, 3] = np.nan


def with_text(text: str) -> Edit:
    def edit(star: Path) -> None:
        star.write_text(text)

    return edit


EXTRA = "--ignore-optics-extras"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (without_column("rlnAngleTilt"), ["column rlnAngleTilt is missing", "orientation"]),
        (without_column("rlnDefocusU"), ["column rlnDefocusU is missing", "--no-ctf"]),
        (without_column("rlnImageName"), ["column rlnImageName is missing"]),
        (with_value("rlnAnglePsi", 2, "north"), ["particle 3, column rlnAnglePsi", "'north'", "not a number"]),
        (with_value("rlnDefocusV", 5, "nan"), ["particle 6, column rlnDefocusV", "finite"]),
        (with_value("rlnImageName", 1, "stack.mrcs"), ["particle 2, column rlnImageName", "000001@"]),
        (with_value("rlnImageName", 6, "000099@particles.mrcs"), ["particle 7", "rlnImageName", "only 8 images"]),
        (with_value("rlnImageName", 3, "1@gone.mrcs"), ["particle 4", "rlnImageName", "gone.mrcs", "--datadir"]),
        (without_stack, ["particle 1", "no such stack", "particles.mrcs", "--datadir"]),
        (cut_stack, ["particles.mrcs", "truncated", "particle 1"]),
        (with_nan, ["particle 5", "NaN"]),
        (with_column("rlnMagMat01", ["0"] * 7 + ["0.3"]), ["particle 8, column rlnMagMat01", "more than 10 %"]),
        (with_column("rlnOddZernike", ["[0,0,0,0,0,0,0.2]"] * N), ["particle 1, column rlnOddZernike", EXTRA]),
        (with_column("rlnEvenZernike", ["[0,0,0,0,0,0,0,0,0,1]"] * N), ["particle 1, column rlnEvenZernike", EXTRA]),
        (with_column("rlnCtfDataAreCtfPremultiplied", ["1"] * N), ["rlnCtfDataAreCtfPremultiplied", EXTRA]),
        (with_value("rlnRandomSubset", 1, "3"), ["particle 2, column rlnRandomSubset", "neither 1 nor 2"]),
        (with_column("rlnRandomSubset", ["1"] * N), ["rlnRandomSubset", "half set 2", "--halves random"]),
        (with_value("rlnOpticsGroup", 0, "7"), ["particle 1, column rlnOpticsGroup", "no row in data_optics"]),
        (with_text("a,b,c\n1,2,3\n"), ["not a well-formed STAR file"]),
        (with_text(""), ["empty"]),
    ],
)  # fmt: skip
def test_spoiled_particle_sets(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: Edit, words: list[str]
) -> None:
    star = folder / "particles.star"
    edit(star)
    error = refused(capsys, "reconstruct", star, "--out", tmp_path / "out", "--quiet", "--threads", 1)
    assert "set/particles" in error, "the file"
    for word in words:
        assert word in error, word
    # Nothing but the log stands where a second try would be refused.
    assert not (tmp_path / "out").exists() or [p.name for p in (tmp_path / "out").iterdir()] == ["run.log"]


def test_half_sets_for_some_particles_only(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = folder / "particles.star"
    with_value("rlnRandomSubset", 1, "0")(star)
    error = refused(capsys, "reconstruct", star, "--out", tmp_path / "out", "--quiet")
    assert "particle 2, column rlnRandomSubset" in error


def test_what_went_wrong_is_in_the_log_and_no_obstacle(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star, out = folder / "particles.star", tmp_path / "out"
    with_nan(star)
    for _ in range(2):
        error = refused(capsys, "reconstruct", star, "--out", out, "--quiet", "--threads", 1)
        assert "NaN" in error
        log = (out / "run.log").read_text()
        assert "ERROR" in log
        assert "NaN" in log


def test_every_warning_is_shown_and_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star, out = folder / "particles.star", tmp_path / "out"
    without_column("rlnRandomSubset")(star)
    with_column("rlnCtfDataAreCtfPremultiplied", ["1"] * N)(star)
    write_map(tmp_path / "mask.mrc", np.ones((BOX,) * 3), 2 * PIXEL_A)
    options = (
        "--max-resolution",
        1,
        EXTRA,
        "--mask",
        tmp_path / "mask.mrc",
        "--gaussians",
        5,
        "--threads",
        1,
    )
    assert gem3d("reconstruct", star, "--out", out, *options) == 0
    shown = " ".join(capsys.readouterr().err.split())
    log = " ".join((out / "run.log").read_text().split())
    kept = json.loads((out / "summary.json").read_text())["warnings"]
    for words in (
        "particle 1, column rlnCtfDataAreCtfPremultiplied: 1",
        "the half sets are drawn at random",
        "--max-resolution 1 is finer than Nyquist; 8 A is used",
        "voxels are 8 A wide",
    ):
        assert words in shown
        assert words in log
        assert any(words in warning for warning in kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume", "--overwrite"], ["--resume", "--overwrite"]),
        (["--epochs", "3"], ["--epochs", "--fit images"]),
        (["--fit", "images", "--epochs", "1"], ["--epochs 1", "2 or more"]),
        (["--freeze", "everything"], ["everything"]),
        (["--device", "cuda"], ["--device cuda", "--device cpu"]),
        (["--device", "abacus"], ["abacus"]),
        (["--gaussians", "0"], ["--gaussians 0", "positive"]),
        (["--gaussians", "many"], ["many"]),
        (["--threads", "-1"], ["--threads -1"]),
        (["--particle-diameter", "-5"], ["--particle-diameter -5", "positive"]),
        (["--particle-diameter", "3"], ["--particle-diameter 3", "32 to 56 A"]),
        (["--particle-diameter", "900"], ["--particle-diameter 900", "32 to 56 A"]),
        (["--max-resolution", "nan"], ["--max-resolution nan"]),
        (["--max-resolution", "60"], ["--max-resolution 60", "16.0 A or finer"]),
        (["--bfactor", "inf"], ["--bfactor inf"]),
        (["--mask", "absent.mrc"], ["absent.mrc", "no such file"]),
        (["--no-such-option"], ["no-such-option"]),
    ],
)
def test_settings_out_of_range(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    error = refused(
        capsys, "reconstruct", folder / "particles.star", "--out", tmp_path / "out", "--quiet", *options
    )
    for word in words:
        assert word in error, word
    assert not (tmp_path / "out").exists()


def test_masks_that_do_not_fit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(values: np.ndarray) -> str:
        write_map(tmp_path / "mask.mrc", values, PIXEL_A)
        arguments = (folder / "particles.star", "--out", tmp_path / "out", "--mask", tmp_path / "mask.mrc")
        return refused(capsys, "reconstruct", *arguments, "--quiet")

    message = error(np.ones((12, 12, 12)))
    assert "mask.mrc" in message
    assert "12 x 12 x 12" in message
    assert "16 x 16 x 16" in message
    assert "lies in 0 to 1" in error(np.full((BOX,) * 3, 3.0))
    assert "zero everywhere" in error(np.zeros((BOX,) * 3))


def test_places_that_will_not_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = folder / "particles.star"
    (tmp_path / "mine.txt").write_text("keep me")
    assert "not empty" in refused(capsys, "reconstruct", star, "--out", tmp_path, "--quiet")
    assert "is a file" in refused(capsys, "reconstruct", star, "--out", tmp_path / "mine.txt", "--quiet")
    below = tmp_path / "mine.txt" / "below"
    assert "mine.txt" in refused(capsys, "reconstruct", star, "--out", below, "--quiet")
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    assert "no such file" in refused(capsys, "reconstruct", tmp_path / "none.star", "--out", tmp_path / "out")
    a_folder = folder.rename(folder.with_suffix(".star"))
    assert "is a folder" in refused(capsys, "reconstruct", a_folder, "--out", tmp_path / "out")


def test_bad_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--out" in refused(capsys, "reconstruct", "particles.star")
    assert "reconstruct" in refused(capsys, "reconstrukt")


def test_help_explains_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for command in cli.COMMANDS:
        assert gem3d(command, "--help") == 0
        text = re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)
        options = re.split(r"\n\s+(?=--[a-z])", text)[1:]
        assert options
        for option in options:
            name, _, rest = option.strip().partition(" ")
            words = re.sub(r"\((default|required).*", "", rest, flags=re.DOTALL).split()
            assert len(words) >= 3, f"{command} {name} has no help"
            assert not re.search(r"(-px|-A|-A2|-deg)$", name), "units belong in the help, not in the name"
    assert gem3d() == 0
    assert gem3d("--version") == 0
    assert "gem3d 0." in capsys.readouterr().out


def test_faults_of_our_own_end_with_1_and_ctrl_c_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def failing(error: BaseException) -> Callable[..., None]:
        def run(*_: object) -> None:
            raise error

        return run

    arguments = ("fsc", tmp_path / "a.mrc", tmp_path / "b.mrc")
    monkeypatch.setattr(commands.Fsc, "run", failing(ZeroDivisionError("oops")))
    assert gem3d(*arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "fault of gem3d" in error
    monkeypatch.setattr(commands.Fsc, "run", failing(KeyboardInterrupt()))
    assert gem3d(*arguments) == 130
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(commands.Fsc, "run", failing(MemoryError()))
    assert gem3d(*arguments) == 2
    assert "not enough memory" in capsys.readouterr().err


# simulate


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--snr", "0"], "--snr 0"),
        (["--snr", "nan"], "--snr nan"),
        (["--box-size", "4"], "--box-size 4"),
        (["--pixel-size", "0"], "--pixel-size 0"),
        (["--particles", "0"], "--particles 0"),
        (["--envelope-bfactor", "-3"], "--envelope-bfactor -3"),
        (["--max-shift", "30"], "--max-shift 30"),
        (["--no-ctf", "--defocus-error", "100"], "--no-ctf"),
    ],
)
def test_simulations_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    write_map(tmp_path / "blob.mrc", np.ones((8, 8, 8)), 4.0)
    arguments = ("simulate", tmp_path / "blob.mrc", "--out", tmp_path / "out", "--box-size", 16, "--quiet")
    assert words in refused(capsys, *arguments, *options)
    assert not (tmp_path / "out").exists()


def test_a_coarse_map_is_simulated_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(tmp_path / "blob.mrc", np.ones((8, 8, 8)), 4.0)
    options = ("--box-size", 17, "--pixel-size", 2, "--particles", 3, "--threads", 1)
    assert gem3d("simulate", tmp_path / "blob.mrc", "--out", tmp_path / "out", *options) == 0
    error = " ".join(capsys.readouterr().err.split())
    assert "warning: the map's voxels are 4 A wide: it holds nothing finer than 8 A" in error
    assert read_map(tmp_path / "out" / "truth.mrc").values.shape == (17, 17, 17)


# render


@pytest.fixture
def gaussians(tmp_path: Path) -> Path:
    start = initialise_random(sphere_mask(24, 2.0, 30.0), 2.0, 100.0, 30, np.random.default_rng(0), 3.0)
    save_gaussians(start, tmp_path / "g.safetensors", 24, 2.0)
    return tmp_path / "g.safetensors"


def test_a_rendered_region_is_the_part_of_the_whole(gaussians: Path, tmp_path: Path) -> None:
    assert gem3d("render", gaussians, "--out", tmp_path / "whole.mrc") == 0
    region = ("--box-size", 9, "--centre", 20, 26, 30)
    assert gem3d("render", gaussians, "--out", tmp_path / "part.mrc", *region) == 0
    whole, part = read_map(tmp_path / "whole.mrc"), read_map(tmp_path / "part.mrc")
    assert whole.values.shape == (24,) * 3
    assert whole.origin_A == (0, 0, 0)
    assert part.origin_A == pytest.approx((12, 18, 22))
    expected = whole.values[11:20, 9:18, 6:15]
    np.testing.assert_allclose(part.values, expected, atol=1e-5 * whole.values.max())


def test_finer_voxels_lie_where_the_coarse_ones_do(gaussians: Path, tmp_path: Path) -> None:
    assert gem3d("render", gaussians, "--out", tmp_path / "whole.mrc") == 0
    assert gem3d("render", gaussians, "--out", tmp_path / "fine.mrc", "--pixel-size", 1) == 0
    whole, fine = read_map(tmp_path / "whole.mrc"), read_map(tmp_path / "fine.mrc")
    assert fine.values.shape == (48,) * 3
    assert fine.origin_A == (0, 0, 0)
    np.testing.assert_allclose(fine.values[::2, ::2, ::2], whole.values, atol=1e-5 * whole.values.max())


def test_renders_that_make_no_sense(
    gaussians: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.mrc"
    assert "--box-size 0" in refused(capsys, "render", gaussians, "--out", out, "--box-size", 0)
    assert "--pixel-size -1" in refused(capsys, "render", gaussians, "--out", out, "--pixel-size", -1)
    assert "--pixel-size 0.001" in refused(capsys, "render", gaussians, "--out", out, "--pixel-size", 0.001)
    assert "--centre nan" in refused(capsys, "render", gaussians, "--out", out, "--centre", "nan", 0, 0)
    assert "no such file" in refused(capsys, "render", tmp_path / "no.safetensors", "--out", out)
    assert "cannot be written" in refused(capsys, "render", gaussians, "--out", tmp_path / "no" / "m.mrc")
    assert not out.exists()
    far = ("--centre", 900, 0, 0, "--box-size", 8)
    assert gem3d("render", gaussians, "--out", out, *far) == 0
    assert "no Gaussian reaches" in capsys.readouterr().err
    assert "--overwrite" in refused(capsys, "render", gaussians, "--out", out)


def test_equal_gaussians_give_equal_files_with_the_modes_of_others(gaussians: Path, tmp_path: Path) -> None:
    start = initialise_random(sphere_mask(24, 2.0, 30.0), 2.0, 100.0, 30, np.random.default_rng(0), 3.0)
    for _ in range(5):
        save_gaussians(start, tmp_path / "again.safetensors", 24, 2.0)
        assert (tmp_path / "again.safetensors").read_bytes() == gaussians.read_bytes()
    (tmp_path / "plain").touch()
    assert gaussians.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with safe_open(gaussians, framework="pt") as file:
        assert file.metadata()["box_size_px"] == "24"


# fsc


def test_fsc_of_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    blob = rng.normal(size=(16, 16, 16))
    a, b, c, d = (tmp_path / f"{name}.mrc" for name in "abcd")
    write_map(a, blob, 2.0)
    write_map(b, blob + 0.01 * rng.normal(size=blob.shape), 2.0)
    write_map(c, blob, 2.5)
    write_map(d, np.ones((12, 12, 12)), 2.0)
    assert gem3d("fsc", a, b) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shell,resolution_A,fsc"
    assert [float(line.split(",")[2]) for line in lines[1:10]] == pytest.approx([1.0] * 9, abs=0.01)
    assert lines[3].startswith("2,16.000,")
    assert lines[-1].startswith("# FSC 0.143: not below")
    assert gem3d("fsc", a, c, "--pixel-size", 2) == 0
    capsys.readouterr()
    error = refused(capsys, "fsc", a, c)
    assert "c.mrc" in error
    assert "2.5" in error
    assert "--pixel-size" in error
    assert "a box of 12" in refused(capsys, "fsc", a, d)
    assert "mask has a box of 12" in refused(capsys, "fsc", a, b, "--mask", d)
    assert "lies in 0 to 1" in refused(capsys, "fsc", a, b, "--mask", b)
    write_map(d, np.zeros((16, 16, 16)), 2.0)
    assert "zero everywhere" in refused(capsys, "fsc", a, b, "--mask", d)
    write_map(d, np.zeros((16, 12, 16)), 2.0)
    assert "16 x 12 x 16" in refused(capsys, "fsc", a, d)
    write_map(d, blob, 0.0)
    assert gem3d("fsc", a, d) == 0
    assert "does not state the pixel size" in " ".join(capsys.readouterr().err.split())
    assert "--pixel-size" in refused(capsys, "fsc", d, d)

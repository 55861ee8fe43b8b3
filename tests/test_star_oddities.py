"""STAR files as they are found in the wild, and paths in them that lead elsewhere."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from command_line import refused
from gem3d.cli import main
from gem3d.errors import ParticleFileError
from gem3d.particles import read_relion_star
from gem3d.particles.cryosparc import read_cryosparc
from gem3d.particles.row_list import read_row_list
from gem3d.simulate import Simulation
from test_stack_oddities import images, things_that_are_no_files, write

COLUMNS = ("rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnDefocusU", "rlnDefocusV")
REST = ("rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
SIZE = ("rlnDetectorPixelSize", "rlnMagnification")


def star(
    names: tuple[str, ...] = ("000001@a.mrcs", "000002@a.mrcs"), block: str = "", blank: str = " "
) -> str:
    """One block as of RELION 3.0, of 2 A."""
    columns = (*COLUMNS, *REST, *SIZE)
    lines = [f"data_{block}", "", "loop_", *(f"_{name} #{i}" for i, name in enumerate(columns, 1))]
    values = ["10", "20", "30", "15000", "14000", "40", "300", "2.7", "0.1", "5", "25000"]
    return "\n".join([*lines, *(blank.join([name, *values]) for name in names), ""])


def read(path: Path, content: str | bytes) -> tuple[str, ...]:
    """Names of the stacks of a file of this content, whose other values must be right."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    particles = read_relion_star(path)
    np.testing.assert_allclose(particles.defocus_A, [[15000, 14000]] * len(particles))
    assert particles.pixel_size_A == 2
    return particles.stacks


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(ParticleFileError) as error:
        read(path, content)
    assert str(path) in str(error.value)
    return str(error.value)


def test_line_ends_tabs_and_marks_of_editors(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    tabs = star(blank="\t")
    for text in (
        star(),
        star().replace("\n", "\r\n"),
        tabs,
        tabs.replace("\n", " \t \r\n"),
        "\ufeff" + star(),
    ):
        assert read(path, text) == ("a.mrcs",)
    assert "UTF-16" in refusal(path, star().encode("utf-16"))


@pytest.mark.parametrize("block", ["", "particles", "images", "model_class_1", "Particles", "run_it020"])
def test_names_of_the_block(tmp_path: Path, block: str) -> None:
    assert read(tmp_path / "p.star", star(block=block)) == ("a.mrcs",)


def test_one_block_among_others(tmp_path: Path) -> None:
    general = "data_general\n\n_rlnCurrentResolution 3.2\n_rlnNote 'a b'\n\n"
    assert read(tmp_path / "p.star", general + star(block="images")) == ("a.mrcs",)


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("'1@a b.mrcs'", "a b.mrcs"),
        ('"1@a b.mrcs"', "a b.mrcs"),
        ("1@it's.mrcs", "it's.mrcs"),
        ("1@a'b\"c.mrcs", "a'b\"c.mrcs"),
        ("1@a#b.mrcs", "a#b.mrcs"),
        ("1@a@b.mrcs", "a@b.mrcs"),
        ("1@;a.mrcs", ";a.mrcs"),
        ("1@_a.mrcs", "_a.mrcs"),
        ("1@data_a.mrcs", "data_a.mrcs"),
        ("0000000000000000000000000001@a.mrcs", "a.mrcs"),
        ("1@./x//a.mrcs", "./x//a.mrcs"),
        ("1@" + "d/" * 50_000 + "a.mrcs", "d/" * 50_000 + "a.mrcs"),
    ],
)
def test_odd_names(tmp_path: Path, name: str, stack: str) -> None:
    assert read(tmp_path / "p.star", star((name, name))) == (stack,)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("1@a b.mrcs",), "a value with a blank in it needs quotes"),
        (("1@é.mrcs",), "line 16: not a well-formed STAR file (the character 'é'"),
        (("1@a\0.mrcs",), "line 16: not a well-formed STAR file (a byte 0x00"),
        (("1@a\x1b.mrcs",), "line 16: not a well-formed STAR file (a byte 0x1b"),
        (("1@",), "'1@' is not an image name"),
        (("0@a.mrcs",), "'0@a.mrcs' is not an image name"),
        (("-1@a.mrcs",), "is not an image name"),
        (("99999999999999999999@a.mrcs",), "is not an image name"),
        (("1.5@a.mrcs",), "is not an image name"),
        (("a.mrcs",), "000001@ before the name of a file of one image"),
        ((), "holds no particles"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    assert said in refusal(tmp_path / "p.star", star(names))


def test_other_files_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    assert "byte 0xe9 is not of text in UTF-8" in refusal(path, star(("1@é.mrcs",)).encode("latin-1"))
    assert "duplicate tag _rlnAngleRot" in refusal(path, star().replace("rlnAngleTilt", "rlnAngleRot"))
    assert "duplicate block name" in refusal(path, star() + star())
    packed = refusal(path, gzip.compress(star().encode()))
    assert f"gzip -dc {path} > {tmp_path / 'unpacked_p.star'}" in packed
    assert "is empty" in refusal(path, b"")
    assert "not a well-formed STAR file" in refusal(path, star()[:-20])
    assert "not a well-formed STAR file" in refusal(path, "particles,defocus\n1,2\n")
    assert str(path) in refusal(path, bytes(1000))
    assert str(path) in refusal(path, os.urandom(1000))


def test_a_line_of_a_megabyte(tmp_path: Path) -> None:
    text = (
        star(("1@a.mrcs",)).replace("rlnVoltage", "rlnVoltage\n_rlnNote").replace("300", f"300 {'x' * 10**6}")
    )
    assert read(tmp_path / "p.star", text) == ("a.mrcs",)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for path, said in things_that_are_no_files(tmp_path).values():
        for read_it in (read_relion_star, read_cryosparc, lambda path: read_row_list(path, 3)):
            with pytest.raises(ParticleFileError) as error:
                read_it(path)
            assert said in str(error.value)


@pytest.mark.parametrize("suffix", [".star", ".cs", ".txt", ".mrcs", ".pkl"])
def test_pipes_of_every_suffix_end_the_command(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    pipe = tmp_path / f"p{suffix}"
    os.mkfifo(pipe)
    refused(capsys, "reconstruct", str(pipe), "--out", str(tmp_path / "out"))
    refused(capsys, "reconstruct", str(pipe), "--poses", str(pipe), "--out", str(tmp_path / "out"))
    for option in ("--poses", "--ind", "--passthrough", "--mask", "--reference"):
        refused(capsys, "reconstruct", str(made.star), option, str(pipe), "--out", str(tmp_path / "out"))


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("where", ["outside", "absolute"])
@pytest.mark.parametrize("command", ["reconstruct", "convert", "inspect"])
def test_names_in_a_file_make_no_other_files(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, command: str
) -> None:
    """Names of stacks, micrographs, groups, blocks and columns never become those of outputs."""
    project, out = tmp_path / "a" / "b" / "project", tmp_path / "a" / "b" / "out"
    project.mkdir(parents=True)
    stack = tmp_path / "a" / "stack.mrcs"
    stack.write_bytes(made.stack.read_bytes())
    name = {"outside": "../../stack.mrcs", "absolute": str(stack)}[where]
    escapes = {"outside": "../../../escaped", "absolute": str(tmp_path / "escaped")}[where]
    lines = made.star.read_text().splitlines()
    text = "\n".join(line.replace(made.stack.name, name) for line in lines)
    assert name in text
    assert "opticsGroup1" in text
    text = text.replace("opticsGroup1", escapes)
    particle_file = project / "p.star"
    particle_file.write_text(text + f"\n\ndata_{escapes}\n\n_{escapes} {escapes}\n")
    before = tree(tmp_path)
    words = {
        "reconstruct": (
            "--out",
            str(out),
            "--gaussians",
            "100",
            "--first",
            "200",
            "--quiet",
            "--threads",
            "2",
        ),
        "convert": ("--out", str(tmp_path / "a" / "b" / "out.star")),
        "inspect": (),
    }[command]
    main([command, str(particle_file), *words])
    made_now = tree(tmp_path) - before
    allowed = {"reconstruct": "a/b/out", "convert": "a/b/out.star", "inspect": "-"}[command]
    assert all(path.startswith(allowed) for path in made_now), made_now
    assert not any("escaped" in path for path in made_now)
    capsys.readouterr()


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../../../etc/passwd", "/dev/stdin", "/dev/full"])
def test_names_of_what_is_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write(tmp_path / "a.mrcs", images())
    (tmp_path / "p.star").write_text(star((f"1@{name}", "1@a.mrcs")))
    said = refused(capsys, "reconstruct", str(tmp_path / "p.star"), "--out", str(tmp_path / "out"))
    assert name in said

"""`gem3d convert`: what is kept, what follows the options, and that RELION reads the result."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import gemmi
import numpy as np
import pytest

from command_line import refused
from gem3d.cli import main
from gem3d.convert import convert
from gem3d.errors import Gem3dWarning, ImageStackError
from gem3d.input_settings import InputSettings, ParticleSettings
from gem3d.inputs import open_images
from gem3d.maps import read_map
from gem3d.particles import angles_between_deg, read_particles, read_relion_star
from gem3d.particles.poses import mirror_poses
from gem3d.simulate import Simulation

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data is not here")
needs_relion = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="RELION (Debian: relion) is not installed"
)

OPTICS = """
# version 30001
data_optics

loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnBeamTiltX
_rlnMtfFileName
1 first 300.0 2.70 0.1 1.50 0.3 'my mtf.star'
7 'the second' 300 2.7 0.1 1.50 0.0 "it's.star"
"""
PARTICLES = """
data_particles

loop_
_rlnImageName
_rlnMicrographName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnOpticsGroup
_rlnRandomSubset
_rlnUnheardOf
1@a.mrcs     'my mic.mrc' 10.50 -20 200 3.0 -1.50 10000 9000 0 7 1 'two words'
2@a.mrcs     m2.mrc       11 25 -30.000 0 0.0   11000 9000.0 0 1 2 x#y
'3@a b.mrcs' "it's.mrc"   12 30 -30  1.25 4.00  1.2e4 9000 0 7 2 [1,2]
"""
ONE_BLOCK = """
data_

loop_
_rlnImageName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginX
_rlnOriginY
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnMagnification
_rlnDetectorPixelSize
_rlnUnheardOf
1@a.mrcs 10 20 30 2.5 -1 10000 9000 0 300 2.7 0.1 25000.0 5.00 x
2@a.mrcs 11 21 31 0 0    11000 9000 0 300 2.7 0.1 25000.0 5.00 'a b'
"""


@pytest.fixture
def star(tmp_path: Path) -> Path:
    path = tmp_path / "in.star"
    path.write_text(OPTICS + PARTICLES)
    return path


def written(star: Path, *options: str, out: str = "out.star") -> Path:
    target = star.with_name(out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(["convert", str(star), "--out", str(target), *options])
    return target


def table(path: Path, block: str) -> dict[str, list[str]]:
    """Columns as the file writes them."""
    found = next(b for b in gemmi.cif.read_file(str(path)) if b.name.strip() == block)
    loop = next(iter(found)).loop
    return {tag.removeprefix("_"): list(found.find_loop(tag)) for tag in loop.tags}


def test_everything_is_kept_word_for_word(star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = written(star)
    said = " ".join(capsys.readouterr().err.split())
    assert "out.star: 3 particles" in said
    assert "warning" not in said, "beam tilt stays in the file"
    for block in ("optics", "particles"):
        assert table(out, block) == table(star, block)
    assert "# version 30001" in out.read_text()


def test_a_part_keeps_its_rows_and_its_optics(star: Path) -> None:
    out = written(star, "--select", "rlnOpticsGroupName=='the second'")
    for column, values in table(star, "particles").items():
        assert table(out, "particles")[column] == [values[0], values[2]], column
    assert table(out, "optics")["rlnOpticsGroupName"] == ["'the second'"]
    assert table(out, "optics")["rlnMtfFileName"] == ['"it\'s.star"']
    read = read_relion_star(out)
    assert [group.name for group in read.optics] == ["the second"]
    assert read.stacks == ("a.mrcs", "a b.mrcs")
    assert len(read_relion_star(written(star, "--first", "1", out="one.star"))) == 1


def test_rows_by_number(star: Path) -> None:
    (star.parent / "ind.txt").write_text("2\n0\n")
    out = written(star, "--ind", str(star.parent / "ind.txt"))
    assert table(out, "particles")["rlnUnheardOf"] == ["'two words'", "[1,2]"]
    # A part of a part is again of its own file's rows.
    again = written(out, "--select", "rlnRandomSubset==2", out="again.star")
    assert table(again, "particles")["rlnUnheardOf"] == ["[1,2]"]


def test_a_pixel_size(star: Path) -> None:
    out = written(star, "--pixel-size", "1.2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = (read_relion_star(path, ignore_extras=True) for path in (star, out))
    assert {group.pixel_size_A for group in after.optics} == {1.2}
    np.testing.assert_allclose(after.shifts_A / 1.2, before.shifts_A / 1.5, rtol=1e-12)
    unlike = {
        (block, column)
        for block in ("optics", "particles")
        for column, values in table(star, block).items()
        if table(out, block)[column] != values
    }
    assert unlike == {
        ("optics", "rlnImagePixelSize"),
        ("particles", "rlnOriginXAngst"),
        ("particles", "rlnOriginYAngst"),
    }


def test_a_pixel_size_of_one_block(tmp_path: Path) -> None:
    star = tmp_path / "in.star"
    star.write_text(ONE_BLOCK)
    assert table(written(star, out="same.star"), "") == table(star, "")
    out = written(star, "--pixel-size", "1.6")
    after = read_relion_star(out)
    assert after.pixel_size_A == pytest.approx(1.6, rel=1e-14)
    np.testing.assert_allclose(after.shifts_A / 1.6, read_relion_star(star).shifts_A / 2.0, rtol=1e-12)
    unlike = [column for column, values in table(star, "").items() if table(out, "")[column] != values]
    assert unlike == ["rlnMagnification"], "origins in pixels stay, and so does the detector"


def test_the_other_hand_and_back(star: Path) -> None:
    other = written(star, "--flip-hand", "--select", "rlnOpticsGroup==7")
    back = written(other, "--flip-hand", out="back.star")
    first, second, third = (read_relion_star(written(path, "--select", "rlnOpticsGroup==7", out=f"{i}.star"))
                            for i, path in enumerate((star, other, back)))  # fmt: skip
    np.testing.assert_allclose(second.rotations, mirror_poses(first.rotations), atol=1e-12)
    assert angles_between_deg(third.rotations, first.rotations).max() < 1e-5
    unlike = {
        c for c, values in table(star, "particles").items() if table(other, "particles")[c] != values[::2]
    }
    assert unlike == {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"}


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "relion31.star",
        "relion31.v2.star",
        "relion31.6opticsgroups.star",
        "sample_particles_relion30.star",
        "sample_particles_relion31.star",
    ],
)
def test_files_of_real_programs(tmp_path: Path, name: str) -> None:
    source = SHARED / "formats" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = read_particles(source, ignore_extras=True)
    assert len(convert(source, tmp_path / "out.star")) == len(given)
    for block in gemmi.cif.read_file(str(source)):
        if any(item.loop for item in block):
            before, after = (table(path, block.name.strip()) for path in (source, tmp_path / "out.star"))
            n_rows = {len(values) for values in after.values()}
            assert len(n_rows) == 1
            if block.name.strip() != "optics":  # where groups without particles are dropped
                assert {column: after[column] for column in before} == before


def test_paths(made: Simulation, tmp_path: Path) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "Extract").mkdir(parents=True)
    elsewhere.mkdir()
    shutil.copy(made.stack, project / "Extract" / "a_s.mrc")
    star = elsewhere / "in.star"
    star.write_text(made.star.read_text().replace("@particles.mrcs", "@Extract/a_s.mrc"))
    with pytest.raises(ImageStackError, match="no such stack"):
        open_images(star, InputSettings())
    # Kept as they are unless asked for: they are RELION's, of its project folder; the stacks need not be here.
    assert table(written(star), "particles") == table(star, "particles")
    with pytest.raises(ImageStackError, match="no such stack"):
        convert(star, elsewhere / "none.star", ParticleSettings(datadir=elsewhere))
    assert not (elsewhere / "none.star").exists()
    out = written(star, "--datadir", str(project), out="absolute.star")
    # RELION takes an .mrc file for a volume unless told otherwise.
    assert table(out, "particles")["rlnImageName"][1] == f"000002@{project}/Extract/a_s.mrc:mrcs"
    ours, theirs = (
        next(open_images(path, InputSettings()).batches(np.arange(3), 3)).images for path in (out, made.star)
    )
    np.testing.assert_array_equal(ours, theirs)


@needs_shared
def test_cryosparc_without_its_stacks(tmp_path: Path) -> None:
    """The names are kept then, and RELION's hint added that a .mrc file is a stack."""
    source, out = SHARED / "formats" / "cryosparc_P12_J24_001_particles.cs", tmp_path / "out.star"
    with pytest.warns(Gem3dWarning, match=r"no such stack.*are written as they are"):
        given = convert(source, out)
    read = read_particles(out)
    assert all(name.startswith("J19/extract/") and name.endswith(".mrc:mrcs") for name in read.stacks)
    assert angles_between_deg(read.rotations, given.rotations).max() < 1e-5
    for name in ("shifts_A", "defocus_A", "ctf_scale", "half_set", "image_index"):
        np.testing.assert_allclose(getattr(read, name), getattr(given, name), rtol=1e-12, err_msg=name)
    with pytest.raises(ImageStackError, match="no such stack"):
        convert(source, out, ParticleSettings(datadir=tmp_path), overwrite=True)


def test_half_sets_are_not_made_up(star: Path) -> None:
    assert "rlnRandomSubset" in table(written(star), "particles")
    lines = star.read_text().replace("_rlnRandomSubset\n", "_rlnOther\n")
    star.write_text(lines)
    assert "rlnRandomSubset" not in table(written(star, out="none.star"), "particles")


def test_what_is_refused(star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there.star"
    there.write_text("precious")

    def says(out: Path, *more: str) -> str:
        return refused(capsys, "convert", str(star), "--out", str(out), *more)

    assert "is there already" in says(there)
    assert "only STAR files are written" in says(tmp_path / "out.cs")
    assert "is the file to be read" in says(star, "--overwrite")
    assert "is the file to be read" in says(tmp_path / "." / "in.star", "--overwrite")
    assert "cannot be written" in says(tmp_path / "absent" / "out.star")
    assert "no column rlnX" in says(there, "--overwrite", "--select", "rlnX==1")
    assert there.read_text() == "precious"
    written(star, "--overwrite", out="there.star")
    assert len(table(there, "particles")["rlnImageName"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.star", "there.star"]


def relion_map(star: Path, name: str) -> np.ndarray:
    """RELION's own reconstruction of what a STAR file says."""
    command = ["relion_reconstruct", "--i", star.name, "--o", name, "--ctf"]
    subprocess.run(command, cwd=star.parent, check=True, capture_output=True)
    return read_map(star.parent / name).values


@needs_relion
def test_relion_reads_what_is_written(made: Simulation, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copy(made.stack, folder)
    shutil.copy(made.star, folder)
    star = folder / made.star.name
    whole = relion_map(star, "whole.mrc")
    np.testing.assert_array_equal(relion_map(written(star, out="same.star"), "same.mrc"), whole)

    # The other hand is the mirror image, by another program's account.
    other = relion_map(written(star, "--flip-hand", out="other.star"), "other.mrc")
    mirrored = whole[(-np.arange(len(whole))) % len(whole)]
    # Its interpolation is not quite alike in z and -z.
    assert np.corrcoef(other[1:].ravel(), mirrored[1:].ravel())[0, 1] > 0.999
    assert np.corrcoef(other.ravel(), whole.ravel())[0, 1] < 0.9

    # Half 1 chosen by us, and by RELION itself.
    half = relion_map(written(star, "--select", "rlnRandomSubset==1", out="half.star"), "half.mrc")
    command = ["relion_reconstruct", "--i", star.name, "--o", "subset.mrc", "--ctf", "--subset", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    np.testing.assert_allclose(half, read_map(folder / "subset.mrc").values, atol=1e-5 * np.abs(half).max())

    scaled = written(star, "--pixel-size", "5.0", out="scaled.star")
    relion_map(scaled, "scaled.mrc")
    assert read_map(folder / "scaled.mrc").voxel_size_A == pytest.approx(5.0)


@needs_relion
def test_relion_reads_absolute_paths_of_any_suffix(made: Simulation, tmp_path: Path) -> None:
    shutil.copy(made.stack, tmp_path / "s.mrc")
    (tmp_path / "in.star").write_text(made.star.read_text().replace("@particles.mrcs", "@s.mrc"))
    out = written(tmp_path / "in.star", "--datadir", str(tmp_path))
    assert np.abs(relion_map(out, "map.mrc")).max() > 0

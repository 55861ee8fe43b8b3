"""Images that are listed twice: across the half sets a fault, within one worth a warning."""

from __future__ import annotations

import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command_line import refused
from gem3d.errors import Gem3dWarning, ParticleFileError
from gem3d.inputs import _refuse_shared_images, find_images
from gem3d.particles import Particles, write_relion_star
from gem3d.settings import ReconstructSettings
from gem3d.simulate import Simulation

AUTO, RANDOM = ReconstructSettings(), ReconstructSettings(halves="random")


def written(made: Simulation, folder: Path, rows: list[int], halves: list[int], **changes: object) -> Path:
    """A STAR file of some rows of a set, beside its stack."""
    folder.mkdir(exist_ok=True)
    shutil.copy(made.stack, folder)
    star = folder / "particles.star"
    chosen = made.particles.subset(np.array(rows))
    changed: Particles = replace(chosen, half_set=np.array(halves, dtype=np.int8), source=star, **changes)
    write_relion_star(changed, star)
    return star


def test_images_in_both_half_sets_are_refused(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = written(made, tmp_path, [5, 1, 7, 1, 9, 5, 1], [1, 1, 2, 2, 2, 2, 1])
    expected = (
        f"{star}: 2 images are in both half sets, the first as particle 1 (000006@particles.mrcs) and particle 6 "
        "(000006@particles.mrcs): the half maps then share noise"
    )
    with pytest.raises(ParticleFileError) as error:
        find_images(star, AUTO)
    assert expected in str(error.value)
    assert "Remove the repeated rows" in str(error.value)
    message = refused(capsys, "reconstruct", str(star), "--out", str(tmp_path / "out"), "--quiet")
    assert "2 images are in both half sets" in message


def test_other_names_of_a_file_do_not_hide_it(made: Simulation, tmp_path: Path) -> None:
    n = 4
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked.mrcs").symlink_to("particles.mrcs")
    for other in ("./particles.mrcs", "../set/particles.mrcs", "linked.mrcs"):
        star = written(
            made,
            tmp_path / "set",
            [0, 1, 2, 0],
            [1, 1, 2, 2],
            stacks=("particles.mrcs", other),
            stack_index=np.array([0] * (n - 1) + [1], dtype=np.int32),
        )
        with pytest.raises(
            ParticleFileError, match=r"1 image is in both half sets, the first as particle 1 "
        ):
            find_images(star, AUTO)


def test_an_image_twice_in_a_half_set_is_told(made: Simulation, tmp_path: Path) -> None:
    star = written(made, tmp_path, [3, 4, 4, 6, 4], [1, 2, 2, 1, 2])
    with pytest.warns(
        Gem3dWarning, match=r"2 rows repeat the image .* particle 2 \(000005@.* and particle 3 \("
    ):
        _, halves = find_images(star, AUTO)
    assert halves.tolist() == [1, 2, 2, 1, 2]
    star = written(made, tmp_path, [3, 3, 4], [1, 1, 2])
    with pytest.warns(
        Gem3dWarning, match=r"1 row repeats the image of an earlier one.*as often as it is listed"
    ):
        find_images(star, AUTO)


def test_half_sets_drawn_at_random_are_held_to_the_same(made: Simulation, tmp_path: Path) -> None:
    star = written(made, tmp_path, list(range(40)) * 2, [1] * 80)
    with pytest.raises(ParticleFileError, match=r"images are in both half sets.*the same rlnRandomSubset"):
        find_images(star, RANDOM)


def test_one_number_in_two_stacks_is_two_images(made: Simulation, tmp_path: Path) -> None:
    shutil.copy(made.stack, tmp_path / "other.mrcs")
    star = written(
        made,
        tmp_path,
        [0, 1, 0, 1],
        [1, 2, 2, 1],
        stacks=("particles.mrcs", "other.mrcs"),
        stack_index=np.array([0, 0, 1, 1], dtype=np.int32),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_images(star, AUTO)


def test_a_million_rows_take_no_time(made: Simulation, tmp_path: Path) -> None:
    """The check alone; images of a stack that is not there."""
    star = written(made, tmp_path, [0, 1], [1, 2])
    images, _ = find_images(star, AUTO)
    n = 1_000_000
    rng = np.random.default_rng(0)
    many = images.particles.subset(np.zeros(n, dtype=np.int64))
    images.particles = replace(many, image_index=rng.permutation(n).astype(np.int32))
    begun = time.perf_counter()
    _refuse_shared_images(star, images, np.ones(n, dtype=np.int8))
    assert time.perf_counter() - begun < 2

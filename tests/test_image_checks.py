"""Images that cannot be used: left out, listed and counted, or too many of them; and values that cannot be right."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from command_line import refused
from gem3d.cli import main
from gem3d.errors import Gem3dWarning, ImageStackError, ParticleFileError
from gem3d.fit.accumulate import accumulate
from gem3d.fit.observations import Observations
from gem3d.fit.sample import look_at_sample
from gem3d.maps import read_map
from gem3d.particles import ExcludedImages, ImageSource, measure_images, read_particles, write_excluded
from gem3d.particles.excluded import REASONS
from gem3d.particles.plausibility import check_values, find_odd_values
from gem3d.particles.preprocess import EXTREME, GOOD, HOT_PIXEL
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data is not here")
BAD = {7: "not_finite", 120: "constant", 299: "hot_pixel"}
FAST = ("--threads", "1", "--gaussians", "200", "--quiet")


def spoil(made: Simulation, folder: Path) -> Path:
    """A copy of a set of 300, three images of which are of no use: 1 %, as many as may be."""
    folder.mkdir(exist_ok=True)
    for file in (made.star, made.stack):
        shutil.copy(file, folder)
    with mrcfile.mmap(folder / made.stack.name, "r+") as stack:
        stack.data[7, 3, 4] = np.nan
        stack.data[120] = 5.0
        stack.data[299, 16, 16] = 1e6
    return folder / made.star.name


@pytest.fixture(scope="module")
def spoiled(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoil(made, tmp_path_factory.mktemp("spoiled"))


def rows_of(star: Path) -> tuple[list[str], list[list[str]]]:
    table = gemmi.cif.read_file(str(star)).find_block("particles").find_loop("_rlnImageName").get_loop()
    width = table.width()
    return list(table.tags), [table.values[i : i + width] for i in range(0, len(table.values), width)]


def summary_of(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


def check_outputs(star: Path, out: Path, bad: dict[int, str]) -> None:
    summary = summary_of(out)
    reasons = {reason: list(bad.values()).count(reason) for reason in bad.values()}
    assert summary["particles_excluded"] == {"total": len(bad), "reasons": reasons}
    assert sum(summary["particles"].values()) == 300 - len(bad)
    (told,) = (warning for warning in summary["warnings"] if "left out" in warning)
    assert "excluded.star" in told
    assert "particle 8 (000008@particles.mrcs): NaN or infinite pixels" in told
    tags, rows = rows_of(star)
    listed_tags, listed = rows_of(out / "excluded.star")
    assert listed_tags == [*tags, "_gem3dExcluded"]
    assert listed == [[*rows[row], reason] for row, reason in bad.items()], "word for word"
    assert len(read_particles(out / "excluded.star")) == len(bad), "a particle file as others"
    for name in ("half1.mrc", "half2.mrc", "map.mrc"):
        assert np.isfinite(read_map(out / name).values).all()


@pytest.mark.parametrize("normalise", [True, False])
def test_reconstruction_leaves_them_out(spoiled: Path, tmp_path: Path, normalise: bool) -> None:
    out = tmp_path / "out"
    main(["reconstruct", str(spoiled), "--out", str(out), *FAST, *([] if normalise else ["--no-normalise"])])
    check_outputs(spoiled, out, BAD if not normalise else {**BAD, 120: "constant_background"})


def test_training_by_images_leaves_them_out(spoiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["reconstruct", str(spoiled), "--out", str(out), "--fit", "images", "--epochs", "2", *FAST])
    check_outputs(spoiled, out, {**BAD, 120: "constant_background"})


def test_refinement_leaves_them_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = simulate(
        packaged_structure(),
        tmp_path / "wrong",
        300,
        32,
        6.6,
        5.0,
        seed=1,
        angle_error_deg=4,
        shift_error_px=0.5,
    )
    spoiled = spoil(wrong, tmp_path / "spoiled")
    main(["refine", str(spoiled), "--out", str(out), "--rounds", "1", *FAST])
    check_outputs(spoiled, out, {**BAD, 120: "constant_background"})
    given, refined = read_particles(spoiled), read_particles(out / "particles_refined.star")
    np.testing.assert_allclose(refined.rotations[list(BAD)], given.rotations[list(BAD)], atol=1e-9)
    assert len(refined) == 300
    others = np.setdiff1d(np.arange(300), list(BAD))
    moved = np.abs(refined.rotations - given.rotations).max((1, 2))
    assert (moved[others] > 1e-6).all()


def test_the_list_of_an_earlier_run_goes(spoiled: Path, made: Simulation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "excluded.star").write_text("of an earlier run")
    main(["reconstruct", str(made.star), "--out", str(out), "--overwrite", *FAST])
    assert not (out / "excluded.star").exists()
    assert summary_of(out)["particles_excluded"] == {"total": 0, "reasons": {}}


def test_too_many_are_refused(spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(spoiled.parent, tmp_path / "set")
    with mrcfile.mmap(tmp_path / "set" / "particles.mrcs", "r+") as stack:
        stack.data[200, 0, 0] = np.inf
    star = tmp_path / "set" / spoiled.name
    message = refused(capsys, "reconstruct", str(star), "--out", str(tmp_path / "out"), *FAST)
    assert "4 images of 300 cannot be used" in message
    assert "particle 8 (000008@particles.mrcs): NaN or infinite pixels; particle 121 (" in message
    assert "over 1 %" in message
    assert "extract them again" in message
    assert "--no-normalise" in message, "as one of them has a constant background"
    assert not (tmp_path / "out" / "map.mrc").exists()


def test_every_pass_agrees_and_progress_comes_to_its_end(spoiled: Path) -> None:
    """The last batch holds one image, which is of no use."""
    observations = Observations.of(ImageSource(read_particles(spoiled)), 14.0)
    sample = look_at_sample(observations, 0)
    assert [int(row) for row in sample.rows[sample.statistics.status != GOOD]] == list(BAD)
    observations.excluded.usual_power = sample.usual_power
    order = np.arange(300)
    batches = list(observations.batches(order, 23))
    assert sum(batch.n_read for batch in batches) == 299, "nothing follows the last"
    seen = np.concatenate([batch.rows for batch in batches])
    np.testing.assert_array_equal(seen, np.setdiff1d(order, list(BAD)))
    np.testing.assert_array_equal(observations.excluded.rows, list(BAD))
    np.testing.assert_array_equal(observations.excluded.without(order[::-1]), seen[::-1])
    again = observations.at(observations.images.particles)
    assert again.excluded is observations.excluded
    calls = []
    halves = observations.images.particles.half_set
    sets = accumulate(observations, halves, seed=0, progress=lambda *call: calls.append(call[:2]))
    assert calls[-1] == (300, 300)
    assert sum(half.training.n_particles + half.held_out.n_particles for half in sets) == 297
    assert len(observations.excluded) == 3


def test_power_far_above_the_others() -> None:
    excluded = ExcludedImages(1000)
    excluded.usual_power = 1.0
    images = np.random.default_rng(0).normal(0, 1, (4, 32, 32)).astype(np.float32)
    images[1] *= 9
    images[3] *= 11
    found = measure_images(images, 12, normalise=False)
    particles = None  # needed for messages only
    good = excluded.judge(np.array([5, 6, 7, 8]), found, particles)  # type: ignore[arg-type]
    np.testing.assert_array_equal(good, [True, True, True, False])
    assert excluded.reasons() == [REASONS[EXTREME][0]]
    normalised = measure_images(images, 12, normalise=True)
    assert excluded.judge(np.array([9, 10, 11, 12]), normalised, particles).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("box", [32, 63, 128])
def test_one_hot_pixel_is_told_from_all_that_belongs_to_real_images(box: int) -> None:
    """3dem/relion#848 and #561: hot pixels and gold; edges of carbon and crystals of ice are no reason to go."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:box, :box] - box // 2
    carbon, ice = 20 * (x + y > 0), 10 * (x**2 + (y - 5) ** 2 < (0.2 * box) ** 2)
    bead, ramp = 40 * ((x - 4) ** 2 + y**2 < 36), 10 * x / box
    for pattern in (carbon, ice, bead, ramp, 0 * x):
        images = (rng.normal(0, 1, (20, box, box)) + pattern).astype(np.float32)
        assert not measure_images(images, 0.45 * box, normalise=True).status.any()
    images = rng.normal(0, 1, (20, box, box)).astype(np.float32)
    images[:, 3, 5] += 2.0 * box
    assert (measure_images(images, 0.45 * box, normalise=True).status == HOT_PIXEL).all()


@needs_shared
def test_real_images_are_fine() -> None:
    with mrcfile.open(SHARED / "formats" / "empiar_10076_7.mrc", permissive=True) as stack:
        images = stack.data.astype(np.float32)
    for normalise in (True, False):
        found = measure_images(images.copy(), 0.45 * images.shape[1], normalise=normalise)
        assert not found.status.any()
        assert found.power.max() < 1.1 * np.median(found.power)


def test_the_list_without_a_star_file(made: Simulation, tmp_path: Path) -> None:
    particles = replace(made.particles, source=tmp_path / "particles.cs")
    excluded = ExcludedImages(len(particles))
    excluded.statuses[[4, 9]] = HOT_PIXEL
    write_excluded(particles, excluded, tmp_path / "excluded.star")
    tags, rows = rows_of(tmp_path / "excluded.star")
    assert [row[0] for row in rows] == ["000005@particles.mrcs", "000010@particles.mrcs"]
    assert tags[-1] == "_gem3dExcluded"
    assert [row[-1] for row in rows] == ["hot_pixel", "hot_pixel"]


def with_optics(made: Simulation, **values: float):
    return replace(made.particles, optics=(replace(made.particles.optics[0], **values),))


def with_first(made: Simulation, field: str, n: int, value: object):
    values = getattr(made.particles, field).copy()
    values[:n] = value
    return replace(made.particles, **{field: values})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: with_optics(m, voltage_kV=300_000.0), "a voltage of 300000 kV; give it in kV"),
        (lambda m: with_optics(m, pixel_size_A=0.0), "a pixel size of 0 A"),
        (lambda m: with_optics(m, amplitude_contrast=7.0), "an amplitude contrast of 7; give a fraction"),
        (
            lambda m: with_first(m, "shifts_A", 200, 200.0),
            "200 particles have shifts of more than half the box",
        ),
        (lambda m: with_first(m, "shifts_A", 1, np.nan), "1 particle has shift that is not a finite number"),
        (
            lambda m: with_first(m, "rotations", 2, 2 * np.eye(3)),
            "2 particles have an orientation that is no rotation",
        ),
        (
            lambda m: with_first(m, "rotations", 1, -np.eye(3)),
            "1 particle has an orientation that is no rotation",
        ),
    ],
)
def test_values_that_cannot_be_right(made: Simulation, change, words: str) -> None:
    with pytest.raises(ParticleFileError) as error:
        check_values(change(made))
    assert words in str(error.value)
    assert str(made.star) in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: with_optics(m, voltage_kV=30.0), "unusual voltage of 30 kV"),
        (lambda m: with_optics(m, pixel_size_A=66.0), "unusual pixel size of 66 A"),
        (
            lambda m: with_optics(m, spherical_aberration_mm=2700.0),
            "spherical aberration of 2700 mm; is it in mm",
        ),
        (lambda m: with_first(m, "shifts_A", 3, 200.0), "3 particles have shifts of more than half the box"),
        (
            lambda m: with_first(m, "defocus_A", 2, 150_000.0),
            r"2 particles have a defocus above 10 um, the first being",
        ),
        (lambda m: with_first(m, "defocus_A", 1, -9000.0), r"particle 1 \(000001@particles.mrcs\)"),
        (lambda m: with_first(m, "defocus_A", 300, 1.5), "have a defocus below 1.5 A; is it in A"),
    ],
)
def test_values_that_hardly_are_right(made: Simulation, change, words: str) -> None:
    with pytest.warns(Gem3dWarning, match=words):
        check_values(change(made))


@needs_shared
@pytest.mark.parametrize("name", ["relion31.star", "relion5.star", "relion31.6opticsgroups.star"])
def test_real_metadata_is_not_odd(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Gem3dWarning)
        particles = read_particles(SHARED / "formats" / name, ignore_extras=True)
    assert list(find_odd_values(particles)) == []


def test_a_set_of_nothing_but_bad_images(made: Simulation, tmp_path: Path) -> None:
    """ml-struct-bio/cryodrgn#18: NaN in the images must never be NaN in the result."""
    for file in (made.star, made.stack):
        shutil.copy(file, tmp_path)
    with mrcfile.mmap(tmp_path / made.stack.name, "r+") as stack:
        stack.data[:] = np.nan
    observations = Observations.of(ImageSource(read_particles(tmp_path / made.star.name)), 14.0)
    sample = look_at_sample(observations, 0)
    assert sample.usual_power is None
    assert sample.sign.sign == 0
    with pytest.raises(ImageStackError, match="cannot be used"):
        list(observations.batches(np.arange(300), 100))

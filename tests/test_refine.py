"""`gem3d refine`: better poses and maps, halves apart, columns kept, and a run that survives being killed."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from command_line import HOLD_TIMES, killed_once_there, refused
from gem3d.assess import fourier_shell_correlation
from gem3d.cli import main
from gem3d.errors import Gem3dError
from gem3d.maps import read_map
from gem3d.particles import Particles, angles_between_deg, read_particles, write_relion_star
from gem3d.run_directory import CHECKPOINTS, REFINEMENT_RESULTS, RESULTS
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure

BOX, PIXEL_A = 40, 5.3
OPTIONS = ("--threads", "2", "--gaussians", "400", "--quiet")
ROUNDS = ("--rounds", "2")


def arguments(star: Path, out: Path, *extra: str) -> list[str]:
    return ["refine", str(star), "--out", str(out), *OPTIONS, *ROUNDS, *extra]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """600 particles whose poses, shifts and defoci are wrong."""
    return simulate(
        packaged_structure(),
        tmp_path_factory.mktemp("wrong"),
        600,
        BOX,
        PIXEL_A,
        0.3,
        seed=3,
        angle_error_deg=3.0,
        shift_error_px=0.6,
        defocus_error_A=200.0,
    )


@pytest.fixture(scope="module")
def finished(wrong: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined") / "run"
    main(arguments(wrong.star, out))
    return out


def pose_error_deg(found: Particles, true: Particles) -> float:
    return float(np.sqrt(np.square(angles_between_deg(found.rotations, true.rotations)).mean()))


def results_of(out: Path) -> dict[str, bytes]:
    """Every result but those that hold times."""
    names = {*RESULTS, *REFINEMENT_RESULTS} - HOLD_TIMES
    return {name: (out / name).read_bytes() for name in names}


def test_poses_and_maps_get_better(finished: Path, wrong: Simulation, tmp_path: Path) -> None:
    true = wrong.true_particles
    refined = read_particles(finished / "particles_refined.star")
    assert pose_error_deg(refined, true) < 0.5 * pose_error_deg(wrong.particles, true)
    # Defocus has its turn in the second round: where its maps are no better than those of the first, it is as given.
    for name, share in (("shifts_A", 0.6), ("defocus_A", 1.0)):
        before = np.square(getattr(wrong.particles, name) - getattr(true, name)).mean()
        assert np.square(getattr(refined, name) - getattr(true, name)).mean() <= share**2 * before
    assert refined.contrast.std() < 0.2
    main(["reconstruct", str(wrong.star), "--out", str(tmp_path / "before"), *OPTIONS])
    truth = read_map(wrong.truth).values
    after, before = (
        fourier_shell_correlation(read_map(folder / "map_unfiltered.mrc").values, truth)
        for folder in (finished, tmp_path / "before")
    )
    assert after[4:16].mean() > before[4:16].mean() + 0.05


def test_outputs_of_the_contract(finished: Path, wrong: Simulation) -> None:
    names = sorted(path.name for path in finished.iterdir())
    assert names == sorted([*RESULTS, *REFINEMENT_RESULTS, "run.log"])
    summary = json.loads((finished / "summary.json").read_text())
    rounds = summary["refinement"]["rounds"]
    assert [found["round"] for found in rounds] == [1, 2]
    with (finished / "refinement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["gain"]) for row in rows] == [found["gain"] for found in rounds]
    widths_deg = [float(row["sigma_angle_deg_half1"]) for row in rows]
    assert 2.2 < widths_deg[-1] < 3.8, "the errors are of 3 degrees"
    assert float(rows[0]["sigma_defocus_A_half1"]) == 0 < float(rows[1]["sigma_defocus_A_half1"])
    page = (finished / "refinement.html").read_text()
    assert "log likelihood gained" in page
    assert "<script src=" not in page, "it must open without a network"


def test_the_refined_file_keeps_every_column(wrong: Simulation, tmp_path: Path) -> None:
    """And has the half sets drawn, where there were none: particles must not change sides afterwards."""
    document = gemmi.cif.read_file(str(wrong.star))
    loop = document.find_block("particles").find_loop("_rlnImageName").get_loop()
    rows = list(loop.tags)
    values = [list(column) for column in zip(*[iter(loop.values)] * len(rows), strict=True)]
    half = rows.index("_rlnRandomSubset")
    optics = wrong.star.read_text().split("data_optics")[1].split("data_particles")[0]
    lines = ["data_optics", "", *optics.strip().split("\n")]
    lines += ["", "data_particles", "", "loop_"]
    lines += [tag for tag in rows if tag != "_rlnRandomSubset"] + ["_rlnMicrographName", "_labNote"]
    for number, row in enumerate(values):
        kept = [value for place, value in enumerate(row) if place != half]
        lines.append(" ".join([*kept, f"micrographs/{number % 40}.mrc", f"note{number}"]))
    star = tmp_path / "set" / "particles.star"
    star.parent.mkdir()
    star.write_text("\n".join(line for line in lines if not line.startswith("# version")) + "\n")
    shutil.copy(wrong.stack, star.parent)
    main(
        arguments(
            star, tmp_path / "run", "--rounds", "1", "--defocus", "micrograph", "--contrast", "micrograph"
        )
    )
    table = gemmi.cif.read_file(str(tmp_path / "run" / "particles_refined.star")).find_block("particles")
    assert list(table.find_values("_labNote")) == [f"note{number}" for number in range(len(values))]
    assert set(table.find_values("_rlnRandomSubset")) == {"1", "2"}
    width = np.array(table.find_values("_gem3dAngleWidth"), dtype=float)
    assert 0 < width.min() < width.max() < 10
    refined = read_particles(tmp_path / "run" / "particles_refined.star")
    change = (refined.defocus_A - wrong.particles.defocus_A)[:, 0]
    micrograph = np.arange(len(refined)) % 40
    # Common to the particles of a micrograph that are in the same half.
    for number in range(40):
        for number_of_half in (1, 2):
            inside = (micrograph == number) & (refined.half_set == number_of_half)
            assert np.ptp(change[inside]) < 1e-6


def test_a_killed_run_goes_on_to_the_same_result(
    wrong: Simulation, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    checkpoint = out / CHECKPOINTS / "refinement.safetensors"
    killed_once_there(checkpoint, *arguments(wrong.star, out, "--resume"))
    assert "go on with --resume" in refused(capsys, *arguments(wrong.star, out))
    message = refused(capsys, *arguments(wrong.star, out, "--resume", "--defocus", "fixed"))
    assert "defocus = particle, now it is fixed" in message
    main(arguments(wrong.star, out, "--resume"))
    assert results_of(out) == results_of(finished)
    log = (out / "run.log").read_text()
    assert log.count("round 1, accumulate: begun") == 1, "the round that was done is not done again"
    assert not (out / CHECKPOINTS).exists()


def test_half_1_does_not_see_half_2(
    wrong: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images in half 2. What the halves share is held fixed: the weight of each shell, and when to stop."""
    from gem3d.refine import rounds

    monkeypatch.setattr(rounds, "_last_shell", lambda calibrated: 12)
    monkeypatch.setattr(rounds, "_fsc_sum", lambda calibrated: 1.0)
    real = rounds._Course.refine

    def with_fixed_weight(self, found, reporter):  # type: ignore[no-untyped-def]
        weight = np.linspace(1, 0.3, len(found.calibrated.regression_weight))
        calibrated = replace(found.calibrated, regression_weight=weight)
        real(self, replace(found, calibrated=calibrated), reporter)

    monkeypatch.setattr(rounds._Course, "refine", with_fixed_weight)
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in (wrong.star, wrong.stack):
        shutil.copy(file, folder)
    second = np.flatnonzero(wrong.particles.half_set == 2)
    with mrcfile.mmap(folder / wrong.stack.name, "r+") as stack:
        stack.data[second] = np.roll(stack.data[second], 1, axis=0)
    before, after = (
        _refined(star, tmp_path / name) for name, star in (("a", wrong.star), ("b", folder / wrong.star.name))
    )
    for name in ("rotations", "shifts_A", "defocus_A", "contrast"):
        same = (getattr(before, name) == getattr(after, name)).reshape(len(before), -1).all(axis=1)
        assert same[before.half_set == 1].all(), name
        assert not same[second].all(), name


def _refined(star: Path, out: Path, *extra: str) -> Particles:
    main(arguments(star, out, *(extra or ("--rounds", "1"))))
    return read_particles(out / "particles_refined.star")


def test_noise_claims_nothing(wrong: Simulation, tmp_path: Path) -> None:
    folder = tmp_path / "noise"
    folder.mkdir()
    shutil.copy(wrong.star, folder)
    shutil.copy(wrong.stack, folder)
    with mrcfile.mmap(folder / wrong.stack.name, "r+") as stack:
        stack.data[:] = np.random.default_rng(5).standard_normal(stack.data.shape)
    out = tmp_path / "run"
    main(arguments(folder / wrong.star.name, out, "--rounds", "5"))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["resolution"]["claim"].startswith("none claimed")
    assert "do not agree" in summary["refinement"]["ended"]
    before, after = wrong.particles, read_particles(out / "particles_refined.star")
    np.testing.assert_allclose(after.rotations, before.rotations, atol=1e-12)


def test_reconstruct_refines_when_asked(wrong: Simulation, finished: Path, tmp_path: Path) -> None:
    words = ["reconstruct", str(wrong.star), "--out", str(tmp_path / "run"), *OPTIONS, "--refine", "--no-ctf"]
    main(words)
    refined = read_particles(tmp_path / "run" / "particles_refined.star")
    np.testing.assert_array_equal(refined.defocus_A, wrong.particles.defocus_A)


def test_good_poses_with_a_wrong_defocus(tmp_path: Path) -> None:
    """The defocus has its turn though the poses gain nothing in the first round."""
    made = simulate(
        packaged_structure(), tmp_path / "set", 600, BOX, PIXEL_A, 0.5, seed=4, defocus_error_A=900.0
    )
    refined = _refined(made.star, tmp_path / "run", "--rounds", "3")
    before, after = (
        float(np.square(p.defocus_A - made.true_particles.defocus_A).mean())
        for p in (made.particles, refined)
    )
    assert after < 0.4 * before
    assert pose_error_deg(refined, made.true_particles) < 1.5


def test_every_option_with_odd_images(tmp_path: Path) -> None:
    made = simulate(
        packaged_structure(),
        tmp_path / "set",
        300,
        33,
        6.4,
        1.0,
        seed=5,
        angle_error_deg=4.0,
        shift_error_px=0.5,
    )
    words = [
        "--search",
        "6",
        "--weigh-by-width",
        "--sigma-angle",
        "4",
        "--sigma-shift",
        "3",
        "--fit",
        "images",
    ]
    refined = _refined(made.star, tmp_path / "run", "--rounds", "1", "--epochs", "3", *words)
    assert pose_error_deg(refined, made.true_particles) < 0.7 * pose_error_deg(
        made.particles, made.true_particles
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["refinement"]["settings"]["search_deg"] == 6
    widths = summary["refinement"]["rounds"][0]["widths"][0]
    assert widths[:2] == pytest.approx([4.0, 3.0], abs=1e-3)


def test_a_file_is_not_refined_onto_itself(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    star = run / "particles_refined.star"
    message = refused(capsys, *arguments(star, run, "--overwrite"))
    assert "would be replaced" in message
    assert star.exists()


def test_micrographs_that_cannot_be_told_apart(
    wrong: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *arguments(wrong.star, tmp_path / "run", "--defocus", "micrograph"))
    assert "rlnMicrographName" in message


def test_contrast_is_read_back(wrong: Simulation, tmp_path: Path) -> None:
    contrast = np.random.default_rng(0).uniform(0.5, 1.5, len(wrong.particles))
    write_relion_star(replace(wrong.particles, contrast=contrast), tmp_path / "a.star", template=wrong.star)
    np.testing.assert_array_equal(read_particles(tmp_path / "a.star").contrast, contrast)
    write_relion_star(wrong.particles, tmp_path / "b.star", template=tmp_path / "a.star")
    assert (read_particles(tmp_path / "b.star").contrast == 1).all()
    text = (tmp_path / "a.star").read_text().replace(repr(float(contrast[3])), "-0.1")
    (tmp_path / "c.star").write_text(text)
    with pytest.raises(Gem3dError, match=r"particle 4, column gem3dContrast: -0\.1 is negative"):
        read_particles(tmp_path / "c.star")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--rounds", "0"], "--rounds 0"),
        (["--sigma-angle", "-1"], "--sigma-angle -1"),
        (["--sigma-defocus", "100", "--defocus", "fixed"], "--sigma-defocus"),
        (["--search", "90"], "--search 90"),
    ],
)
def test_settings_that_make_no_sense(
    wrong: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: str
) -> None:
    assert words in refused(capsys, *arguments(wrong.star, tmp_path / "run", *extra))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="RELION (Debian: relion) is not installed"
)
def test_relion_reads_the_refined_file(wrong: Simulation, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "particles_refined.star", wrong.star.parent / "refined.star")
    command = ["relion_reconstruct", "--i", "refined.star", "--o", str(tmp_path / "map.mrc"), "--ctf"]
    subprocess.run(command, cwd=wrong.star.parent, check=True, capture_output=True)
    truth = read_map(wrong.truth).values
    theirs = fourier_shell_correlation(read_map(tmp_path / "map.mrc").values, truth)
    command[2:5] = [wrong.star.name, "--o", str(tmp_path / "before.mrc")]
    subprocess.run(command, cwd=wrong.star.parent, check=True, capture_output=True)
    before = fourier_shell_correlation(read_map(tmp_path / "before.mrc").values, truth)
    assert theirs[4:14].mean() > before[4:14].mean() + 0.05

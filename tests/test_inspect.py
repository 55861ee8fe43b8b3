"""`gem3d inspect`: everything told, every problem listed, stacks found again, and forecasts that hold."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gem3d.cli import main
from gem3d.forecast import forecast_reconstruction
from gem3d.input_settings import InputSettings
from gem3d.inspect_particles import inspect_particles
from gem3d.particles import Particles, read_particles, write_relion_star
from gem3d.particles.missing_stacks import find_missing_stacks
from gem3d.simulate import Simulation

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data is not here")
DEFAULTS = InputSettings()


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints to standard output."""
    if code:
        with pytest.raises(SystemExit) as stop:
            main(["inspect", *words])
        assert stop.value.code == code
    else:
        main(["inspect", *words])
    return capsys.readouterr().out


def written(particles: Particles, star: Path, **changes: object) -> Path:
    star.parent.mkdir(parents=True, exist_ok=True)
    changed = replace(particles, source=star, **changes)
    write_relion_star(changed, star)
    return star


def renamed(made: Simulation, star: Path, *names: str) -> Path:
    """A STAR file whose images lie in stacks of these names, in turn."""
    index = (np.arange(len(made.particles)) % len(names)).astype(np.int32)
    return written(made.particles, star, stacks=names, stack_index=index)


def put(made: Simulation, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.stack, place)


def test_a_good_set(made: Simulation, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, str(made.star), "--json"))
    particles = made.particles
    assert found["problems"] == []
    assert found["warnings"] == []
    assert found["n_particles"] == 300
    assert (found["half1"], found["half2"], found["halves_drawn"]) == (150, 150, False)
    (group,) = found["optics"]
    assert group == {
        "name": "opticsGroup1", "n_particles": 300, "pixel_size_A": 6.6, "box_size_px": 32, "voltage_kV": 300.0,
        "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1,
    }  # fmt: skip
    mean = particles.defocus_A.mean(axis=1)
    expected = {"smallest": mean.min(), "median": np.median(mean), "largest": mean.max()}
    assert found["defocus_A"] == pytest.approx(expected)
    assert found["shift_A"]["largest"] == pytest.approx(np.linalg.norm(particles.shifts_A, axis=1).max())
    assert found["stacks"]["n_stacks"] == 1
    assert found["stacks"]["n_missing"] == 0
    assert found["orientations"]["efficiency"] > 0.8
    assert found["sample"]["n_images"] == 300
    assert found["sample"]["excluded"] == {}
    assert found["sample"]["contrast_sign"] == 1
    with mrcfile.open(made.stack) as stack:
        assert found["sample"]["background_sd"] == pytest.approx(stack.data[:, 0].std(), rel=0.1)
    assert 0.3 < found["forecast"]["memory_GB"] < 1
    table = told(capsys, str(made.star))
    for words in ("opticsGroup1", "150 and 150", "bright, as it should be", "about ", "would take this set"):
        assert words in table, table
    assert "Problems" not in table


def test_it_takes_a_few_seconds(made: Simulation) -> None:
    inspect_particles(made.star, DEFAULTS)
    begun = time.perf_counter()
    inspect_particles(made.star, DEFAULTS)
    assert time.perf_counter() - begun < 5


def test_all_problems_are_listed(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(made, tmp_path / "particles.mrcs")
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+") as stack:
        stack.data[:] *= -1
        stack.data[5:15, 0, 0] = np.nan
    image_index = made.particles.image_index.copy()
    image_index[1] = image_index[0]  # rows 1 and 2 are of half sets 1 and 2
    defocus = made.particles.defocus_A.copy()
    defocus[7] = -9000
    optics = (replace(made.particles.optics[0], voltage_kV=300_000.0),)
    star = written(
        made.particles, tmp_path / "bad.star", image_index=image_index, defocus_A=defocus, optics=optics
    )
    found = json.loads(told(capsys, str(star), "--json", code=2))
    problems, warnings = " | ".join(found["problems"]), " | ".join(found["warnings"])
    assert len(found["problems"]) == 4, problems
    assert "a voltage of 300000 kV" in problems
    assert "1 image is in both half sets" in problems
    assert "10 of 299 images looked at cannot be used (particle 6 (000006@particles.mrcs): NaN" in problems
    assert "dark on a bright ground" in problems
    assert "--invert" in problems
    assert "1 particle has negative defocus" in warnings
    assert found["sample"]["excluded"] == {"not_finite": 10}
    table = told(capsys, str(star), code=2)
    for words in ("Warnings", "Problems", "10 not finite", "would refuse this set"):
        assert words in table


def test_a_few_bad_images_are_no_problem(made: Simulation, tmp_path: Path) -> None:
    put(made, tmp_path / "particles.mrcs")
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+") as stack:
        stack.data[5] = 0
    found = inspect_particles(written(made.particles, tmp_path / "p.star"), DEFAULTS)
    assert found.problems == ()
    (warning,) = found.warnings
    assert "1 of 300 images looked at cannot be used" in warning
    assert found.sample is not None
    assert found.sample.excluded == {"constant_background": 1}
    as_they_are = inspect_particles(tmp_path / "p.star", replace(DEFAULTS, normalise=False))
    assert as_they_are.sample is not None
    assert as_they_are.sample.excluded == {"constant": 1}


def test_metadata_alone(made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = written(made.particles, tmp_path / "p.star")
    found = json.loads(told(capsys, str(star), "--json", code=2))
    assert len(found["problems"]) == 1
    assert "the stack cannot be found, as that of particle 1 (000001@particles.mrcs)" in found["problems"][0]
    assert found["sample"] is None
    assert found["n_particles"] == 300
    assert found["orientations"]["efficiency"] > 0.8
    assert found["forecast"]["seconds"] > 0, "the box size is in the file"
    assert "none looked at" in told(capsys, str(star), code=2)


def test_what_cannot_be_read_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, str(tmp_path / "none.star"), "--json", code=2))
    assert found["problems"] == [f"{tmp_path / 'none.star'}: no such file."]
    assert found["n_particles"] is None
    assert "Problems" in told(capsys, str(tmp_path / "none.star"), code=2)


def test_optics_that_are_not_modelled_do_not_hide_the_rest(made: Simulation, tmp_path: Path) -> None:
    put(made, tmp_path / "particles.mrcs")
    star = written(made.particles, tmp_path / "p.star")
    lines = star.read_text().splitlines()
    with_voltage = [i for i, line in enumerate(lines) if "rlnVoltage" in line]
    star.write_text("\n".join(line.replace("_rlnVoltage", "_rlnVoltages") for line in lines) + "\n")
    found = inspect_particles(star, DEFAULTS)
    assert with_voltage
    assert found.n_particles == 300
    assert len(found.problems) == 1
    assert "column rlnVoltage is missing" in found.problems[0]


# Names in the particle file, places of the stacks, the particle file's place, and the folder that must be suggested.
MOVED = {
    # RELION's project folder above the STAR file (3dem/relion#721, ml-struct-bio/cryodrgn#311).
    "project": (
        ("Extract/job1/Movies/a.mrcs", "Extract/job1/Movies/b.mrcs"),
        ("Extract/job1/Movies/a.mrcs", "Extract/job1/Movies/b.mrcs"),
        "Refine3D/job2/run_data.star",
        "",
    ),
    # Names from another folder above (ml-struct-bio/cryodrgn#343).
    "above": (("Runs/3/extra/input/a.mrcs",), ("Runs/3/extra/input/a.mrcs",), "Runs/3/extra/p.star", ""),
    # Stacks of several folders (ml-struct-bio/cryodrgn#386).
    "folders": (("set/1/a.mrcs", "set/2/a.mrcs"), ("set/1/a.mrcs", "set/2/a.mrcs"), "jobs/p.star", ""),
    # Absolute names of another machine (ma-gilles/recovar#131, #181).
    "absolute": (
        ("/old/place/J73/ext/a.mrcs", "/old/place/J73/ext/b.mrcs"),
        ("J73/ext/a.mrcs", "J73/ext/b.mrcs"),
        "J80/p.star",
        "J73/ext",
    ),
    # By the bare name, beside the particle file or deeper (ml-struct-bio/cryodrgn#412).
    "bare": (("x/y/a.mrcs",), ("stacks/deep/er/a.mrcs",), "jobs/p.star", "stacks/deep/er"),
}


@pytest.mark.parametrize("case", MOVED)
def test_stacks_found_elsewhere(
    made: Simulation, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names, places, star, expected = MOVED[case]
    put(made, *(tmp_path / place for place in places))
    path = renamed(made, tmp_path / star, *names)
    found = inspect_particles(path, DEFAULTS)
    assert found.stacks is not None
    assert found.stacks.n_missing == len(names)
    assert found.stacks.suggested_datadir == str(tmp_path / expected)
    assert found.stacks.n_found_there == len(names)
    assert f"all found under --datadir {tmp_path / expected}" in " ".join(found.problems)
    again = inspect_particles(path, replace(DEFAULTS, datadir=tmp_path / expected))
    assert again.problems == ()
    assert again.sample is not None


def test_images_that_are_there_are_looked_at(made: Simulation, tmp_path: Path) -> None:
    put(made, tmp_path / "here.mrcs")
    found = inspect_particles(renamed(made, tmp_path / "p.star", "here.mrcs", "gone.mrcs"), DEFAULTS)
    (problem,) = found.problems
    assert "1 of 2 stacks cannot be found, as that of particle 2 (000002@gone.mrcs)" in problem
    assert "give the folder" in problem
    assert found.sample is not None
    assert found.sample.n_images == 150


def test_the_search_is_bounded(made: Simulation, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    star = renamed(made, tmp_path / "many" / "p.star", "gone.mrcs")
    begun = time.perf_counter()
    missing = find_missing_stacks(read_particles(star), None)
    assert time.perf_counter() - begun < 2
    assert missing.names == ("gone.mrcs",)
    assert missing.datadir is None


def test_views_from_one_side_are_told(made: Simulation, tmp_path: Path) -> None:
    rotations = np.repeat(made.particles.rotations[:1], 300, axis=0)
    put(made, tmp_path / "particles.mrcs")
    star = written(made.particles, tmp_path / "p.star", rotations=rotations)
    found = inspect_particles(star, DEFAULTS)
    assert any("seen from few directions" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("n", "box", "seconds", "memory_GB"),
    [
        (2_500, 128, 23.8, 1.22),
        (40_000, 128, 42.8, 1.20),
        (5_000, 64, 7.51, 0.559),
        (5_000, 192, 73.0, 2.74),
        (5_000, 256, 216.0, 5.58),
    ],
)
def test_forecast_of_measured_runs(n: int, box: int, seconds: float, memory_GB: float) -> None:
    """docs/results.md, "Scaling", on 2 cores."""
    forecast = forecast_reconstruction(n, box, 2)
    assert 1 / 2 < forecast.seconds / seconds < 2
    assert 1 / 2 < forecast.memory_GB / memory_GB < 2


def test_slow_storage_and_cores_count() -> None:
    usual = forecast_reconstruction(100_000, 128, 2)
    assert forecast_reconstruction(100_000, 128, 2, read_s_per_image=0.01).reading_seconds == pytest.approx(
        1000
    )
    assert forecast_reconstruction(100_000, 128, 1).seconds > usual.seconds
    assert forecast_reconstruction(100_000, 128, 16).seconds < usual.seconds


@needs_shared
@pytest.mark.parametrize(
    "name", ["relion31.star", "relion5.star", "relion31.6opticsgroups.star", "sample_particles_relion30.star"]
)
def test_files_of_other_programs(name: str) -> None:
    found = inspect_particles(SHARED / "formats" / name, DEFAULTS)
    assert found.n_particles is not None
    assert found.stacks is not None
    json.dumps([found.problems, found.warnings])

"""The benchmarks' own arithmetic: scores, targets, tables, and what they start from. No benchmark is run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
if not (BENCHMARKS / "run.py").exists():
    pytest.skip("benchmarks/ is not part of this copy", allow_module_level=True)
# They are scripts, not a package: `python benchmarks/run.py` puts their folder on the path.
sys.path.insert(0, str(BENCHMARKS))

import inputs  # noqa: E402
import measure  # noqa: E402
import run as benchmark_run  # noqa: E402
import score  # noqa: E402
import store  # noqa: E402
import tables  # noqa: E402
from context import Context, SetSpec  # noqa: E402
from gem3d.assess import sphere_mask  # noqa: E402
from gem3d.structures import Structure, read_structure  # noqa: E402
from registry import REGISTRY, Measurement, Target  # noqa: E402

BOX, PIXEL_A = 32, 4.0


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((BOX,) * 3).astype(np.float32) + 1
    return noise * sphere_mask(BOX, PIXEL_A, 50.0)


def noisy(truth, seed, level):
    return truth + level * np.random.default_rng(seed).standard_normal(truth.shape).astype(np.float32)


def test_truth_mask_covers_the_particle_softly_and_not_the_corners(truth):
    mask = score.truth_mask(truth)
    radius = np.linalg.norm(np.indices(mask.shape) - BOX // 2, axis=0) * PIXEL_A
    assert mask[radius < 20].min() > 0.9
    assert mask[radius > 68].max() < 0.05


def test_agreement_of_the_truth_with_itself_ends_at_nyquist(truth):
    found = score.agreement(truth, truth, score.truth_mask(truth), PIXEL_A)
    assert found.resolution_A == 2 * PIXEL_A
    assert "Nyquist" in found.note


def test_agreement_with_a_low_passed_truth_is_its_resolution(truth):
    low = inputs.low_passed(truth, PIXEL_A, 16.0)
    found = score.agreement(noisy(low, 1, 1e-3 * low.std()), truth, np.ones((BOX,) * 3, np.float32), PIXEL_A)
    assert found.resolution_A == pytest.approx(16.0, rel=0.15)


def test_finer_is_in_per_cent_of_the_other_resolution():
    assert score.finer_percent(3.6, 4.0) == pytest.approx(10)
    assert score.finer_percent(4.4, 4.0) == pytest.approx(-10)


def test_differences_leave_out_the_mean_and_nyquist():
    theirs = np.array([1.0, 0.9, 0.5, 0.2, 0.5])
    ours = np.array([0.0, 0.95, 0.49, 0.1, 0.0])
    assert score.worst_difference(ours, theirs) == (pytest.approx(-0.1), 3)
    assert score.worst_difference(ours, theirs, above=0.3) == (pytest.approx(-0.01), 2)
    assert score.worst_difference(ours, theirs, above=0.95) == (None, None)
    assert score.mean_difference(ours, theirs) == pytest.approx((0.05 - 0.01 - 0.1) / 3)


def test_calibration_error_judges_fine_shells_above_the_threshold():
    actual = np.array([1, 1, 0.9, 0.6, 0.3, 0.2, 0.1, 0.5])
    calibrated = np.array([0, 0, 0, 0.65, 0.28, np.nan, 0.9, 0.9])
    # 15 A lies between shells 2 and 3 of a box of 40 A.
    found = score.calibration_error(calibrated, actual, pixel_size_A=40 / 14, box_size=14)
    assert found.mean == pytest.approx(0.035)
    assert found.largest == pytest.approx(0.05)
    assert (found.shells, found.beyond) == (2, 1)
    nothing = score.calibration_error(np.full(8, np.nan), actual, 40 / 14, 14)
    assert (nothing.mean, nothing.largest, nothing.shells, nothing.beyond) == (None, None, 0, 3)


def test_calibrated_fsc_of_unregularised_halves_is_what_it_estimates(truth):
    halves = (noisy(truth, 1, 0.3), noisy(truth, 2, 0.3))
    mask = sphere_mask(BOX, PIXEL_A, 60.0)
    actual = score.actual_calibration(halves, truth, mask)
    estimated = score.calibrated_in(halves, halves, mask, PIXEL_A)
    # The last two shells: where the data end, and Nyquist.
    assert np.isnan(estimated[-2:]).all()
    assert np.abs(estimated - actual)[5:-2].max() < 0.06
    perfect = score.actual_calibration((truth, truth), truth, mask)
    assert perfect[1:] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("target", "value", "met", "shown"),
    [
        (Target(low=8), 8.0, True, ">= 8"),
        (Target(high=0.6), 0.61, False, "<= 0.6"),
        (Target(7.4, 8.6), 8.0, True, "7.4 to 8.6"),
        (Target(0, 0), 0, True, "0"),
        (Target(0, 0), 1, False, "0"),
        (Target(low=8), None, False, ">= 8"),
        (Target(low=8), float("nan"), False, ">= 8"),
    ],
)
def test_targets(target, value, met, shown):
    assert target.met_by(value) is met
    assert str(target) == shown


MEASURED = [
    Measurement("Maps", "5a1a, seed 1", "ours, A", 3.5812),
    Measurement("Maps", "5a1a, seed 1", "finer by, %", 5.0, Target(low=8), "a note"),
    Measurement("Maps", "6v8o, seed 1", "finer by, %", None, Target(low=8), "absent"),
]


def test_rows_are_appended_and_the_latest_count(tmp_path):
    path = tmp_path / "results" / "maps.csv"
    store.append(path, iter(MEASURED), store.made_with())
    store.append(
        path,
        [Measurement("Maps", "5a1a, seed 1", "finer by, %", 9.0, Target(low=8))],
        {**store.made_with(), "machine": "another"},
    )
    rows = store.read(path)
    assert len(rows) == 4
    assert tuple(rows[0]) == store.COLUMNS
    text = tables.render(rows)
    assert "| Maps | ours, A | finer by, % (target >= 8) |" in text
    assert "| 5a1a, seed 1 | 3.58 | 9 |" in text
    assert "| 6v8o, seed 1 |  | **none** |" in text
    assert "Targets met: 1 of 2." in text
    assert "another" in text
    assert tables.notes(rows) == ["6v8o, seed 1: finer by, %: absent"]


def test_page_is_filled_from_the_files_again_and_again(tmp_path):
    end = "<!-- end of results -->"
    page = f"a\n<!-- results: maps -->\nold\n{end}\nb\n<!-- results: other -->\n{end}\n"
    store.append(tmp_path / "maps.csv", MEASURED, store.made_with())
    filled = tables.fill(page, tmp_path)
    assert "old" not in filled
    assert "**5**" in filled
    assert filled.startswith("a\n")
    assert tables.NOT_YET in filled
    assert tables.fill(filled, tmp_path) == filled


def test_every_benchmark_has_its_place_in_the_documentation():
    pages = "".join(page.read_text() for page in benchmark_run.PAGES)
    for name in REGISTRY:
        assert pages.count(f"<!-- results: {name} -->") == 1, name


def test_list_and_unknown_names(capsys):
    assert benchmark_run.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in REGISTRY)
    assert benchmark_run.main(["nothing"]) == 2
    assert "noise_full" not in {found.name for found in benchmark_run.choose(["all"])}


def test_commands_are_measured_without_the_memory_of_this_process():
    _ballast = np.ones(50_000_000, dtype=np.float32)  # 200 MB that are not the command's
    usage = measure.run_measured([sys.executable, "-S", "-c", "sum(range(3_000_000))"])
    assert usage.wall_s >= usage.cpu_s * 0.5 > 0
    assert 0.002 < usage.peak_GB < 0.1
    with pytest.raises(measure.CommandFailed, match="went wrong"):
        measure.run_measured([sys.executable, "-S", "-c", "raise SystemExit('went wrong')"])


def test_low_passed_ends_at_its_resolution(truth):
    spectrum = np.abs(np.fft.fftn(inputs.low_passed(truth, PIXEL_A, 16.0)))
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    assert spectrum[shell > 9.1].max() < 1e-4 * spectrum.max()
    assert spectrum[(shell > 5) & (shell < 7)].min() > 0


def test_voxel_truth_is_no_sum_of_positive_gaussians(truth):
    smooth = inputs.low_passed(truth, PIXEL_A, 10.0)
    density = inputs.voxel_truth(np.maximum(smooth, 0), PIXEL_A, 1)
    assert density.dtype == np.float32
    assert density.min() < -0.01 * density.max()
    assert np.corrcoef(density.ravel(), smooth.ravel())[0, 1] > 0.9
    assert np.array_equal(density, inputs.voxel_truth(np.maximum(smooth, 0), PIXEL_A, 1))


def test_structures_reach_the_command_line_unchanged(tmp_path):
    given = Structure(
        np.array([[1.23, -4.5, 100.0], [1.5, 2.5, 3.5]]), np.array([6, 16], np.uint8), np.array([20.5, 140.0])
    )
    inputs.write_mmcif(given, tmp_path / "two.cif")
    found = read_structure(tmp_path / "two.cif")
    assert found.positions_A == pytest.approx(given.positions_A, abs=1e-3)
    assert np.array_equal(found.atomic_numbers, given.atomic_numbers)
    assert found.bfactors_A2 == pytest.approx(given.bfactors_A2, abs=1e-2)
    assert len(inputs.load_structure("6v8o")) == 25_103
    with pytest.raises(FileNotFoundError, match="6v8o"):
        inputs.load_structure("1abc")


def test_sets_are_kept_apart_by_all_of_their_arguments(tmp_path, monkeypatch):
    context, commands = Context(tmp_path), []
    monkeypatch.setattr("context.structure_file", lambda name, folder: Path("structure.cif"))
    monkeypatch.setattr("context.run_measured", commands.append)
    folders = {
        context.particle_set(SetSpec("5a1a", 100, 32, 4.0, snr, seed))
        for snr in (0.1, 0.2)
        for seed in (1, 2)
        for _ in range(2)
    }
    assert len(folders) == len(commands) == 4

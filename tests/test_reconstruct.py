"""The whole job on small sets: outputs, truth, honesty, independence of the halves, determinism, limits."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from command_line import HOLD_TIMES, OF_A_CLAIM
from gem3d.assess import fourier_shell_correlation
from gem3d.cli import main
from gem3d.maps import read_map
from gem3d.run_directory import RESULTS
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure

BOX, PIXEL_A = 32, 6.6
MAPS = [name for name in RESULTS if name.endswith(".mrc")]


def run(star: Path, out: Path, *extra: str) -> dict:
    """One thread: on a busy machine many short steps wait for the slower of two."""
    main(
        [
            "reconstruct",
            str(star),
            "--out",
            str(out),
            "--threads",
            "1",
            "--gaussians",
            "300",
            "--quiet",
            *extra,
        ]
    )
    return json.loads((out / "summary.json").read_text())


def copy_of(made: Simulation, folder: Path) -> Path:
    folder.mkdir()
    for file in (made.star, made.stack):
        shutil.copy(file, folder)
    return folder / made.star.name


def fsc(a: Path, b: Path) -> np.ndarray:
    return fourier_shell_correlation(read_map(a).values, read_map(b).values)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "fsc.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that several tests look at."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(made.star, out)
    return out


def test_outputs_of_the_contract(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == sorted([*RESULTS, "run.log"])
    for name in MAPS:
        found = read_map(finished / name)
        assert found.values.shape == (BOX,) * 3
        assert found.voxel_size_A == pytest.approx(PIXEL_A)
        assert found.origin_A == (0, 0, 0)
    modes = {path.stat().st_mode for path in finished.iterdir()}
    assert len(modes) == 1, "every file as the user's umask has it"
    rows = rows_of(finished)
    assert list(rows[0])[:4] == ["shell", "frequency_per_A", "resolution_A", "fsc_unmasked"]
    assert [int(row["shell"]) for row in rows] == list(range(BOX // 2 + 1))
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["particles"] == {"half1": 150, "half2": 150}
    assert summary["settings"]["gaussians"] == 300
    assert summary["gaussians"] == {"half1": 300, "half2": 300, "final": 600}
    assert {"read particles", "accumulate", "linear maps", "fit half 1", "assess"} <= summary[
        "seconds"
    ].keys()
    assert {"torch", "numpy", "numba"} <= summary["versions"].keys()
    assert 0 < summary["peak_memory_GB"] < 4


def test_linear_maps_are_close_to_the_truth(finished: Path, made: Simulation) -> None:
    for name in ("linear_half1.mrc", "linear_half2.mrc"):
        assert fsc(finished / name, made.truth)[1 : 1 + BOX // 3].min() > 0.9, name


def test_gaussian_maps_are_close_to_the_truth(finished: Path, made: Simulation) -> None:
    for name in ("map_unfiltered.mrc", "half1.mrc", "half2.mrc"):
        assert fsc(finished / name, made.truth)[1 : 1 + BOX // 3].min() > 0.9, name


def test_log_tells_what_happened(finished: Path) -> None:
    log = (finished / "run.log").read_text()
    for words in (
        "gem3d 0.",
        "numba",
        '"gaussians": 300',
        "300 particles (150 and 150)",
        "accumulate: ",
        "done",
    ):
        assert words in log, words
    assert "ERROR" not in log


def test_same_seed_and_threads_same_bits_and_overwrite_spares_strangers(
    made: Simulation, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    (out / "map.mrc").write_text("of an earlier run")
    with pytest.raises(SystemExit) as stop:
        run(made.star, out)
    assert stop.value.code == 2
    assert (out / "map.mrc").read_text() == "of an earlier run"
    run(made.star, out, "--overwrite")
    assert (out / "mine.txt").read_text() == "keep me"
    for name in RESULTS:
        if name not in HOLD_TIMES:
            assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_half_1_does_not_see_half_2(made: Simulation, finished: Path, tmp_path: Path) -> None:
    star = copy_of(made, tmp_path / "changed")
    second = int(np.flatnonzero(made.particles.half_set == 2)[0])
    with mrcfile.mmap(star.with_name(made.stack.name), "r+") as stack:
        stack.data[second] += np.linspace(0, 5, BOX, dtype=np.float32)
    run(star, tmp_path / "after")
    for name in ("half1.mrc", "linear_half1.mrc"):
        assert (tmp_path / "after" / name).read_bytes() == (finished / name).read_bytes(), name
    for name in ("half2.mrc", "linear_half2.mrc"):
        assert (tmp_path / "after" / name).read_bytes() != (finished / name).read_bytes(), name


def test_render_of_saved_gaussians_is_the_unfiltered_map(finished: Path, tmp_path: Path) -> None:
    main(["render", str(finished / "gaussians.safetensors"), "--out", str(tmp_path / "again.mrc")])
    again = read_map(tmp_path / "again.mrc")
    np.testing.assert_array_equal(again.values, read_map(finished / "map_unfiltered.mrc").values)
    assert again.origin_A == (0, 0, 0)


def test_nothing_beyond_the_finest_resolution_asked_for(
    made: Simulation, finished: Path, tmp_path: Path
) -> None:
    limit_A = 26.0
    summary = run(made.star, tmp_path / "run", "--max-resolution", str(limit_A))
    last = int(BOX * PIXEL_A / limit_A)
    for row in rows_of(tmp_path / "run"):
        beyond = int(row["shell"]) > last
        assert all(
            (row[name] == "") == beyond for name in ("fsc_unmasked", "fsc_corrected", "fsc_linear_masked")
        )
        assert row["fsc_calibrated"] == "" or not beyond
    claim = summary["resolution"]["calibrated"]
    assert claim["resolution_A"] is None or claim["resolution_A"] >= BOX * PIXEL_A / last
    assert "where the data end: --max-resolution" in summary["resolution"]["claim"]
    assert len(summary["coverage_per_shell"]) == last + 1
    for curve in ("masked", "corrected", "unmasked", "linear_masked"):
        found = summary["resolution"][curve]["resolution_A"]
        assert found is None or found >= BOX * PIXEL_A / last - 1e-6, curve
    linear = read_map(tmp_path / "run" / "linear_half1.mrc")
    assert linear.values.shape == (BOX,) * 3
    power = np.abs(np.fft.fftn(linear.values)) ** 2
    k = np.fft.fftfreq(BOX, 1 / BOX)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    assert power[radius > last + 2].max() < 1e-4 * power[radius <= last].max()
    # Where both have data they agree.
    limited, whole = (f / "linear_half1.mrc" for f in (tmp_path / "run", finished))
    assert fsc(limited, whole)[1 : last - 1].min() > 0.95


def test_pure_noise_claims_nothing(made: Simulation, tmp_path: Path) -> None:
    star = copy_of(made, tmp_path / "set")
    with mrcfile.mmap(star.with_name(made.stack.name), "r+") as stack:
        stack.data[:] = np.random.default_rng(0).standard_normal(stack.data.shape).astype(np.float32)
    claim = run(star, tmp_path / "run")["resolution"]["calibrated"]
    assert claim["resolution_A"] is None
    assert claim["kind"] == "none"
    assert claim["reason"]
    assert all(row["fsc_calibrated"] == "" for row in rows_of(tmp_path / "run"))


def test_nothing_finer_than_the_signal_is_claimed(made: Simulation, tmp_path: Path) -> None:
    """Images of the particle low-passed at 28 A, with white noise; the edge of a shell filter takes two shells."""
    star = copy_of(made, tmp_path / "set")
    clean = simulate(packaged_structure(), tmp_path / "clean", 300, BOX, PIXEL_A, np.inf, seed=1)
    k = np.fft.fftfreq(BOX, PIXEL_A)
    passed = np.hypot(k[:, None], k[: BOX // 2 + 1]) < 1 / 28
    with mrcfile.open(clean.stack) as signal, mrcfile.mmap(star.with_name(made.stack.name), "r+") as stack:
        filtered = np.fft.irfft2(np.fft.rfft2(signal.data) * passed, s=(BOX, BOX))
        noise = np.random.default_rng(3).standard_normal(filtered.shape) * filtered.std()
        stack.data[:] = (filtered + noise).astype(np.float32)
    claim = run(star, tmp_path / "run")["resolution"]["calibrated"]
    assert claim["estimate_A"] is not None
    two_shells_on_A = 1 / (1 / 28 + 2 / (BOX * PIXEL_A))
    assert claim["estimate_A"] > two_shells_on_A
    finest = claim["interval_A"][1]
    assert finest is None or finest > two_shells_on_A


def test_demo_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--particles", "100", "--box-size", "32", "--gaussians", "100", "--threads", "1"]
    main(["demo", "--out", str(tmp_path / "demo"), *small])
    printed = capsys.readouterr()
    assert "map against truth: FSC 0.5 at" in printed.out
    for words in ("resolution", "ordinary FSC", "100 (50 and 50)", "peak memory", "map.mrc"):
        assert words in printed.err, words
    for name in set(RESULTS) - OF_A_CLAIM:
        assert (tmp_path / "demo" / "reconstruction" / name).exists(), name
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(tmp_path / "demo"), *small])
    assert stop.value.code == 2

"""`gem3d assess`: half maps from files, of gem3d and of other programs, with and without linear partners."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from command_line import refused
from gem3d.assess import band_passed_products, mask_corrected_fsc, resolution_at, sphere_mask
from gem3d.assess.shells import fourier_transform, frequency_radius, inverse_fourier_transform
from gem3d.cli import main
from gem3d.maps import read_map, write_map
from gem3d.run_directory import ASSESSMENT_RESULTS, RESULTS

BOX, PIXEL_A = 64, 2.0
Volume = NDArray[np.float32]


def filtered(volume: Volume, per_shell: NDArray[np.floating]) -> Volume:
    factor = np.interp(frequency_radius(BOX), np.arange(len(per_shell)), per_shell, right=0)
    return inverse_fourier_transform(fourier_transform(volume) * factor.astype(np.float32), BOX)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half maps of a fading particle in white noise, the same after a prior that invents detail, and its truth."""
    out = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(1)
    mask = sphere_mask(BOX, PIXEL_A, 70.0, 10.0)
    k = np.arange(BOX)
    truth = filtered(rng.standard_normal((BOX,) * 3, dtype=np.float32), np.exp(-((k / 9) ** 2))) * mask
    truth += 2 * truth.std() * mask
    write_map(out / "truth.mrc", truth, PIXEL_A)
    write_map(out / "mask.mrc", mask, PIXEL_A)
    invented = 0.1 * truth.std() * rng.standard_normal((BOX,) * 3, dtype=np.float32) * mask
    for number in (1, 2):
        linear = truth + 0.3 * truth.std() * rng.standard_normal((BOX,) * 3, dtype=np.float32)
        write_map(out / f"linear{number}.mrc", linear, PIXEL_A)
        denoised = filtered(linear, 1 / (1 + np.exp((k - 20) / 2))) + invented
        write_map(out / f"half{number}.mrc", denoised, PIXEL_A)
    return out


def assess(folder: Path, out: Path, *words: str, halves: str = "linear") -> dict[str, object]:
    pair = [str(folder / f"{halves}{number}.mrc") for number in (1, 2)]
    main(["assess", *pair, "--out", str(out), "--quiet", *words])
    return json.loads((out / "summary.json").read_text())


def test_half_maps_without_a_prior_get_the_ordinary_fsc(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = assess(folder, out, "--mask", str(folder / "mask.mrc"), "--bfactor", "0")
    files = {path.name for path in out.iterdir()}
    assert files == {*ASSESSMENT_RESULTS, "run.log"}

    maps = [read_map(folder / f"{name}.mrc").values for name in ("linear1", "linear2", "mask")]
    expected = mask_corrected_fsc(*maps, PIXEL_A).resolution.resolution_A
    resolution = summary["resolution"]
    assert resolution["claimed_from"].startswith("ordinary FSC")
    assert "calibrated" not in resolution
    assert resolution["ordinary"]["estimate_A"] == pytest.approx(expected, rel=0.05)
    assert resolution["corrected"]["resolution_A"] == pytest.approx(expected)
    with (out / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["fsc_calibrated"] == "" and row["fsc_linear_masked"] == "" for row in rows)
    assert "No linear half maps were given" in (out / "report.html").read_text()

    # The mean of the half maps, weighted: closer to the truth.
    truth = read_map(folder / "truth.mrc").values
    found = read_map(out / "map_local.mrc").values
    mean = (maps[0] + maps[1]) / 2
    inside = maps[2] > 0.99
    assert np.corrcoef(found[inside], truth[inside])[0, 1] > np.corrcoef(mean[inside], truth[inside])[0, 1]


def test_linear_partners_unmask_a_prior(folder: Path, tmp_path: Path) -> None:
    linear = [str(folder / f"linear{number}.mrc") for number in (1, 2)]
    common = ("--mask", str(folder / "mask.mrc"))
    naive = assess(folder, tmp_path / "naive", *common, halves="half")
    honest = assess(
        folder, tmp_path / "honest", "--linear", *linear, *common, "--reference", str(folder / "truth.mrc"),
        halves="half",
    )  # fmt: skip
    assert naive["resolution"]["corrected"]["resolution_A"] is None, "agree up to Nyquist"
    assert (tmp_path / "honest" / "reference.csv").exists()
    claimed_A = honest["resolution"]["calibrated"]["estimate_A"]
    # Against the truth, which only a test has: the corr(G1, t) corr(G2, t) that a claim is about.
    truth, mask = (read_map(folder / f"{name}.mrc").values for name in ("truth", "mask"))
    halves = [read_map(folder / f"half{number}.mrc").values for number in (1, 2)]
    inner = band_passed_products([truth, *halves], mask**2).inner_products
    norm = np.sqrt(np.einsum("sii->si", inner))
    correlation = inner[:, 0, 1:] / (norm[:, :1] * norm[:, 1:])
    actual_A = resolution_at(correlation.prod(axis=1), 0.143, PIXEL_A, BOX).resolution_A
    assert claimed_A == pytest.approx(actual_A, rel=0.05)
    # The map of all data is a little better than a half map.
    assert 0.8 * actual_A < honest["reference"]["fsc_0.5"]["resolution_A"] < actual_A
    assert "agreement the prior made" in (tmp_path / "honest" / "report.html").read_text().lower()


def test_a_map_that_ends_before_nyquist_is_judged_up_to_there(folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.mkdir()
    for number in (1, 2):
        values = read_map(folder / f"linear{number}.mrc").values
        spectrum = fourier_transform(values) * (frequency_radius(BOX) <= 10)
        write_map(short / f"linear{number}.mrc", inverse_fourier_transform(spectrum, BOX), PIXEL_A)
    summary = assess(short, tmp_path / "out")
    assert "not below 0.143" in summary["resolution"]["claim"]
    assert read_map(tmp_path / "out" / "local_resolution.mrc").values.min() >= BOX * PIXEL_A / 10 * 0.999


def test_noise_claims_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for number in (1, 2):
        write_map(tmp_path / f"linear{number}.mrc", rng.standard_normal((BOX,) * 3), PIXEL_A)
    summary = assess(tmp_path, tmp_path / "out")
    assert summary["resolution"]["claim"].startswith("none claimed")
    assert summary["local_resolution"] is None
    assert not (tmp_path / "out" / "map_local.mrc").exists()
    assert "report.html" in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("linear1.mrc", "linear1.mrc"), "given as both half maps"),
        (("linear1.mrc", "twice.mrc"), "hold the same map"),
        (("half1.mrc", "half2.mrc", "--linear", "linear2.mrc", "linear1.mrc"), "given in the wrong order"),
        (("half1.mrc", "half2.mrc", "--linear", "half1.mrc", "half2.mrc"), "and as a linear one"),
        (("linear1.mrc", "linear2.mrc", "--bfactor", "1e5"), "--bfactor 100000: give up to"),
        (("linear1.mrc", "linear2.mrc", "--particle-diameter", "3"), "--particle-diameter 3: give"),
        (("linear1.mrc", "linear2.mrc", "--mask", "faint.mrc"), "no value above 0.5"),
        (("linear1.mrc", "missing.mrc"), "missing.mrc: no such file"),
        (("linear1.mrc", "small.mrc"), "a box of 32 voxels, but"),
        (("linear1.mrc", "flat.mrc"), "the same everywhere"),
        (("linear1.mrc", "coarse.mrc"), "a pixel size of 3 A"),
        (("linear1.mrc", "linear2.mrc", "--pixel-size", "-1"), "give a positive number"),
        (("linear1.mrc", "linear2.mrc", "--mask", "small.mrc"), "mask has a box of 32"),
        (("linear1.mrc", "linear2.mrc", "--reference", "missing.pdb"), "missing.pdb"),
        (("linear1.mrc", "linear2.mrc", "--particles", "missing.star"), "missing.star"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_lost(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    for name in ("linear1.mrc", "linear2.mrc", "half1.mrc", "half2.mrc"):
        (tmp_path / name).symlink_to(folder / name)
    write_map(tmp_path / "twice.mrc", 2 * read_map(folder / "linear1.mrc").values, PIXEL_A)
    write_map(tmp_path / "faint.mrc", 0.4 * read_map(folder / "mask.mrc").values, PIXEL_A)
    write_map(tmp_path / "small.mrc", np.random.default_rng(0).random((32,) * 3), PIXEL_A)
    write_map(tmp_path / "flat.mrc", np.ones((BOX,) * 3), PIXEL_A)
    write_map(tmp_path / "coarse.mrc", read_map(folder / "linear2.mrc").values, 3.0)
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("of an earlier run")
    given = [str(tmp_path / word) if word.endswith((".mrc", ".pdb", ".star")) else word for word in words]
    assert message in refused(capsys, "assess", *given, "--out", str(out), "--overwrite")
    assert (out / "report.html").read_text() == "of an earlier run"


def test_particles_give_their_views_and_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = tmp_path / "poses.star"
    names = (
        "ImageName",
        "DetectorPixelSize",
        "Magnification",
        "AngleRot",
        "AngleTilt",
        "AnglePsi",
        "RandomSubset",
    )
    rng = np.random.default_rng(0)
    rows = [
        f"{i}@none.mrcs 5 25000 {a:.2f} {b:.2f} 0 1"
        for i, (a, b) in enumerate(rng.uniform(0, 180, (50, 2)), 1)
    ]
    head = "\n".join(f"_rln{name}" for name in names)

    def views(*more: str) -> dict[str, object]:
        star.write_text(f"data_\n\nloop_\n{head}\n" + "\n".join([*rows, *more]) + "\n")
        return assess(folder, tmp_path / "out", "--particles", str(star), "--overwrite")

    found = views()
    assert 0 < found["orientations"]["scf"] < 1
    assert found["warnings"] == [], "the CTF is not read, and not missed"
    again = views("1@none.mrcs 5 25000 0 0 0 2")
    assert "1 image is in both half sets" in " ".join(again["warnings"])


@pytest.mark.parametrize(("widths_A", "strange"), [((128,), 0), ((160, 128), 0), ((160, 144), 1)])
def test_images_of_no_optics_group_are_as_wide_as_the_maps(
    folder: Path, tmp_path: Path, widths_A: tuple[int, ...], strange: int
) -> None:
    optics = "".join(f"{i} {width_A / 32} 32\n" for i, width_A in enumerate(widths_A, 1))
    angles = np.random.default_rng(0).uniform(0, 180, (50, 2))
    rows = "".join(f"{i}@a.mrcs {1 + i % len(widths_A)} {a} {b} 0\n" for i, (a, b) in enumerate(angles, 1))
    star = tmp_path / "poses.star"
    star.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnImageSize\n" + optics + "\n"
        "data_particles\n\nloop_\n_rlnImageName\n_rlnOpticsGroup\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
        + rows
    )
    found = assess(folder, tmp_path / "out", "--particles", str(star))["warnings"]
    assert len(found) == strange
    assert all("images 160 A wide, but the maps are 128 A wide" in text for text in found)


def test_an_assessment_leaves_the_maps_of_a_reconstruction(folder: Path, tmp_path: Path) -> None:
    for name in RESULTS:
        (tmp_path / name).write_text("of a reconstruction")
    assess(folder, tmp_path, "--overwrite")
    left = {name for name in RESULTS if (tmp_path / name).read_bytes() == b"of a reconstruction"}
    assert left == set(RESULTS) - set(ASSESSMENT_RESULTS)


def test_a_failing_report_costs_no_result(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no picture")

    monkeypatch.setattr("gem3d.assess_maps.write_report", fail)
    with pytest.raises(SystemExit):
        assess(folder, tmp_path / "out")
    assert {"map.mrc", "fsc.csv", "summary.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_maps_in_the_output_folder_are_not_replaced(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_map(tmp_path / "half1.mrc", read_map(folder / "half1.mrc").values, PIXEL_A)
    pair = [str(tmp_path / "half1.mrc"), str(folder / "half2.mrc")]
    message = refused(capsys, "assess", *pair, "--out", str(tmp_path), "--overwrite")
    assert "would be replaced" in message

"""The whole job on small simulated sets: outputs, honesty, independence of the halves, errors."""

import csv
import json

import numpy as np
import pytest

from gem3d.cli import main
from gem3d.maps import read_map
from gem3d.simulate import simulate
from gem3d.structures import packaged_structure

BOX, PIXEL_A = 48, 4.4


@pytest.fixture(scope="module")
def particle_set(tmp_path_factory):
    return simulate(packaged_structure(), tmp_path_factory.mktemp("set"), 400, BOX, PIXEL_A, 0.2, seed=1)


def run(star, out, *extra):
    main(["reconstruct", str(star), "--out", str(out), "--gaussians", "800", "--quiet", *extra])


def test_outputs_of_the_contract(particle_set, tmp_path):
    out = tmp_path / "run"
    run(particle_set.star, out)
    for name in ("map", "map_unfiltered", "half1", "half2", "linear_half1", "linear_half2", "mask"):
        found = read_map(out / f"{name}.mrc")
        assert found.values.shape == (BOX,) * 3
        assert found.voxel_size_A == pytest.approx(PIXEL_A)
    assert (out / "gaussians.safetensors").exists()
    assert (out / "gaussians.ply").exists()
    with (out / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == BOX // 2 + 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["particles"] == {"half1": 200, "half2": 200}
    truth = read_map(particle_set.truth).values
    found = read_map(out / "map_unfiltered.mrc").values
    assert np.corrcoef(truth.ravel(), found.ravel())[0, 1] > 0.8


def test_half_1_does_not_see_half_2(particle_set, tmp_path):
    import mrcfile

    run(particle_set.star, tmp_path / "before")
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in (particle_set.star, particle_set.stack):
        (folder / file.name).write_bytes(file.read_bytes())
    second = int(np.flatnonzero(particle_set.particles.half_set == 2)[0])
    with mrcfile.mmap(folder / particle_set.stack.name, "r+") as stack:
        stack.data[second] += np.linspace(0, 5, BOX, dtype=np.float32)
    run(folder / particle_set.star.name, tmp_path / "after")
    for name in ("half1.mrc", "linear_half1.mrc"):
        before, after = (read_map(tmp_path / run_ / name).values for run_ in ("before", "after"))
        assert np.array_equal(before, after), name
    before, after = (read_map(tmp_path / run_ / "half2.mrc").values for run_ in ("before", "after"))
    assert not np.array_equal(before, after)


def test_pure_noise_claims_nothing(tmp_path):
    rng = np.random.default_rng(0)
    made = simulate(packaged_structure(), tmp_path / "set", 200, 32, 6.6, 1.0, seed=2)
    import mrcfile

    with mrcfile.mmap(made.stack, "r+") as stack:
        stack.data[:] = rng.standard_normal(stack.data.shape).astype(np.float32)
    run(made.star, tmp_path / "run")
    claim = json.loads((tmp_path / "run" / "summary.json").read_text())["resolution"]["calibrated"]
    assert claim["resolution_A"] is None
    assert claim["kind"] == "none"
    assert claim["reason"]


def test_occupied_folder_is_refused(particle_set, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SystemExit) as stop:
        run(particle_set.star, tmp_path)
    assert stop.value.code == 2
    assert "not empty" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_missing_file_is_the_users_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "none.star", tmp_path / "run")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "none.star" in error
    assert "Traceback" not in error


def test_render_of_saved_gaussians_is_the_unfiltered_map(particle_set, tmp_path):
    out = tmp_path / "run"
    run(particle_set.star, out)
    main(["render", str(out / "gaussians.safetensors"), "--out", str(tmp_path / "again.mrc")])
    np.testing.assert_array_equal(
        read_map(tmp_path / "again.mrc").values, read_map(out / "map_unfiltered.mrc").values
    )

"""`reconstruct --fit images`: same outputs as the volume fit, and a run that survives being killed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from command_line import killed_once_there, refused, results_of
from gem3d.assess import fourier_shell_correlation
from gem3d.cli import main
from gem3d.gaussians import load_gaussians
from gem3d.maps import read_map
from gem3d.particles import write_relion_star
from gem3d.run_directory import CHECKPOINTS, RESULTS
from gem3d.simulate import Simulation

BOX, PIXEL_A = 32, 6.6
OPTIONS = ("--fit", "images", "--threads", "1", "--gaussians", "300", "--epochs", "40", "--quiet")


def arguments(star: Path, out: Path, *extra: str) -> list[str]:
    return ["reconstruct", str(star), "--out", str(out), *OPTIONS, *extra]


@pytest.fixture(scope="module")
def finished(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(arguments(made.star, out))
    return out


def test_outputs_of_the_contract(finished: Path, made: Simulation) -> None:
    assert sorted(path.name for path in finished.iterdir()) == sorted([*RESULTS, "run.log"])
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["settings"]["fit"] == "images"
    assert summary["gaussians"] == {"half1": 300, "half2": 300, "final": 600}
    truth = read_map(made.truth).values
    for name in ("map_unfiltered.mrc", "half1.mrc", "half2.mrc"):
        found = fourier_shell_correlation(read_map(finished / name).values, truth)
        assert found[1 : BOX // 3].min() > 0.9, name
        assert found[BOX // 3] > 0.85, name  # so few Gaussians start wide, and narrow slowly


def test_a_killed_run_goes_on_to_the_same_maps(
    made: Simulation, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    checkpoint = out / CHECKPOINTS / "half2.safetensors"
    killed_once_there(
        checkpoint, *arguments(made.star, out, "--resume")
    )  # nothing to resume from yet: begins

    assert "go on with --resume" in refused(capsys, *arguments(made.star, out))
    message = refused(capsys, *arguments(made.star, out, "--resume", "--seed", "7"))
    assert "seed = 0, now it is 7" in message
    assert checkpoint.exists()
    main(arguments(made.star, out, "--resume"))
    assert results_of(out) == results_of(finished)
    assert not (out / CHECKPOINTS).exists()
    log = (out / "run.log").read_text()
    assert log.count("particle file") == 2, "the log of the killed run is kept"
    assert "no checkpoint to go on from" in refused(capsys, *arguments(made.star, out, "--resume"))


def interrupted(star: Path, out: Path, where: str, *extra: str) -> None:
    """A run that ends at its first call of `where`."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(where, stop)
        with pytest.raises(SystemExit) as stopped:
            main(arguments(star, out, *extra))
    assert stopped.value.code == 130


def test_a_run_stopped_before_its_first_fit_goes_on(made: Simulation, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted(made.star, out, "gem3d.fit.normal_equations.NormalEquations.linear_map")
    main(arguments(made.star, out, "--resume"))
    assert results_of(out) == results_of(finished)


def test_a_checkpoint_of_other_particles_or_none_at_all(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    interrupted(made.star, out, "gem3d.fit.methods.FromImages.fit_half")
    others = tmp_path / "set" / made.star.name
    others.parent.mkdir()
    shutil.copy(made.stack, others.parent)
    turned = replace(made.particles, rotations=made.particles.rotations[::-1], source=others)
    write_relion_star(turned, others)
    assert "particles = 300, SHA-256" in refused(capsys, *arguments(others, out, "--resume"))

    (out / CHECKPOINTS / "half1.safetensors").write_text("not a checkpoint")
    message = refused(capsys, *arguments(made.star, out, "--resume"))
    assert "half1.safetensors" in message
    assert "remove it" in message
    main(arguments(made.star, out, "--overwrite", "--epochs", "2"))
    assert not (out / CHECKPOINTS).exists()


def test_a_folder_of_the_users_is_left_alone(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / CHECKPOINTS / "thesis.safetensors"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert "no checkpoint to go on from" in refused(capsys, *arguments(made.star, tmp_path, "--resume"))
    for fit in ("volume", "images"):
        epochs = ("--epochs", "2") if fit == "images" else ("--epochs", "auto")
        main(arguments(made.star, tmp_path, "--overwrite", "--fit", fit, *epochs))
        assert mine.read_text() == "mine"
        assert [path.name for path in mine.parent.iterdir()] == [mine.name]


def test_the_finest_resolution_bounds_the_gaussians(made: Simulation, tmp_path: Path) -> None:
    """Nothing finer is judged, so Gaussians may not be finer than half a voxel of the judge's grid."""
    limit_A = 30.0
    main(arguments(made.star, tmp_path / "run", "--max-resolution", str(limit_A), "--epochs", "10"))
    gaussians, _, _ = load_gaussians(tmp_path / "run" / "gaussians.safetensors")
    shells = int(BOX * PIXEL_A / limit_A)
    coarse_A = BOX * PIXEL_A / (2 * shells + 4)
    assert float(gaussians.log_scales.exp().min()) > 0.45 * coarse_A


def test_half_1_does_not_see_half_2(made: Simulation, finished: Path, tmp_path: Path) -> None:
    """Other images in half 2; those of half 1, their order and their random numbers are as before."""
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in (made.star, made.stack):
        shutil.copy(file, folder)
    second = np.flatnonzero(made.particles.half_set == 2)
    with mrcfile.mmap(folder / made.stack.name, "r+") as stack:
        stack.data[second] = stack.data[second][:, ::-1]
    main(arguments(folder / made.star.name, tmp_path / "after"))
    for name in ("half1.mrc", "half2.mrc"):
        same = (tmp_path / "after" / name).read_bytes() == (finished / name).read_bytes()
        assert same == (name == "half1.mrc"), name

"""Shards add up to what one run comes to, and what does not go together is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import refused, results_of
from gem3d import Reconstruction, ReconstructSettings, reconstruct
from gem3d.accumulate_shard import accumulate_shard, parse_block, rows_of_block
from gem3d.cli import main
from gem3d.errors import Gem3dError, Gem3dWarning, RunDirectoryError, SettingsError, ShardError
from gem3d.fit_shards import fit_shards
from gem3d.maps import read_map
from gem3d.particles import ImageSource, read_particles
from gem3d.settings import FitSettings, PassSettings
from gem3d.shard_checks import check_shards
from gem3d.shards import Shard, add_up
from gem3d.simulate import Simulation
from gem3d.tensor_file import TensorFile, save_tensors
from half_map_checks import assert_same_half_maps

pytestmark = pytest.mark.usefixtures("one_thread")

OF_PASS = PassSettings(threads=1, quiet=True)
OF_FIT = FitSettings(threads=1, quiet=True, gaussians=60)


@pytest.fixture(scope="module")
def shards(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both shards of the set, on disk."""
    folder = tmp_path_factory.mktemp("shards")
    files = [folder / f"{k}.safetensors" for k in (1, 2)]
    for k, file in enumerate(files, start=1):
        accumulate_shard(made.star, file, OF_PASS, block=(k, 2))
    return files


@pytest.fixture(scope="module")
def whole(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reconstruction]:
    """One run over all images, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, reconstruct(made.star, out, ReconstructSettings(threads=1, quiet=True, gaussians=60))


def rms(difference: Any, of: Any) -> float:
    return float(np.sqrt(np.mean(np.square(difference)) / np.mean(np.square(of))))


def changed(
    shard: Path,
    path: Path,
    tensors: Callable[[dict[str, torch.Tensor]], object] = lambda _: None,
    version: str = "1",
    **facts: Any,
) -> Path:
    """A copy that says something else; `tensors` changes them in place."""
    with TensorFile(shard) as file:
        held = {name: file.tensor(name) for name in file.names}
        told = json.loads(file.metadata["facts"])
    tensors(held)
    settings = told["settings"] | {name: value for name, value in facts.items() if name in told["settings"]}
    told |= {name: value for name, value in facts.items() if name in told} | {"settings": settings}
    save_tensors(path, held, {"format": "gem3d shard", "version": version, "facts": json.dumps(told)})
    return path


def check(*files: Path, incomplete: bool = False) -> None:
    check_shards([Shard.open(file) for file in files], incomplete=incomplete)


def test_one_shard_of_all_comes_to_what_a_run_does(
    made: Simulation, whole: tuple[Path, Reconstruction], tmp_path: Path
) -> None:
    shard, out = tmp_path / "all.safetensors", tmp_path / "out"
    accumulate_shard(made.star, shard, OF_PASS)
    summary, expected = fit_shards([shard], out, OF_FIT).summary, whole[1].summary
    assert results_of(out) == results_of(whole[0])
    assert {path.name for path in out.iterdir()} == {path.name for path in whole[0].iterdir()}
    assert summary["settings"] == expected["settings"]
    # Poses are kept in single precision.
    assert summary["orientations"]["scf"] == pytest.approx(expected["orientations"]["scf"], rel=1e-6)
    of_the_run = {"command", "settings", "seconds", "images_per_second", "peak_memory_GB", "particle_file"}
    for key in expected.keys() - of_the_run - {"orientations"}:
        assert summary[key] == expected[key], key
    assert summary.keys() - expected.keys() == {"shards"}


def test_blocks_add_up_to_the_linear_maps_of_all(
    shards: list[Path], whole: tuple[Path, Reconstruction]
) -> None:
    sets, rotations = add_up([Shard.open(file) for file in shards], lambda *_: None)
    assert len(rotations) == 300
    for half, expected in zip(sets, whole[1].linear_half_maps, strict=True):
        assert rms(half.linear_map().values - expected, expected) < 1e-5


def test_noise_is_the_same_to_the_bit(shards: list[Path]) -> None:
    for name in ("half1.noise_power", "half2.noise_power"):
        one, other = (_tensor(file, name) for file in shards)
        assert torch.equal(one, other)


def test_subsets_and_separate_files_add_up(made: Simulation, shards: list[Path], tmp_path: Path) -> None:
    rows = np.arange(300)
    for name, index in (("even", rows[rows % 4 < 2]), ("odd", rows[rows % 4 >= 2])):
        np.save(tmp_path / f"{name}.npy", index)
        accumulate_shard(
            made.star, tmp_path / f"{name}.shard", replace(OF_PASS, ind=tmp_path / f"{name}.npy")
        )
    files = [tmp_path / "even.shard", tmp_path / "odd.shard"]
    check(*files)
    sets, rotations = add_up([Shard.open(file) for file in files], lambda *_: None)
    as_blocks, _ = add_up([Shard.open(file) for file in shards], lambda *_: None)
    assert len(rotations) == 300
    for one, other in zip(sets, as_blocks, strict=True):
        # Each has weights of its own; which particles are held out goes by their rows in the file.
        assert one.held_out.n_particles == other.held_out.n_particles
        assert one.noise_power.shape == other.noise_power.shape
        assert rms(one.linear_map().values - other.linear_map().values, other.linear_map().values) < 0.1
    with pytest.raises(ShardError, match=r"even\.shard and .*1\.safetensors: 76 images are in both"):
        check(files[0], shards[0], shards[1])


def test_blocks_hold_every_particle_once_and_no_image_is_split(made: Simulation) -> None:
    particles = read_particles(made.star)
    repeated = ImageSource(particles.subset(np.repeat(np.arange(10), 3)))
    blocks = [rows_of_block(repeated, (k, 4)) for k in (1, 2, 3, 4)]
    assert sorted(np.concatenate(blocks)) == list(range(30))
    assert all(len(block) % 3 == 0 for block in blocks)
    with pytest.raises(SettingsError, match="make fewer shards"):
        rows_of_block(repeated, (1, 40))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(SettingsError, match="give K/N"):
        parse_block(text)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"box_size_px": 34}, "box size in px 32 and 34"),
        ({"pixel_size_A": 6.7}, r"pixel size in A 6\.\d* and 6\.7"),
        ({"last_shell": 12}, "last Fourier shell 15 and 12"),
        ({"seed": 1}, "seed 0 and 1"),
        ({"ctf": False}, "CTF True and False"),
        ({"normalise": False}, "normalisation True and False"),
        ({"flip_hand": True}, "flipped hand False and True"),
    ],
)
def test_unlike_shards_are_refused(
    shards: list[Path], tmp_path: Path, facts: dict[str, Any], expected: str
) -> None:
    other = changed(shards[1], tmp_path / "other", **facts)
    with pytest.raises(ShardError, match=rf"1\.safetensors and .*other: {expected}: .*; (give|take) "):
        check(shards[0], other)


def test_shards_that_overlap_are_refused(made: Simulation, shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="are the same shard; give it once"):
        check(*shards, shards[0])
    one_more = tmp_path / "first"
    accumulate_shard(made.star, one_more, replace(OF_PASS, first=120))
    with pytest.raises(ShardError, match=r"1\.safetensors and .*first: 120 images are in both"):
        check(*shards, one_more)

    def exchange(tensors: dict[str, torch.Tensor]) -> None:
        one, other = tensors["half1.images"], tensors["half2.images"]
        tensors |= {"half1.images": other, "half2.images": one}

    turned = changed(shards[0], tmp_path / "turned", exchange)
    with pytest.raises(
        ShardError, match="150 images are in half set 1 of one and in half set 2 of the other"
    ):
        check(*shards, turned)
    drawn = changed(shards[1], tmp_path / "drawn", half_sets="drawn")
    with pytest.warns(Gem3dWarning, match="drawn at random, those of the others are from their files"):
        check(shards[0], drawn)


def test_missing_shards_are_named(shards: list[Path]) -> None:
    with pytest.raises(ShardError, match=r"of its 2 shards, 1/2 is missing; .*--incomplete"):
        check(shards[1])
    with pytest.warns(Gem3dWarning, match="1/2 is missing"):
        check(shards[1], incomplete=True)


def test_files_that_are_no_shards(made: Simulation, shards: list[Path], tmp_path: Path) -> None:
    content = shards[0].read_bytes()
    cut, spoilt, later = tmp_path / "cut", tmp_path / "spoilt", tmp_path / "later"
    cut.write_bytes(content[: len(content) // 2])
    changed(shards[0], later, version="2")
    for file, expected in (
        (cut, "cannot be read as a shard"),
        (made.star, "cannot be read as a shard"),
        (tmp_path / "none", "no such file"),
        (tmp_path, "is a folder"),
        (later, "format version 2, and this gem3d reads version 1"),
    ):
        with pytest.raises(ShardError, match=expected) as error:
            Shard.open(file)
        assert str(file) in str(error.value)
    save_tensors(tmp_path / "foreign", {"a": torch.zeros(3)}, {})
    with pytest.raises(ShardError, match="is not a shard"):
        Shard.open(tmp_path / "foreign")
    # In the middle of the equations, which are read last.
    spoilt.write_bytes(content[: len(content) // 3] + b"spoilt" + content[len(content) // 3 + 6 :])
    with pytest.raises(ShardError, match=r"spoilt: .*is not what was written"):
        add_up([Shard.open(spoilt), Shard.open(shards[1])], lambda *_: None)


def test_nothing_is_replaced_unasked(made: Simulation, shards: list[Path], tmp_path: Path) -> None:
    star = Path(shutil.copytree(made.star.parent, tmp_path / "set")) / made.star.name
    for out in (star, next(star.parent.glob("*.mrcs"))):
        with pytest.raises(Gem3dError, match="is read, and would be replaced"):
            accumulate_shard(star, out, OF_PASS, overwrite=True)
    with pytest.raises(RunDirectoryError, match=r"exists; .*--overwrite"):
        accumulate_shard(star, shards[0], OF_PASS)
    with pytest.raises(RunDirectoryError, match="is a folder"):
        accumulate_shard(star, tmp_path, OF_PASS)
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        accumulate_shard(star, tmp_path / "none" / "shard", OF_PASS)


def test_on_the_command_line(
    made: Simulation,
    whole: tuple[Path, Reconstruction],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [str(tmp_path / f"{k}.safetensors") for k in (1, 2)]
    for k, file in enumerate(files, start=1):
        main(["accumulate", str(made.star), "--out", file, "--shard", f"{k}/2", "--threads", "1"])
    assert "shard 2 of 2: 150 particles" in capsys.readouterr().err
    out = tmp_path / "out"
    options = ["--out", str(out), "--gaussians", "60", "--threads", "1"]
    assert "2/2 is missing" in refused(capsys, "fit", files[0], *options)
    assert "none.safetensors" in refused(capsys, "fit", "none.safetensors", *options)
    assert "no shard is given" in refused(capsys, "fit", *options)
    assert not out.exists()

    # Stopped, and gone on with, the shards given the other way round.
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gem3d.fit.checkpoint.SECONDS_BETWEEN", 0.0)
        patched.setattr("gem3d.fit.checkpoint.COSTS_BETWEEN", 0.0)
        patched.setattr("gem3d.finish.assess_half_maps", stop)
        with pytest.raises(SystemExit):
            main(["fit", *files, *options])
    assert "begun with particles" in refused(capsys, "fit", files[0], "--incomplete", *options, "--resume")
    main(["fit", *files[::-1], *options, "--resume"])
    assert "report.html" in capsys.readouterr().err
    assert_same_half_maps(
        *([read_map(folder / f"half{half}.mrc").values for half in (1, 2)] for folder in (out, whole[0]))
    )
    curves = [np.genfromtxt(folder / "fsc.csv", delimiter=",", names=True) for folder in (out, whole[0])]
    np.testing.assert_allclose(curves[0]["fsc_calibrated"], curves[1]["fsc_calibrated"], atol=0.05)
    assert "--overwrite" in refused(capsys, "fit", *files, *options)


def _tensor(file: Path, name: str) -> torch.Tensor:
    with TensorFile(file) as opened:
        return opened.tensor(name)

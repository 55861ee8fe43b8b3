"""Runs that are stopped go on to the very result that they would have had."""

from __future__ import annotations

import math
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from command_line import killed_once_there, refused, results_of
from gem3d.cli import main
from gem3d.errors import Gem3dWarning, RunDirectoryError
from gem3d.fit.accumulate import accumulate
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.half_sets import HalfSet
from gem3d.fit.methods import FromEquations
from gem3d.fit.observations import Observations
from gem3d.fit.result import Fit
from gem3d.fit.start import start_of_half
from gem3d.fit.volume import fit_volume
from gem3d.particles import ImageSource, read_particles
from gem3d.run_directory import CHECKPOINT_RUN, CHECKPOINTS
from gem3d.simulate import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")

DIAMETER_A = 150.0


class Killed(Exception):
    pass


class KillAfter:
    """Progress that stops the work at its n-th call."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written at every chance."""
    monkeypatch.setattr("gem3d.fit.checkpoint.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("gem3d.fit.checkpoint.COSTS_BETWEEN", 0.0)


def observed(made: Simulation) -> Observations:
    images = ImageSource(read_particles(made.star))
    return Observations.of(images, DIAMETER_A / images.particles.pixel_size_A / 2)


def accumulated(observations: Observations, **options: object) -> tuple[HalfSet, ...]:
    halves = observations.images.particles.half_set
    return accumulate(observations, halves, seed=0, **options)  # type: ignore[arg-type]


# ---- the file


def test_what_is_written_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "turned": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
        "empty": torch.empty((0, 3, 3), dtype=torch.float64),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "short": torch.tensor([1.0, -2.5], dtype=torch.bfloat16),
        "leaf": torch.ones(2, requires_grad=True),
    }
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    checkpoint.save(tensors, {"loss": 0.1 + 0.2, "none": math.inf})
    by_library = load_file(tmp_path / "state.safetensors")
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[1] == {"loss": 0.1 + 0.2, "none": math.inf}
    for found in (by_library, loaded[0]):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor.detach()), name


def test_saving_waits_longer_where_it_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gem3d.fit.checkpoint.time.monotonic", lambda: now)
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    now = 29.0
    assert not checkpoint.due
    now = 31.0
    assert checkpoint.due
    checkpoint.expect(5_000_000_000)  # 10 s at 0.5 GB/s, so not within 300
    assert not checkpoint.due
    now = 299.0
    assert not checkpoint.worthwhile
    now = 301.0
    assert checkpoint.due
    assert checkpoint.worthwhile


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    Checkpoint(path).save({"a": torch.arange(1000.0)}, {"n": 1})
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:-5] + b"\x01" + whole[-4:], b"", b"nonsense" * 20):
        path.write_bytes(damaged)
        with pytest.raises(RunDirectoryError, match="cannot be used as a checkpoint"):
            Checkpoint(path).load()
    path.write_bytes(whole)
    assert Checkpoint(path).load() is not None
    assert Checkpoint(path, of="another round").load() is None


def test_a_full_disk_does_not_end_the_work(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    Checkpoint(path).save({"a": torch.ones(3)}, {})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        checkpoint = Checkpoint(path)
        with pytest.warns(Gem3dWarning, match="ulimit -f.*The work goes on"):
            checkpoint.save({"a": torch.ones(10_000)}, {})
        checkpoint.save({"a": torch.ones(10_000)}, {})  # told once
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


# ---- the stages


@pytest.mark.parametrize("stop_after", [0, 1, 2])
@pytest.mark.usefixtures("always_due")
def test_an_accumulation_goes_on_to_the_same_bits(
    made: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    """Before, among and after the batches; what waits for its insertion is not inserted sooner."""
    monkeypatch.setattr("gem3d.fit.set_slices.WAITING_BYTES", 40 * 31 * 16 * 3 * 4)
    whole, observations = accumulated(observed(made)), observed(made)
    path = tmp_path / "accumulate.safetensors"
    with pytest.raises(Killed):
        accumulated(observations, checkpoint=Checkpoint(path), progress=KillAfter(stop_after))
    read = []

    class Counted(Observations):
        def batches(self, rows, batch_size):  # type: ignore[no-untyped-def]
            read.append(len(rows))
            return super().batches(rows, batch_size)

    again = Counted(**vars(observed(made)))
    resumed = accumulated(again, checkpoint=Checkpoint(path))
    assert read[-1] == 300 - 128 * max(stop_after, 0), "images that are in the checkpoint are not read again"
    finished = accumulated(Counted(**vars(observed(made))), checkpoint=Checkpoint(path))
    assert read[-1] == 0
    for found in (resumed, finished):
        for half, expected in zip(found, whole, strict=True):
            for name in ("training", "held_out"):
                mine, theirs = getattr(half, name), getattr(expected, name)
                assert torch.equal(mine.accumulator, theirs.accumulator)
                assert mine.n_particles == theirs.n_particles


def test_images_left_out_are_remembered(made: Simulation, tmp_path: Path, always_due: None) -> None:
    observations = observed(made)
    observations.excluded.statuses[7] = 3
    path = tmp_path / "accumulate.safetensors"
    accumulated(observations, checkpoint=Checkpoint(path))
    again = observed(made)
    accumulated(again, checkpoint=Checkpoint(path))
    assert again.excluded.rows.tolist() == [7]


def test_a_checkpoint_of_other_images_is_refused(made: Simulation, tmp_path: Path, always_due: None) -> None:
    path = tmp_path / "accumulate.safetensors"
    accumulated(observed(made), checkpoint=Checkpoint(path))
    with pytest.raises(RunDirectoryError, match="another size"):
        accumulated(observed(made), checkpoint=Checkpoint(path), radius=9)
    accumulated(observed(made), checkpoint=Checkpoint(path.with_name("one.safetensors")), wanted=(1,))
    with pytest.raises(RunDirectoryError, match="cannot be used as a checkpoint"):
        accumulated(observed(made), checkpoint=Checkpoint(path.with_name("one.safetensors")))


@pytest.mark.usefixtures("always_due")
def test_a_fit_goes_on_to_the_same_bits(made: Simulation, tmp_path: Path) -> None:
    """In the first round, after a growth, while the held-out particles are folded in, and when all is done."""
    sets = accumulated(observed(made))
    half = sets[0]
    start = start_of_half(
        half.linear_map().values,
        half.held_out,
        DIAMETER_A,
        np.random.default_rng(0),
        n_gaussians="auto",
        init="map",
        spread=FromEquations.spread,
    )

    def fit(**options: object) -> Fit:
        return fit_volume(
            start.gaussians,
            half.training,
            half.held_out,
            start.support_A,
            most_gaussians=2 * len(start.gaussians),
            **options,  # type: ignore[arg-type]
        )

    whole = fit()
    steps = [each.steps for each in whole.rounds]
    assert len(steps) == 2, "it grew"
    all_steps = sum(each - 1 for each in steps) + 10
    for stop_after in (0, 3, steps[0] - 1, steps[0] + 2, all_steps - 12, all_steps - 4, all_steps):
        path = tmp_path / f"{stop_after}.safetensors"
        if stop_after < all_steps:
            with pytest.raises(Killed):
                fit(checkpoint=Checkpoint(path), progress=KillAfter(stop_after))
        else:
            fit(checkpoint=Checkpoint(path))
        resumed = fit(checkpoint=Checkpoint(path))
        assert resumed.rounds == whole.rounds
        for a, b in ((resumed.gaussians, whole.gaussians), (resumed.stopped, whole.stopped)):
            for name, tensor in a.parameters.items():
                assert torch.equal(tensor, b.parameters[name]), (stop_after, name)
        assert resumed.gain is not None
        assert whole.gain is not None
        np.testing.assert_array_equal(resumed.gain.seen, whole.gain.seen)


# ---- whole commands

OPTIONS = ("--threads", "1", "--gaussians", "300", "--quiet")


def arguments(star: Path, out: Path, *extra: str) -> list[str]:
    return ["reconstruct", str(star), "--out", str(out), *OPTIONS, *extra]


@pytest.fixture(scope="module")
def finished(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(arguments(made.star, out))
    assert not (out / CHECKPOINTS).exists()
    return out


@pytest.mark.parametrize("file", ["half1.mrc", "map_unfiltered.mrc"])
def test_a_killed_run_goes_on_to_the_same_files(
    finished: Path, made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    out = tmp_path / "run"
    killed_once_there(out / file, *arguments(made.star, out))
    assert "go on with --resume" in refused(capsys, *arguments(made.star, out))
    message = refused(capsys, *arguments(made.star, out, "--resume", "--seed", "7"))
    assert "seed = 0, now it is 7" in message
    (out / CHECKPOINTS / ".gem3d.another-machine.77.0.tmp").write_text("what the killed run leaves there")
    main(arguments(made.star, out, "--resume"))
    assert results_of(out) == results_of(finished)
    assert not (out / CHECKPOINTS).exists()
    assert "no checkpoint to go on from" in refused(capsys, *arguments(made.star, out, "--resume"))


@pytest.mark.parametrize("extra", [(), ("--resume",)])
def test_a_run_killed_while_it_says_that_it_has_begun_is_begun_anew(
    finished: Path, made: Simulation, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    (out / CHECKPOINTS).mkdir(parents=True)
    (out / CHECKPOINTS / ".gem3d.another-machine.77.0.tmp").write_text("{")
    main(arguments(made.star, out, *extra))
    assert results_of(out) == results_of(finished)
    assert not (out / CHECKPOINTS).exists()


@pytest.mark.parametrize("extra", [(), ("--resume",)])
def test_a_run_killed_before_it_saved_anything_is_begun_anew(
    finished: Path, made: Simulation, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    killed_once_there(out / "checkpoint" / "run.json", *arguments(made.star, out, "--seed", "3"))
    main(arguments(made.star, out, *extra))
    assert results_of(out) == results_of(finished)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    "where",
    [
        "gem3d.half_maps.start_of_half",
        "gem3d.fit.volume.split",
        "gem3d.fit.methods.mean_of",
        "gem3d.finish.assess_half_maps",
        "gem3d.finish.write_report",
    ],
)
def test_every_stage_is_gone_on_with(finished: Path, made: Simulation, tmp_path: Path, where: str) -> None:
    out = tmp_path / "run"
    automatic = ("--gaussians", "auto") if where.endswith("split") else ()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        module, _, name = where.rpartition(".")
        patched.setattr(sys.modules[module], name, stop)  # `gem3d.reconstruct` is the function
        with pytest.raises(SystemExit) as stopped:
            main(arguments(made.star, out, *automatic))
    assert stopped.value.code == 130
    assert (out / CHECKPOINTS / CHECKPOINT_RUN).exists()
    assert (out / CHECKPOINTS / "accumulate.safetensors").exists()
    if automatic:
        whole = tmp_path / "whole"
        main(arguments(made.star, whole, *automatic))
    else:
        whole = finished
    main(arguments(made.star, out, "--resume", *automatic))
    assert results_of(out) == results_of(whole)


def test_a_run_that_fails_before_it_has_anything_leaves_no_trace(made: Simulation, tmp_path: Path) -> None:
    """It can be repeated without --resume once its input is put right."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "gem3d.half_maps.accumulate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(SystemExit):
            main(arguments(made.star, out))
    assert [path.name for path in out.iterdir()] == ["run.log"]


def test_earlier_results_stay_until_there_are_new_ones(
    finished: Path, made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    main(arguments(made.star, out, "--seed", "5"))
    before = results_of(out)
    killed_once_there(out / "checkpoint" / "run.json", *arguments(made.star, out, "--overwrite"))
    assert results_of(out) == before
    assert "go on with --resume" in refused(capsys, *arguments(made.star, out))
    main(arguments(made.star, out, "--resume"))
    assert results_of(out) == results_of(finished)

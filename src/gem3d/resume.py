"""Going on with a stopped run: where its checkpoints are, and whether they belong to the run that is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import gem3d
from gem3d import run_directory
from gem3d.atomic import is_temporary, refusing
from gem3d.errors import RunDirectoryError, SettingsError, warn
from gem3d.fit.checkpoint import Checkpoint
from gem3d.particles import Particles
from gem3d.settings import ReconstructSettings, RefineSettings

RUN = run_directory.CHECKPOINT_RUN
# Settings that may change without making it another run; of threads, more than the last digits does not change.
RESULTS, OWN_RESULTS = "results", "of this run"
INDIFFERENT = ("resume", "overwrite", "quiet", "device", "threads", "datadir")


class RunCheckpoints:
    """The checkpoints of one run, in a folder beside its results.

    Parameters
    ----------
    particles: or what tells them from others, as `digest_of` does.

    Attributes
    ----------
    going_on: a run that was stopped has left something, which is to be used.

    Raises
    ------
    SettingsError: that run had other particles or settings.
    """

    def __init__(
        self,
        out: Path,
        particles: Particles | str,
        settings: ReconstructSettings,
        refinement: RefineSettings | None,
        threads: int,
    ) -> None:
        self.folder = out / run_directory.CHECKPOINTS
        self._particles, self._settings, self._refinement = particles, settings, refinement
        self._threads, self._results_are_ours = threads, False
        # One that had saved nothing is begun anew, with whatever settings.
        self.going_on = (
            settings.resume and run_directory.is_begun(out) and not run_directory.holds_nothing(out)
        )
        if self.going_on:
            self._compare()

    @cached_property
    def _run(self) -> dict[str, Any]:
        """What makes the run this one and no other; every particle goes into it."""
        settings = asdict(self._settings) | ({} if self._refinement is None else asdict(self._refinement))
        chosen = json.loads(json.dumps(settings, default=str))
        particles = self._particles
        return {
            "gem3d": gem3d.__version__,
            "particles": particles if isinstance(particles, str) else digest_of(particles),
            "refined": self._refinement is not None,
            **{name: value for name, value in chosen.items() if name not in INDIFFERENT},
        }

    def stage(self, name: str, of: str = "") -> Checkpoint:
        """The checkpoint of one stage, of one part of the run."""
        assert name in run_directory.STAGES
        return Checkpoint(self.folder / f"{name}.safetensors", of)

    def begin(self) -> None:
        """Say in the folder that there is a run; its checkpoints are those of the run that this one goes on with."""
        if not self.going_on:
            self.remove()
            with refusing(self.folder):
                self.folder.mkdir(exist_ok=True)
            self._write_run(results="of an earlier run, or none")

    def images_were_read(self) -> None:
        """From here on there will be new results; those of an earlier run go."""
        if not self._results_are_ours:
            run_directory.remove_results(self.folder.parent)
            try:
                self._write_run(results=OWN_RESULTS)
            except RunDirectoryError as error:  # with --resume they would be made once more, no worse
                warn(f"{error}. The work goes on")
            self._results_are_ours = True

    @contextmanager
    def advising(self) -> Iterator[None]:
        """Tell with an error that ends the run how to go on with it, where there is something to go on from."""
        try:
            yield
        except BaseException as error:
            out = self.folder.parent
            with suppress(OSError, RunDirectoryError):
                if run_directory.holds_nothing(out):
                    self.remove()
                else:
                    error.add_note(
                        f"What is in {out} is kept: the same options and --resume go on from there."
                    )
            raise

    def remove(self) -> None:
        """Remove what a stopped run has left, or what a finished one needs no more; no file of anyone else's."""
        with refusing(self.folder):
            if not (self.folder / RUN).exists():
                return
            temporary = [path.name for path in self.folder.iterdir() if is_temporary(path)]
        # The run's name last: without it nobody would know whose the others are.
        run_directory.remove_results(self.folder, (*temporary, *run_directory.CHECKPOINT_FILES[::-1]))
        with suppress(OSError):  # somebody else's files are in it
            self.folder.rmdir()

    def _write_run(self, *, results: str) -> None:
        run_directory.write_json(self.folder / RUN, {**self._run, "threads": self._threads, RESULTS: results})

    def _compare(self) -> None:
        path = self.folder / RUN
        try:
            begun: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{path}: cannot be read ({error}); begin anew with --overwrite instead of --resume"
            ) from error
        self._results_are_ours = begun.get(RESULTS) == OWN_RESULTS
        for name, value in self._run.items():
            if begun.get(name) != value:
                raise SettingsError(
                    f"--resume: the run in {self.folder.parent} was begun with {name} = {begun.get(name)}, now it is "
                    f"{value}; give the same options, or begin anew with --overwrite"
                )
        if begun.get("threads") != self._threads:
            warn(
                f"the run was begun with {begun.get('threads')} threads and goes on with {self._threads}: the maps "
                "may differ in their last digits from those of an uninterrupted run"
            )


def digest_of(particles: Particles) -> str:
    """What tells one particle set from another: every value but where its file lies."""
    digest = hashlib.sha256()
    for each in fields(particles):
        value = getattr(particles, each.name)
        if isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).tobytes())
        elif each.name not in ("source", "template"):
            digest.update(repr(value).encode())
    return f"{len(particles)}, SHA-256 {digest.hexdigest()[:16]}"

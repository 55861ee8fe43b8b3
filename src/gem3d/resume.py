"""Going on with a killed run: where its checkpoints are, and whether they belong to the run that is asked for."""

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
from gem3d.errors import RunDirectoryError, SettingsError, warn
from gem3d.fit.checkpoint import Checkpoint
from gem3d.particles import Particles
from gem3d.settings import ReconstructSettings, RefineSettings

RUN = run_directory.CHECKPOINT_RUN
# Accumulators are large.
SECONDS_BETWEEN_ACCUMULATORS = 120.0
STAGES = ("refinement", "accumulate", "accumulate1", "accumulate2", "half1", "half2", "final")
"""Stages of a run that leave a checkpoint each, if they take long."""
# Settings that may change without making it another run; of threads, more than the last digits does not change.
INDIFFERENT = ("resume", "overwrite", "quiet", "device", "threads", "datadir")


class RunCheckpoints:
    """The checkpoints of one run, in a folder beside its results.

    Attributes
    ----------
    going_on: a killed run has left some, and they are to be used.

    Raises
    ------
    SettingsError: the killed run had other particles or settings.
    """

    def __init__(
        self,
        out: Path,
        particles: Particles,
        settings: ReconstructSettings,
        refinement: RefineSettings | None,
        threads: int,
    ) -> None:
        self.folder = out / run_directory.CHECKPOINTS
        self._particles, self._settings, self._refinement = particles, settings, refinement
        self._threads, self._kept = threads, False
        self.going_on = settings.resume and (self.folder / RUN).exists()
        if self.going_on:
            self._compare()

    @cached_property
    def _run(self) -> dict[str, Any]:
        """What makes the run this one and no other; every particle goes into it."""
        settings = asdict(self._settings) | ({} if self._refinement is None else asdict(self._refinement))
        chosen = json.loads(json.dumps(settings, default=str))
        return {
            "gem3d": gem3d.__version__,
            "particles": _digest(self._particles),
            "refined": self._refinement is not None,
            **{name: value for name, value in chosen.items() if name not in INDIFFERENT},
        }

    def stage(self, name: str) -> Checkpoint:
        """The checkpoint of one stage."""
        accumulates = name.startswith("accumulate")
        return Checkpoint(self._file(name), SECONDS_BETWEEN_ACCUMULATORS if accumulates else None)

    def open(self) -> None:
        """From here on the folder says that a run was begun, until `remove`; unless this one goes on with it."""
        if not self.going_on:
            self.remove()
            self.folder.mkdir(exist_ok=True)
            run_directory.write_json(self.folder / RUN, {**self._run, "threads": self._threads})

    def remove(self) -> None:
        """Remove what a killed run has left, or what a finished one needs no more; no file of anyone else's."""
        for name in STAGES:
            self._file(name).unlink(missing_ok=True)
        (self.folder / RUN).unlink(missing_ok=True)
        with suppress(OSError):  # not there, or somebody else's files are in it
            self.folder.rmdir()

    def keep(self) -> None:
        """From here on there are new results: a failure leaves something to go on with."""
        self._kept = True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """`open`; where the block fails and there is nothing to go on with, the folder is left as it was."""
        self.open()
        try:
            yield
        except BaseException:
            something = self.going_on or self._kept or any(self._file(name).exists() for name in STAGES)
            if not something:
                self.remove()
            raise

    def _file(self, name: str) -> Path:
        assert name in STAGES
        return self.folder / f"{name}.safetensors"

    def _compare(self) -> None:
        path = self.folder / RUN
        try:
            begun: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{path}: cannot be read ({error}); begin anew with --overwrite instead of --resume"
            ) from error
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


def _digest(particles: Particles) -> str:
    """What tells one particle set from another: every value but where its file lies."""
    digest = hashlib.sha256()
    for each in fields(particles):
        value = getattr(particles, each.name)
        if isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).tobytes())
        elif each.name not in ("source", "template"):
            digest.update(repr(value).encode())
    return f"{len(particles)}, SHA-256 {digest.hexdigest()[:16]}"

"""Going on with a killed run: where its checkpoints are, and whether they belong to the run that is asked for."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import gem3d
from gem3d import run_directory
from gem3d.errors import RunDirectoryError, SettingsError, warn
from gem3d.particles import Particles
from gem3d.settings import ReconstructSettings, RefineSettings

RUN = run_directory.CHECKPOINT_RUN
STAGES = ("refinement", "half1", "half2")
"""Stages of a run that leave a checkpoint each."""
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
        self._threads, self._opened = threads, False
        self.going_on = settings.resume and (self.folder / RUN).exists()
        if self.going_on:
            self._compare()

    @cached_property
    def _run(self) -> dict[str, Any]:
        """What makes the run this one and no other; every particle goes into it, so only runs that need it ask."""
        settings = asdict(self._settings) | ({} if self._refinement is None else asdict(self._refinement))
        chosen = json.loads(json.dumps(settings, default=str))
        return {
            "gem3d": gem3d.__version__,
            "particles": _digest(self._particles),
            "refined": self._refinement is not None,
            **{name: value for name, value in chosen.items() if name not in INDIFFERENT},
        }

    def stage(self, name: str) -> Path:
        """File for the checkpoint of one stage."""
        assert name in STAGES
        return self.folder / f"{name}.safetensors"

    def open(self) -> None:
        """Make the folder, holding the files of the killed run if this one goes on with it, else none; once."""
        if not self.going_on and not self._opened:
            self._opened = True
            self.remove()
            self.folder.mkdir(exist_ok=True)
            run_directory.write_json(self.folder / RUN, {**self._run, "threads": self._threads})

    def remove(self) -> None:
        """Remove what a killed run has left, or what a finished one needs no more; no file of anyone else's."""
        if (self.folder / RUN).exists():
            (self.folder / RUN).unlink()
            for name in STAGES:
                self.stage(name).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's files are in it
                self.folder.rmdir()

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

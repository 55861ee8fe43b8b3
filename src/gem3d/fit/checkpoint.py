"""What survives a killed run: one file a stage, whole or not there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from gem3d.errors import RunDirectoryError, warn
from gem3d.tensor_file import TensorFile, save_tensors

SECONDS_BETWEEN = 30.0
# Saving takes no more than 1 / so much of the time.
COSTS_BETWEEN = 30.0
# What saving is reckoned to cost before the first time.
BYTES_PER_SECOND = 0.5e9


class Checkpoint:
    """The state of one stage of a run on disk.

    Parameters
    ----------
    path: the file; its folder exists.
    of: what the stage is a part of, such as a round; what was saved of another part is not gone on from.
    """

    def __init__(self, path: Path, of: str = "") -> None:
        self._path, self._of = path, of
        self._begun_s = self._last_s = time.monotonic()
        self._cost_s = 0.0
        self._refused = False

    def expect(self, n_bytes: int) -> None:
        """Say how large a state will be, so that the first one is not saved too soon."""
        self._cost_s = n_bytes / BYTES_PER_SECOND

    @property
    def due(self) -> bool:
        """Whether it is time to save again.

        A killed run loses no more of this stage than `SECONDS_BETWEEN`, or `COSTS_BETWEEN` times what saving takes.
        """
        return time.monotonic() - self._last_s >= max(SECONDS_BETWEEN, COSTS_BETWEEN * self._cost_s)

    @property
    def worthwhile(self) -> bool:
        """Whether the stage has taken so long that its end is worth saving."""
        return time.monotonic() - self._begun_s >= max(SECONDS_BETWEEN, COSTS_BETWEEN * self._cost_s)

    def save(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Replace what was saved before, without a copy of the tensors.

        Only a warning where there is no room for it, as the work itself can go on.
        """
        begun_s = time.monotonic()
        try:
            save_tensors(self._path, tensors, {"numbers": json.dumps(numbers), "of": self._of})
        except RunDirectoryError as error:
            if not self._refused:
                warn(
                    f"{error}. The work goes on; should it be killed, --resume finds only what was saved before"
                )
            self._refused = True
        self._last_s = time.monotonic()
        self._cost_s = self._last_s - begun_s

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """What was saved last of this part of the run; None where nothing was.

        Raises
        ------
        RunDirectoryError: the file is not a checkpoint.
        """
        if not self._path.exists():
            return None
        try:
            with TensorFile(self._path) as file:
                if file.metadata["of"] != self._of:
                    return None
                tensors = {name: file.tensor(name) for name in file.names}
                return tensors, json.loads(file.metadata["numbers"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self.unusable(error) from error

    def restore(self, restore: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> bool:
        """Hand what was saved last to `restore`; False where nothing was.

        Raises
        ------
        RunDirectoryError: it is not a checkpoint of this stage.
        """
        saved = self.load()
        if saved is None:
            return False
        try:
            restore(*saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self.unusable(error) from error
        return True

    def unusable(self, reason: object) -> RunDirectoryError:
        """The error to raise where what was saved cannot be gone on from."""
        return RunDirectoryError(
            f"{self._path}: cannot be used as a checkpoint ({reason}); remove it, and --resume begins this stage anew"
        )


CheckpointOf = Callable[[str], Checkpoint | None]
"""Gives the checkpoint of a stage; None for none."""


def no_checkpoint(stage: str) -> None:
    """The `CheckpointOf` of what need not survive."""

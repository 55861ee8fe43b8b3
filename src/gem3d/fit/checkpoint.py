"""What survives a killed run: one file a stage, whole or not there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gem3d.atomic import replacing
from gem3d.errors import RunDirectoryError

SECONDS_BETWEEN = 30.0


class Checkpoint:
    """The state of one stage of a run on disk.

    Parameters
    ----------
    path: the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again: a killed run loses less than `SECONDS_BETWEEN` of this stage."""
        return time.monotonic() - self._last_s >= SECONDS_BETWEEN

    def save(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Replace what was saved before."""
        with replacing(self._path) as temporary:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, temporary, {"numbers": json.dumps(numbers)})
        self._last_s = time.monotonic()

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """What was saved last; None where nothing was.

        Raises
        ------
        RunDirectoryError: the file is not a checkpoint.
        """
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                names = list(file.keys())
                return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["numbers"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self.unusable(error) from error

    def unusable(self, reason: object) -> RunDirectoryError:
        """The error to raise where what was saved cannot be gone on from."""
        return RunDirectoryError(
            f"{self._path}: cannot be used as a checkpoint ({reason}); remove it, and --resume begins this stage anew"
        )

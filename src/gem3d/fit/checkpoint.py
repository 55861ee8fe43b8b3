"""What survives a killed run: one file a stage, whole or not there."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gem3d.atomic import replacing
from gem3d.errors import RunDirectoryError

SECONDS_BETWEEN = 30.0
# Writing takes at most this share of the time, however large the state and slow the disk.
MOST_SHARE = 0.03
_TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.bfloat16: "BF16",
}


class Checkpoint:
    """The state of one stage of a run on disk.

    Parameters
    ----------
    path: the file; its folder exists.
    seconds_between: a killed run loses about so much of this stage, `SECONDS_BETWEEN` by default.
    """

    def __init__(self, path: Path, seconds_between: float | None = None) -> None:
        self._path = path
        self._seconds_between = SECONDS_BETWEEN if seconds_between is None else seconds_between
        self._begun_s = self._last_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last_s >= self._seconds_between

    @property
    def worthwhile(self) -> bool:
        """Whether the stage has taken so long that its end is worth saving."""
        return time.monotonic() - self._begun_s >= SECONDS_BETWEEN

    def save(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Replace what was saved before; no tensor is copied."""
        start_s = time.monotonic()
        with replacing(self._path) as temporary:
            _write(temporary, tensors, {"numbers": json.dumps(numbers)})
        self._last_s = time.monotonic()
        self._seconds_between = max(self._seconds_between, (self._last_s - start_s) / MOST_SHARE)

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


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, tensor by tensor: the library's own writer copies them all first, gigabytes of them."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    arrays = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    for name, array in arrays.items():
        begin, end = end, end + array.numel() * array.element_size()
        header[name] = {
            "dtype": _TYPES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.reshape(-1).view(torch.uint8).numpy().data)

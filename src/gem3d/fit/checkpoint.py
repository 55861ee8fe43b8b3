"""What survives a killed run: one file a stage, whole or not there."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gem3d.atomic import replacing
from gem3d.errors import RunDirectoryError, warn

SECONDS_BETWEEN = 30.0
# Saving takes no more than 1 / so much of the time.
COSTS_BETWEEN = 30.0
# What saving is reckoned to cost before the first time.
BYTES_PER_SECOND = 0.5e9
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
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        sums = {name: _checksum(tensor) for name, tensor in contiguous.items()}
        metadata = {"numbers": json.dumps(numbers), "of": self._of, "checksums": json.dumps(sums)}
        try:
            with replacing(self._path) as temporary:
                _write(contiguous, temporary, metadata)
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
            # Read, not mapped: the tensors will be changed, and the file replaced.
            with safe_open(self._path, framework="pt", backend="pread") as file:
                metadata = file.metadata()
                if metadata["of"] != self._of:
                    return None
                sums = json.loads(metadata["checksums"])
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            for name, tensor in tensors.items():
                if _checksum(tensor) != sums[name]:
                    raise ValueError(f"{name} is not what was written")
            return tensors, json.loads(metadata["numbers"])
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


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).cpu().numpy().data


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(_bytes(tensor))


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A safetensors file, tensor by tensor: the library's own writer copies them all first, gigabytes of them."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(_bytes(tensor))

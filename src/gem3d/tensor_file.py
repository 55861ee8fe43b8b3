"""Safetensors files of large tensors: written without a copy of them, read one by one, each held against its sum."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from gem3d.atomic import replacing

_TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.bfloat16: "BF16",
}


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file that appears whole or not at all, without a copy of contiguous tensors.

    Raises
    ------
    RunDirectoryError: the file system refuses.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    sums = {name: _checksum(tensor) for name, tensor in contiguous.items()}
    with replacing(path) as temporary:
        _write(contiguous, temporary, {**metadata, "checksums": json.dumps(sums)})


class TensorFile:
    """What `save_tensors` wrote, to be read in a `with` block.

    Attributes
    ----------
    metadata: as given, and the checksums.

    Raises
    ------
    SafetensorError, OSError, KeyError, TypeError, ValueError: the file is another, or damaged; from the methods, too.
    """

    metadata: dict[str, str]

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> TensorFile:
        with ExitStack() as opened:
            # Read, not mapped: the tensors will be changed, and the file may be replaced.
            file = safe_open(self._path, framework="pt", backend="pread")
            self._file = opened.enter_context(file)
            self.metadata = self._file.metadata() or {}
            self._sums: dict[str, int] = json.loads(self.metadata.get("checksums", "{}"))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *of_error: object) -> None:
        self._opened.close()

    @property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self._file.keys())

    def tensor(self, name: str) -> torch.Tensor:
        """One of them."""
        tensor: torch.Tensor = self._file.get_tensor(name)
        if _checksum(tensor) != self._sums[name]:
            raise ValueError(f"{name} is not what was written")
        return tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).cpu().numpy().data


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(_bytes(tensor))


def _write(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Tensor by tensor: the library's own writer copies them all first, gigabytes of them."""
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

"""Gaussians on disk: safetensors as the exact file, PLY for viewers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gem3d.atomic import replacing
from gem3d.errors import MapError
from gem3d.gaussians.model import Gaussians
from gem3d.input_file import refuse_unless_file

_NAMES = ("centres_A", "log_scales", "quaternions", "raw_masses")


def save_gaussians(gaussians: Gaussians, path: str | Path, box_size_px: int, pixel_size_A: float) -> None:
    """Write the exact values, with the box and pixel size of the map they were fitted to."""
    metadata = {
        "format": "gem3d-gaussians-1",
        "unit_mass": repr(gaussians.unit_mass),
        "box_size_px": repr(box_size_px),
        "pixel_size_A": repr(pixel_size_A),
    }
    tensors = {name: t.contiguous() for name, t in gaussians.detached().parameters.items()}
    # The library writes files that only their owner may read, so only its bytes are used.
    content = _with_sorted_header(save(tensors, metadata))
    with replacing(path, MapError) as temporary:
        temporary.write_bytes(content)


def _with_sorted_header(content: bytes) -> bytes:
    """The same safetensors file, equal for equal values: the library writes metadata in random order."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    return content[:8] + header.ljust(size) + content[8 + size :]


def load_gaussians(path: str | Path) -> tuple[Gaussians, int, float]:
    """Read what `save_gaussians` wrote: the Gaussians, box size and pixel size in A."""
    refuse_unless_file(Path(path), MapError)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != "gem3d-gaussians-1" or set(tensors) != set(_NAMES):
            raise MapError(
                f"{path}: a safetensors file, but not of gem3d's Gaussians; give a gaussians.safetensors"
            )
        gaussians = Gaussians(**tensors, unit_mass=float(metadata["unit_mass"]))
        return gaussians, int(metadata["box_size_px"]), float(metadata["pixel_size_A"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise MapError(
            f"{path}: cannot be read as Gaussians ({error}); give a gaussians.safetensors"
        ) from error


def save_ply(gaussians: Gaussians, path: str | Path) -> None:
    """Write a binary PLY with the field names that viewers of Gaussian splats expect.

    Positions in A; scales as logarithms; `opacity` is a logit of the peak density relative to the largest; colours
    are a neutral grey in degree-0 spherical harmonics.
    """
    g = gaussians.detached()
    peak = g.masses * torch.exp(-g.log_scales.sum(1))
    opacity = torch.logit((peak / peak.max()).clamp(1e-4, 1 - 1e-4))
    zeros = torch.zeros(len(g), 3)
    quaternions = torch.nn.functional.normalize(g.quaternions, dim=1)
    columns = torch.cat([g.centres_A, zeros, zeros, opacity[:, None], g.log_scales, quaternions], dim=1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(g)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    content = "\n".join(header).encode() + columns.numpy().astype(np.dtype("<f4")).tobytes()
    with replacing(path, MapError) as temporary:
        temporary.write_bytes(content)

"""Shards: files that hold all that some of the particles say, to be added up later.

A shard is a safetensors file of the normal equations of both halves, training and held-out, and of what the work
needs to know of the images once they have been read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from gem3d.errors import ShardError
from gem3d.fit.half_sets import HalfSet, mix_bits
from gem3d.fit.normal_equations import NormalEquations
from gem3d.input_file import refuse_unless_file
from gem3d.kernels.insert_slices import accumulator_shape
from gem3d.particles import Particles
from gem3d.tensor_file import TensorFile, save_tensors

FORMAT, VERSION = "gem3d shard", "1"
_EQUATIONS = ("half1.training", "half1.held_out", "half2.training", "half2.held_out")


@dataclass(frozen=True)
class ShardFacts:
    """What a shard says beside its tensors; as JSON in the file.

    Attributes
    ----------
    gem3d: version that wrote it.
    particle_set: tells the particles that the shard was cut from, with all their values, from others.
    block: (K, N) of the K-th of N blocks of that set; None for all of it.
    half_sets: "file" or "drawn".
    diameter_A: of the sphere outside which background lies.
    settings: of the pass over the images.
    n_images: that were read.
    n_particles: that are in the equations, by their names.
    excluded: name and reason of every image left out.
    resampled: box size, pixel size, particles and optics groups of each other grid that images came on.
    warnings: of the pass.
    """

    gem3d: str
    particle_file: str
    particle_set: str
    block: tuple[int, int] | None
    half_sets: str
    box_size_px: int
    pixel_size_A: float
    last_shell: int
    diameter_A: float
    settings: dict[str, Any]
    n_images: int
    n_particles: dict[str, int]
    excluded: list[tuple[str, str]]
    resampled: list[tuple[int, float, int, list[str]]]
    warnings: list[str]


@dataclass(frozen=True)
class Shard:
    """A shard on disk, its tensors but for the images not read yet.

    Attributes
    ----------
    images: of each half, `(n,)` sorted hashes of its images.
    digest: tells it from other shards.
    """

    path: Path
    facts: ShardFacts
    images: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    digest: str

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Read what is to be known before shards are added up.

        Raises
        ------
        ShardError: the file is no shard, or damaged.
        """
        with _reading(path) as file:
            given = json.loads(file.metadata["facts"])
            block = given.pop("block")
            facts = ShardFacts(**given, block=None if block is None else (int(block[0]), int(block[1])))
            one, other = (file.tensor(f"half{half}.images").numpy().view(np.uint64) for half in (1, 2))
            text = file.metadata["facts"] + file.metadata["checksums"]
        return cls(path, facts, (one, other), hashlib.sha256(text.encode()).hexdigest()[:16])


def save_shard(
    path: Path,
    facts: ShardFacts,
    sets: Sequence[HalfSet],
    images: Sequence[NDArray[np.uint64]],
    rotations: NDArray[np.float32],
) -> None:
    """Write a shard, whole or not at all.

    Parameters
    ----------
    sets: both halves.
    images: of each half, see `Shard`.
    rotations: `(n, 3, 3)` poses of the particles in the equations.
    """
    tensors = {name: equations.accumulator for name, equations in equations_of(sets).items()}
    for half, (found, hashes) in enumerate(zip(sets, images, strict=True), start=1):
        tensors[f"half{half}.noise_power"] = found.noise_power
        tensors[f"half{half}.images"] = torch.from_numpy(hashes.view(np.int64))
    tensors["rotations"] = torch.from_numpy(rotations)
    save_tensors(path, tensors, {"format": FORMAT, "version": VERSION, "facts": json.dumps(asdict(facts))})


def equations_of(sets: Sequence[HalfSet]) -> dict[str, NormalEquations]:
    """The equations of both halves, by the names that a shard has for them."""
    in_order = [equations for half in sets for equations in (half.training, half.held_out)]
    return dict(zip(_EQUATIONS, in_order, strict=True))


def add_up(
    shards: Sequence[Shard], report: Callable[[int, int], None]
) -> tuple[tuple[HalfSet, HalfSet], NDArray[np.float32]]:
    """Both halves of all shards together, and the poses of their particles; in the memory of the sum and a tensor.

    Raises
    ------
    ShardError: a file is damaged, or has changed.
    """
    sums: dict[str, torch.Tensor] = {}
    noise: dict[str, list[torch.Tensor]] = {"half1": [], "half2": []}
    rotations = []
    shape = accumulator_shape(shards[0].facts.last_shell)
    for done, shard in enumerate(shards, start=1):
        with _reading(shard.path) as file:
            for name in _EQUATIONS:
                tensor = file.tensor(name)
                if tensor.shape != shape or tensor.dtype != torch.float32:
                    raise ValueError(f"{name} is {tuple(tensor.shape)} instead of {tuple(shape)}")
                sums[name] = sums[name].add_(tensor) if name in sums else tensor
                del tensor
            for half, of_half in noise.items():
                of_half.append(file.tensor(f"{half}.noise_power"))
            rotations.append(file.tensor("rotations").numpy())
        report(done, len(shards))
    facts = shards[0].facts
    equations = {
        name: NormalEquations(
            total, facts.box_size_px, facts.pixel_size_A, sum(s.facts.n_particles[name] for s in shards)
        )
        for name, total in sums.items()
    }
    one, other = (
        HalfSet(
            equations[f"{half}.training"],
            equations[f"{half}.held_out"],
            _mean_noise(of_half, [_n_of_half(shard.facts.n_particles, half) for shard in shards]),
        )
        for half, of_half in noise.items()
    )
    return (one, other), np.concatenate(rotations)


def image_hashes(particles: Particles, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sorted hashes of the images of some particles, each once: of the stack's name in the file and its number."""
    names = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in particles.stacks]
    of_stack = np.frombuffer(b"".join(names), "<u8").astype(np.uint64)
    image = mix_bits(particles.image_index[rows].astype(np.uint64) + np.uint64(1))
    return np.unique(mix_bits(of_stack[particles.stack_index[rows]] ^ image))


def _n_of_half(n_particles: Mapping[str, int], half: str) -> int:
    return n_particles[f"{half}.training"] + n_particles[f"{half}.held_out"]


def _mean_noise(tables: Sequence[torch.Tensor], counts: Sequence[int]) -> torch.Tensor:
    """Noise power of one half: that of all shards, or, where they differ, the mean over their particles."""
    if all(torch.equal(table, tables[0]) for table in tables):
        return tables[0]
    # What images of a coarse grid do not reach, where their power is infinite, the others say.
    shares = torch.cat([torch.full((len(t), 1), n / len(t)) for t, n in zip(tables, counts, strict=True)])
    table = torch.cat(list(tables))
    reached = torch.isfinite(table)
    total, share = (torch.where(reached, x, 0).sum(0) for x in (table * shares, shares.expand_as(table)))
    return torch.where(share > 0, total / share, torch.inf)[None]


@contextmanager
def _reading(path: Path) -> Iterator[TensorFile]:
    """The file, if it is a shard; what goes wrong in the block is put down to it."""
    refuse_unless_file(path, ShardError)
    try:
        with TensorFile(path) as file:
            if file.metadata.get("format") != FORMAT:
                raise ShardError(f"{path}: is not a shard; give files that `gem3d accumulate` has written")
            if file.metadata["version"] != VERSION:
                raise ShardError(
                    f"{path}: is a shard in format version {file.metadata['version']}, and this gem3d reads version "
                    f"{VERSION}; make all shards with this gem3d, or fit with the one that made them"
                )
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ShardError(
            f"{path}: cannot be read as a shard ({error}); it is damaged, not whole, or another file: make it "
            "again with `gem3d accumulate`"
        ) from error

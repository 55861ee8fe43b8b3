"""Which half set a particle belongs to, which are held out, and what the images of a half come to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.fit.normal_equations import LinearMap, NormalEquations

HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class HalfSet:
    """What one half of the particles says: equations to fit, and held-out ones to judge the fit by.

    Attributes
    ----------
    noise_power: `(n_grids, shells)` of the images that are stored on each grid, see `gem3d.fit.noise`; infinite
        where they have nothing to say.
    """

    training: NormalEquations
    held_out: NormalEquations
    noise_power: torch.Tensor

    def to(self, device: torch.device | str) -> HalfSet:
        """The same on a device; the noise power, which is small, stays on the host."""
        return replace(self, training=self.training.to(device), held_out=self.held_out.to(device))

    def linear_map(self) -> LinearMap:
        """Reconstruction without a prior from every particle of the half."""
        return self.training.linear_map(self.held_out)


def assign_halves(
    half_set: NDArray[np.int8], source_row: NDArray[np.int32], seed: int, *, random: bool, source: str
) -> NDArray[np.int8]:
    """Half set 1 or 2 of each particle: as the file says, or drawn at random where it does not or `random` is set.

    Drawn from the particle's row in the file, so that it stays in its half whatever subset is in use.
    """
    if not random and np.all(half_set > 0):
        return half_set
    if not random and np.any(half_set > 0):
        row = int(source_row[half_set == 0][0]) + 1
        raise ParticleFileError(
            f"{source}: particle {row} has no half set (rlnRandomSubset) while others have; "
            "complete the column, or ask for random halves (--halves random)"
        )
    return (1 + (_hash(source_row.astype(np.int64), seed, stream=1) >> np.uint64(63))).astype(np.int8)


def is_held_out(source_row: NDArray[np.int32], seed: int) -> NDArray[np.bool_]:
    """Held-out membership: a pure function of seed and row in the file, so that shards, subsets and ranks agree."""
    return _hash(source_row.astype(np.int64), seed, stream=2) < np.uint64(int(HELD_OUT_SHARE * 2**64))


def _hash(rows: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014) of row, seed and stream."""
    with np.errstate(over="ignore"):
        key = np.uint64((seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) % 2**64)
        return mix_bits(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key)


def mix_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last step of SplitMix64: 64 bits to 64 others, one to one, each depending on all."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

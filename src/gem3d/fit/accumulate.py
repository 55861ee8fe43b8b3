"""The one pass over the images: from particles to the normal equations of each half set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.noise import NoiseSpectrum, sample_rows
from gem3d.fit.normal_equations import LinearMap, NormalEquations
from gem3d.fit.observations import Observations
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, slice_shape, weigh_slices
from gem3d.particles import ExcludedImages, file_order
from gem3d.runtime import return_freed_memory

BATCH_SIZE = 128
# Weighted slices of each set that wait for their insertion.
WAITING_BYTES = 32 << 20
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


def is_held_out(rows: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Held-out membership: a pure function of seed and row, so that shards and ranks agree."""
    return _hash(rows, seed, stream=2) < np.uint64(int(HELD_OUT_SHARE * 2**64))


def _hash(rows: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014) of row, seed and stream."""
    with np.errstate(over="ignore"):
        key = np.uint64((seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) % 2**64)
        x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def accumulate(
    observations: Observations,
    halves: NDArray[np.int8],
    *,
    seed: int,
    wanted: tuple[int, ...] = (1, 2),
    radius: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[HalfSet, ...]:
    """Read every image of the halves wanted once and fill their normal equations with those that can be used.

    Parameters
    ----------
    halves: `(n,)`, 1 or 2.
    wanted: one half or both; two accumulators are held for each.
    radius: last Fourier shell; None for the last before Nyquist.
    checkpoint: written now and then; images that are in what it holds are not read again.
    progress: called with (images done, images in all).
    """
    particles, box = observations.images.particles, observations.box_size_px
    order = file_order(particles)
    noise = {half: _noise(observations, order[halves[order] == half], seed) for half in wanted}
    order = order[np.isin(halves[order], wanted)]
    last = (box - 1) // 2 if radius is None else radius
    held_out = is_held_out(np.arange(len(particles)), seed)
    grid_index, n_grids = observations.images.grid_index, len(observations.images.grids)
    member = (halves * np.int8(2) + held_out).astype(np.int32) * n_grids + grid_index

    sets = {
        2 * half + out: _SlicesOfSet(box, observations.pixel_size_A, last)
        for half in wanted
        for out in (0, 1)
    }
    members = {
        key * n_grids + grid: (slices, half_plane_weight(1 / noise[key // 2][grid, : last + 1]))
        for key, slices in sets.items()
        for grid in range(n_grids)
    }
    order = _by_set_in_blocks(order, member, BATCH_SIZE)
    return_freed_memory()
    state = _Progress(sets, observations.excluded)
    if checkpoint is not None:
        checkpoint.restore(state.restore)
        checkpoint.expect(sum(tensor.nbytes for tensor in state.tensors().values()))
    for batch in observations.batches(order[state.done :], BATCH_SIZE):
        transforms = observations.transform(batch.images, batch.rows)
        edges = np.searchsorted(member[batch.rows], (*members, max(members) + 1))
        for (slices, sample_weight), begin, end in zip(members.values(), edges[:-1], edges[1:], strict=True):
            rows = torch.from_numpy(batch.rows[begin:end])
            slices.add(
                transforms[begin:end],
                observations.ctf_coefficients[rows],
                observations.shifts_px[rows],
                observations.rotations[rows],
                sample_weight,
            )
        state.done += batch.n_read
        if progress is not None:
            progress(state.done, len(order))
        if checkpoint is not None and checkpoint.due:
            checkpoint.save(state.tensors(), state.numbers())
    state.done = len(order)
    if progress is not None:
        progress(len(order), len(order))
    if checkpoint is not None and checkpoint.worthwhile:
        checkpoint.save(state.tensors(), state.numbers())
    final = {key: slices.finish() for key, slices in sets.items()}
    return tuple(HalfSet(final[2 * half], final[2 * half + 1], noise[half]) for half in wanted)


def _by_set_in_blocks(order: NDArray[np.int64], member: NDArray[np.int32], block: int) -> NDArray[np.int64]:
    """The same rows, those of each block sorted by the set and the grid that they belong to."""
    return order[np.lexsort((member[order], np.arange(len(order), dtype=np.int32) // block))]


@dataclass
class _Progress:
    """What has been accumulated, and how many images of the order are in it."""

    sets: dict[int, _SlicesOfSet]
    excluded: ExcludedImages
    done: int = 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name."""
        of_sets = {
            f"{key}.{name}": t for key, slices in self.sets.items() for name, t in slices.tensors().items()
        }
        return of_sets | {"excluded": torch.from_numpy(self.excluded.statuses)}

    def numbers(self) -> dict[str, Any]:
        """Everything else."""
        return {"done": self.done, "n_particles": {str(key): s.n_particles for key, s in self.sets.items()}}

    def restore(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what `tensors` and `numbers` gave.

        Raises
        ------
        KeyError, ValueError: they are of other images.
        """
        self.excluded.statuses[:] = tensors.pop("excluded").numpy()
        for key, slices in self.sets.items():
            slices.restore(*(tensors.pop(f"{key}.{name}") for name in slices.tensors()))
            slices.n_particles = numbers["n_particles"][str(key)]
        self.done = int(numbers["done"])


class _SlicesOfSet:
    """Weighted slices on their way into the equations of one set.

    The accumulator is far larger than a cache; many slices at once visit it once.

    Attributes
    ----------
    n_particles: of the slices inserted, not of those that wait.
    """

    def __init__(self, box_size_px: int, pixel_size_A: float, radius: int) -> None:
        self._equations = NormalEquations.zeros(box_size_px, pixel_size_A, radius)
        shape = slice_shape(radius)
        self._waiting = torch.empty((max(8, WAITING_BYTES // (4 * math.prod(shape))), *shape))
        self._rotations = torch.empty((len(self._waiting), 3, 3), dtype=torch.float64)
        self._n_waiting = 0
        self.n_particles = 0

    def add(
        self,
        transforms: torch.Tensor,
        ctf_coefficients: torch.Tensor,
        shifts_px: torch.Tensor,
        rotations: torch.Tensor,
        sample_weight: torch.Tensor,
    ) -> None:
        """Take the slices of some images; parameters as of `weigh_slices`."""
        done = 0
        step_per_A = 1 / (self._equations.box_size_px * self._equations.pixel_size_A)
        while done < len(transforms):
            if self._n_waiting == len(self._waiting):
                self._insert()
            n = min(len(transforms) - done, len(self._waiting) - self._n_waiting)
            taken, slots = slice(done, done + n), slice(self._n_waiting, self._n_waiting + n)
            weigh_slices(
                transforms[taken],
                ctf_coefficients[taken],
                shifts_px[taken],
                sample_weight,
                step_per_A,
                out=self._waiting[slots],
            )
            self._rotations[slots] = rotations[taken]
            self._n_waiting += n
            done += n

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name. Slices that wait go along: inserted sooner, they would be added in another order."""
        waiting = slice(0, self._n_waiting)
        return {
            "accumulator": self._equations.accumulator,
            "waiting": self._waiting[waiting],
            "rotations": self._rotations[waiting],
        }

    def restore(self, accumulator: torch.Tensor, waiting: torch.Tensor, rotations: torch.Tensor) -> None:
        """Go on from such tensors.

        Raises
        ------
        ValueError: they are of another grid.
        """
        if accumulator.shape != self._equations.accumulator.shape or len(waiting) > len(self._waiting):
            raise ValueError("it is of images of another size, or of another resolution")
        self._equations = replace(self._equations, accumulator=accumulator)
        self._n_waiting = len(waiting)
        self._waiting[: self._n_waiting] = waiting
        self._rotations[: self._n_waiting] = rotations

    def finish(self) -> NormalEquations:
        """The equations of every image added."""
        self._insert()
        return replace(self._equations, n_particles=self.n_particles)

    def _insert(self) -> None:
        waiting = slice(0, self._n_waiting)
        insert_slices(self._equations.accumulator, self._waiting[waiting], self._rotations[waiting])
        self.n_particles += self._n_waiting
        self._n_waiting = 0


def _noise(observations: Observations, rows: NDArray[np.int64], seed: int) -> torch.Tensor:
    """Noise power per shell of one half set, `(n_grids, shells)`, each from a sample of its images on one grid."""
    if len(rows) == 0:
        source = observations.images.particles.source
        raise ParticleFileError(
            f"{source}: a half set is empty; check rlnRandomSubset or use --halves random"
        )
    images, table = observations.images, []
    for grid, resampler in enumerate(images.resamplers):
        spectrum = NoiseSpectrum(observations.box_size_px, observations.particle_radius_px, resampler)
        mine = rows[images.grid_index[rows] == grid]
        for batch in observations.batches(sample_rows(mine, seed), BATCH_SIZE):
            spectrum.add(torch.from_numpy(batch.images))
        table.append(spectrum.power())
    return torch.stack(table)

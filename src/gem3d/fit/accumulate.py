"""The one pass over the images: from particles to the normal equations of each half set.

Where several processes are at the job, each reads a contiguous block of the images, and what they have accumulated is
added up at the end, and whenever a checkpoint is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d import ranks
from gem3d.errors import ParticleFileError
from gem3d.fit.arrivals import Arrivals
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.half_sets import HalfSet, is_held_out
from gem3d.fit.noise import NoiseSpectrum, sample_rows
from gem3d.fit.observations import Observations
from gem3d.fit.set_slices import SlicesOfSet
from gem3d.kernels.insert_slices import half_plane_weight
from gem3d.particles import ExcludedImages, file_order
from gem3d.particles.copy_lane import send
from gem3d.runtime import return_freed_memory

BATCH_SIZE = 128
# Several processes agree on whether a checkpoint is due after so many batches of each.
BATCHES_TO_AGREE = 32


def accumulate(
    observations: Observations,
    halves: NDArray[np.int8],
    *,
    seed: int,
    wanted: tuple[int, ...] = (1, 2),
    radius: int | None = None,
    device: str = "cpu",
    rows: NDArray[np.int64] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[HalfSet, ...]:
    """Read every image of the halves wanted once and fill their normal equations with those that can be used.

    Parameters
    ----------
    halves: `(n,)`, 1 or 2.
    wanted: one half or both; two accumulators are held for each.
    radius: last Fourier shell; None for the last before Nyquist.
    device: where to accumulate, such as "cuda": each rank has its own.
    rows: particles to take, all for None; the noise is that of all particles in either case.
    checkpoint: written now and then; images that are in what it holds are not read again.
    progress: called with (images done, images in all).
    """
    return ranks.together(
        _accumulate,
        observations,
        halves,
        seed=seed,
        wanted=wanted,
        radius=radius,
        device=device,
        rows=rows,
        only_here={"checkpoint": checkpoint, "progress": progress},
    )


def _accumulate(
    observations: Observations,
    halves: NDArray[np.int8],
    *,
    seed: int,
    wanted: tuple[int, ...],
    radius: int | None,
    device: str,
    rows: NDArray[np.int64] | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[HalfSet, ...]:
    """What all ranks come to, on the first; the others do their share."""
    particles, box, there = observations.images.particles, observations.box_size_px, torch.device(device)
    order = file_order(particles)
    noise = {half: _noise(observations, order[halves[order] == half], seed, there) for half in wanted}
    order = order[np.isin(halves[order], wanted) & (True if rows is None else np.isin(order, rows))]
    last = (box - 1) // 2 if radius is None else radius
    held_out = is_held_out(particles.source_row, seed)
    grid_index, n_grids = observations.images.grid_index, len(observations.images.grids)
    member = (halves * np.int8(2) + held_out).astype(np.int32) * n_grids + grid_index

    sets = {
        2 * half + out: SlicesOfSet(box, observations.pixel_size_A, last, there)
        for half in wanted
        for out in (0, 1)
    }
    members = {
        key * n_grids + grid: (slices, half_plane_weight(1 / noise[key // 2][grid, : last + 1]).to(there))
        for key, slices in sets.items()
        for grid in range(n_grids)
    }
    order = _by_set_in_blocks(order, member, BATCH_SIZE)
    return_freed_memory()
    state = _Pass(sets, observations.excluded)
    if checkpoint is not None:
        checkpoint.restore(state.restore)
        checkpoint.expect(sum(tensor.nbytes for tensor in state.tensors().values()))
    todo = state.begin(len(order))
    # All ranks take as many turns, though the blocks of some are smaller.
    turn = BATCH_SIZE * (1 if ranks.n_ranks() == 1 else BATCHES_TO_AGREE)
    n_turns = math.ceil(max(len(share) for share in ranks.shares(len(todo), BATCH_SIZE)) / turn)
    turns = 0

    def end_turn() -> None:
        if progress is not None:
            progress(min(state.n_done + state.n_here * ranks.n_ranks(), len(order)), len(order))
        if ranks.from_first(checkpoint is not None and checkpoint.due):
            arrivals.judge()
            state.add_up()
            if checkpoint is not None:
                checkpoint.save(state.tensors(), state.numbers())

    mine = ranks.share_of(len(todo), BATCH_SIZE)
    tables = [
        table.to(there)
        for table in (observations.ctf_coefficients, observations.shifts_px, observations.cameras)
    ]
    share = slice(mine.start, mine.stop)
    # Of a pass that begins, a view: a million places need not be held twice.
    rows_here = order[share] if len(todo) == len(order) else order[todo[share]]
    arrivals = Arrivals(observations, rows_here, BATCH_SIZE, there)
    for batch in arrivals:
        transforms = observations.transform(batch.images, batch.rows)
        of_images = [table[send(torch.from_numpy(batch.rows), there)] for table in tables]
        edges = np.searchsorted(member[batch.rows], (*members, max(members) + 1))
        for (slices, sample_weight), begin, end in zip(members.values(), edges[:-1], edges[1:], strict=True):
            weight = None if batch.weight is None else batch.weight[begin:end]
            images, coefficients, shifts_px, cameras = (
                values[begin:end] for values in (transforms, *of_images)
            )
            slices.add(images, coefficients, shifts_px, cameras, sample_weight, weight)
        state.n_here += batch.n_read
        while state.n_here >= (turns + 1) * turn:
            turns += 1
            end_turn()
    state.n_here = len(mine)
    for _ in range(turns, n_turns):
        end_turn()
    state.add_up()
    observations.excluded.refuse_too_many(particles)
    if checkpoint is not None and checkpoint.worthwhile:
        checkpoint.save(state.tensors(), state.numbers())
    used = observations.excluded.without(order)
    n_of_sets = np.bincount(halves[used] * 2 + held_out[used], minlength=6)
    final = {key: slices.finish(int(n_of_sets[key])) for key, slices in sets.items()}
    return tuple(HalfSet(final[2 * half], final[2 * half + 1], noise[half]) for half in wanted)


def _by_set_in_blocks(order: NDArray[np.int64], member: NDArray[np.int32], block: int) -> NDArray[np.int64]:
    """The same rows, those of each block sorted by the set and the grid that they belong to."""
    return order[np.lexsort((member[order], np.arange(len(order), dtype=np.int32) // block))]


@dataclass
class _Pass:
    """What has been accumulated, and which images of the order are in it.

    Attributes
    ----------
    done: (first, one after the last) of the stretches of the order that are in it, but for what follows.
    todo: `(m,)` places in the order that are not.
    n_here: of this rank's share of `todo`, how many images are in what this rank has accumulated.
    """

    sets: dict[int, SlicesOfSet]
    excluded: ExcludedImages
    done: list[tuple[int, int]] = field(default_factory=list)
    todo: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    n_here: int = 0
    _n_of_ranks: list[int] = field(default_factory=list)

    @property
    def n_done(self) -> int:
        """Images in `done`."""
        return sum(end - begin for begin, end in self.done)

    def begin(self, n: int) -> NDArray[np.int32]:
        """What is left of an order of `n` images, the same on all ranks."""
        self.done = ranks.from_first(self.done)
        left = np.ones(n, dtype=bool)
        for begin, end in self.done:
            left[begin:end] = False
        self.todo = np.flatnonzero(left).astype(np.int32)
        return self.todo

    def add_up(self) -> None:
        """Take in what all other ranks have accumulated, on the first; they begin anew."""
        if ranks.n_ranks() == 1:
            return
        for slices in self.sets.values():
            slices.insert()
        accumulators = [slices.equations.accumulator for slices in self.sets.values()]
        ranks.sum_on_first(accumulators)
        if not ranks.is_first():
            for accumulator in accumulators:
                accumulator.zero_()
        ranks.largest_everywhere(torch.from_numpy(self.excluded.statuses))
        self._n_of_ranks = ranks.gather(self.n_here)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name."""
        of_sets = {
            f"{key}.{name}": t for key, slices in self.sets.items() for name, t in slices.tensors().items()
        }
        return of_sets | {"excluded": torch.from_numpy(self.excluded.statuses)}

    def numbers(self) -> dict[str, Any]:
        """Everything else."""
        shares = ranks.shares(len(self.todo), BATCH_SIZE)
        counts = self._n_of_ranks or [self.n_here]
        done = [self.todo[s.start : s.start + n] for s, n in zip(shares, counts, strict=True)]
        return {"done": self.done + _stretches(np.concatenate(done))}

    def restore(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what `tensors` and `numbers` gave.

        Raises
        ------
        KeyError, ValueError: they are of other images.
        """
        self.excluded.statuses[:] = tensors.pop("excluded").numpy()
        for key, slices in self.sets.items():
            slices.restore(*(tensors.pop(f"{key}.{name}") for name in slices.tensors()))
        self.done = [(int(begin), int(end)) for begin, end in numbers["done"]]


def _stretches(places: NDArray[np.int32]) -> list[tuple[int, int]]:
    """(first, one after the last) of each stretch of rising places."""
    if len(places) == 0:
        return []
    breaks = np.flatnonzero(np.diff(places) != 1)
    begins = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [len(places) - 1]])] + 1
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def _noise(
    observations: Observations, rows: NDArray[np.int64], seed: int, device: torch.device
) -> torch.Tensor:
    """Noise power per shell of one half set, `(n_grids, shells)`, each from a sample of its images on one grid."""
    if len(rows) == 0:
        source = observations.images.particles.source
        raise ParticleFileError(
            f"{source}: a half set is empty; check rlnRandomSubset or use --halves random"
        )
    images, table = observations.images, []
    for grid, resampler in enumerate(images.resamplers):
        spectrum = NoiseSpectrum(observations.box_size_px, observations.particle_radius_px, resampler, device)
        sample = sample_rows(rows[images.grid_index[rows] == grid], seed)
        mine = ranks.share_of(len(sample))
        for batch in Arrivals(observations, sample[mine.start : mine.stop], BATCH_SIZE, device):
            spectrum.add(batch.images, batch.weight)
        spectrum.add_up()
        table.append(spectrum.power())
    return torch.stack(table)

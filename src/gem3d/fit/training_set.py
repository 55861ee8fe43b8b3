"""The images of a training, in blocks that are always met together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Images of a block: at least so many, and so many that there are no more blocks than this. What is remembered of each
# block (`gem3d.fit.gradient_table`) then takes the same memory for a thousand particles and for a million.
SMALLEST_BLOCK = 32
MOST_BLOCKS = 150
# Images that are projected at once.
BATCH_SIZE = 64
EPOCHS = 5
# A small set is gone through more often, until there have been so many steps.
FEWEST_STEPS = 700


@dataclass(frozen=True)
class TrainingSet:
    """The images of one fit.

    Attributes
    ----------
    rows: `(n,)` particles in file order.
    held_out: `(n,)` which of them judge, until the last epoch.
    stream: seeds the order in which the images come.
    smallest_block: fewest images of a block.
    """

    rows: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    stream: tuple[int, ...]
    smallest_block: int = SMALLEST_BLOCK

    @property
    def n_training(self) -> int:
        """Number of images that are not held out."""
        return int((~self.held_out).sum())

    @property
    def _block_size(self) -> int:
        return max(self.smallest_block, math.ceil(self.n_training / MOST_BLOCKS))

    @property
    def n_training_blocks(self) -> int:
        """Number of blocks that are not held out."""
        return math.ceil(self.n_training / self._block_size)

    @cached_property
    def blocks(self) -> list[NDArray[np.int64]]:
        """Rows of every block: neighbours in their files, so that reading stays sequential.

        Held-out images make up the last blocks.
        """
        size = self._block_size
        parts = (self.rows[~self.held_out], self.rows[self.held_out])
        return [part[i : i + size] for part in parts for i in range(0, len(part), size)]

    def order(self, epoch: int, *, with_held_out: bool) -> NDArray[np.int64]:
        """Blocks in the order of one epoch: a pure function of stream and epoch."""
        n = len(self.blocks) if with_held_out else self.n_training_blocks
        rng = np.random.default_rng([*self.stream, epoch + 1])  # 0 would be the stream itself
        order: NDArray[np.int64] = rng.permutation(n)
        return order

    @property
    def sample(self) -> NDArray[np.int64]:
        """Rows of as many images that are not held out as are, or of all, evenly spread over them."""
        n = min(self.n_training, int(self.held_out.sum()))
        rows: NDArray[np.int64] = self.rows[~self.held_out][np.arange(n) * self.n_training // max(1, n)]
        return rows

    @property
    def epochs(self) -> int:
        """Epochs that suffice, the last of which takes in the held-out images."""
        return max(EPOCHS, math.ceil(FEWEST_STEPS / max(1, self.n_training_blocks)))


def batch_sizes(block: NDArray[np.int64]) -> list[int]:
    """Numbers of images to be projected at once that make up a block, nearly equal."""
    if len(block) == 0:
        return []
    n = math.ceil(len(block) / BATCH_SIZE)
    return [len(part) for part in np.array_split(block, n)]

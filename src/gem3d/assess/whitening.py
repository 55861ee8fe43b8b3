"""Maps with equal power in all shells, so that strong ones do not leak into weak ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import (
    FloatVolume,
    fourier_transform,
    inverse_fourier_transform,
    shell_index,
    shell_sizes,
    shell_sums,
)


def whitening_factor(volume: FloatVolume, last_shell: int) -> NDArray[np.float32]:
    """Factor for each shell that gives a map unit mean power, up to the corners of Fourier space.

    0 for the mean of the map and where a shell is empty; beyond `last_shell` that of the last.
    """
    box_size = len(volume)
    shells = shell_index(box_size)
    power = shell_sums(np.abs(fourier_transform(volume)) ** 2, box_size, shells) / shell_sizes(box_size)
    factor = np.zeros(int(shells.max()) + 1, dtype=np.float32)
    kept = power[: last_shell + 1]
    factor[: len(kept)] = np.divide(1, np.sqrt(kept), out=np.zeros_like(kept), where=kept > 0)
    factor[0] = 0
    factor[len(kept) :] = factor[len(kept) - 1]
    return factor


def filtered(volume: FloatVolume, factor: NDArray[np.float32]) -> FloatVolume:
    """The map with each shell multiplied by its factor."""
    box_size = len(volume)
    return inverse_fourier_transform(fourier_transform(volume) * factor[shell_index(box_size)], box_size)

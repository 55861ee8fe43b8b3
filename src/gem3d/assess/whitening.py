"""Maps with equal power in all shells, so that strong ones do not leak into weak ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import (
    FloatVolume,
    fourier_transform,
    inverse_fourier_transform,
    shell_power,
    shell_sizes,
    shells_of_squares,
)
from gem3d.kernels.radial import multiply_radially


def whitening_factor(half_spectrum: NDArray[np.complex64], last_shell: int) -> NDArray[np.float32]:
    """Factor for each shell that gives a map unit mean power, up to the corners of Fourier space.

    0 for the mean of the map and where a shell is empty; beyond `last_shell` that of the last.
    """
    box_size = len(half_spectrum)
    power = shell_power(half_spectrum) / shell_sizes(box_size)
    factor = np.zeros(int(shells_of_squares(box_size)[-1]) + 1, dtype=np.float32)
    kept = power[: last_shell + 1]
    factor[: len(kept)] = np.divide(1, np.sqrt(kept), out=np.zeros_like(kept), where=kept > 0)
    factor[0] = 0
    factor[len(kept) :] = factor[len(kept) - 1]
    return factor


def whitened(volume: FloatVolume) -> FloatVolume:
    """The map with each shell up to D//2 multiplied by its factor, and those beyond by that of the last."""
    box_size = len(volume)
    spectrum = fourier_transform(volume)
    multiply_radially(spectrum, whitening_factor(spectrum, box_size // 2)[shells_of_squares(box_size)])
    return inverse_fourier_transform(spectrum, box_size)

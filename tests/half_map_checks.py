"""When two runs have come to the same maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def assert_same_half_maps(
    found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]
) -> None:
    """Maps of Gaussians fitted to images that were added up in another order.

    Such sums differ in the last digits of float32. A fit to them takes slightly different steps, and may stop after
    another number of them: its maps differ, most often, by a tenth of what those of the half sets differ by.
    """
    most = 0.5 * np.linalg.norm(expected[0] - expected[1])
    for number, (one, other) in enumerate(zip(found, expected, strict=True), start=1):
        assert np.linalg.norm(one - other) < most, f"half {number}"

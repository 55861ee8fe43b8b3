"""Images that cannot be used: one record for every pass over a set, so that all passes leave out the same ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ImageStackError
from gem3d.particles.image_names import describe_particle
from gem3d.particles.particles import Particles
from gem3d.particles.preprocess import (
    CONSTANT,
    CONSTANT_BACKGROUND,
    EXTREME,
    GOOD,
    HOT_PIXEL,
    NOT_FINITE,
    ImageStatistics,
)

MOST_EXCLUDED_SHARE = 0.01
"""A run that would have to leave out more of its images is refused: something is wrong with the set."""
# An image of more than so many times the usual power would count as that many others. The largest of 400 simulated
# images has 1.2 to 1.6 times the median at SNR 0.01 and 0.1 and 2 to 8 times at SNR 1; without noise up to 7 for
# complexes and 71 for thin bars seen end on. With a carbon edge of 20 standard deviations it has 1.0, with an ice
# crystal of 10 over an eighth of the area 15, of 30 over so much 126, with gold beads of 40 over 12 px 49.
MOST_POWER = 100.0
NAMED_AT_MOST = 3

REASONS = {
    NOT_FINITE: ("not_finite", "NaN or infinite pixels"),
    CONSTANT: ("constant", "all pixels are equal"),
    CONSTANT_BACKGROUND: ("constant_background", "all pixels outside the particle are equal"),
    HOT_PIXEL: ("hot_pixel", "hot pixels that outshine everything else"),
    EXTREME: ("extreme", f"more than {MOST_POWER:g} times the power of the other images"),
}
"""Name of each reason, as files have it, and what messages say."""


class ExcludedImages:
    """Images that were found to be of no use, and why.

    Parameters
    ----------
    n_particles: of the set.
    most_share: of the set that may be left out.

    Attributes
    ----------
    statuses: `(n_particles,)` uint8, `GOOD` for images that were not found wanting, or the reason.
    usual_power: what `ImageStatistics.power` is for most images; None leaves out the comparison with it. To be set
        before the first pass, so that all passes judge alike.
    """

    def __init__(self, n_particles: int, *, most_share: float = MOST_EXCLUDED_SHARE) -> None:
        self._most_share = most_share
        self.statuses = np.zeros(n_particles, np.uint8)
        self.usual_power: float | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self.statuses))

    @property
    def rows(self) -> NDArray[np.int64]:
        """Particles left out so far, rising."""
        return np.flatnonzero(self.statuses).astype(np.int64)

    def reasons(self) -> list[str]:
        """The name of the reason for each of `rows`."""
        return [REASONS[reason][0] for reason in self.statuses[self.rows].tolist()]

    def without(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows that are not left out, in the same order."""
        kept: NDArray[np.int64] = rows[self.statuses[rows] == GOOD]
        return kept

    def judge(
        self, rows: NDArray[np.int64], found: ImageStatistics, particles: Particles
    ) -> NDArray[np.bool_]:
        """Which images can be used, `(b,)`; the others are put down.

        Raises
        ------
        ImageStackError: they have come to more than `most_share` of the set.
        """
        status = found.status
        if self.usual_power is not None:
            extreme = (status == GOOD) & (found.power > MOST_POWER * self.usual_power)
            status = np.where(extreme, np.uint8(EXTREME), status)
        bad = status != GOOD
        if bad.any():
            self.statuses[rows[bad]] = status[bad]
            self.refuse_too_many(particles)
        good: NDArray[np.bool_] = ~bad
        return good

    def refuse_too_many(self, particles: Particles) -> None:
        """End a run that would leave out too many.

        Raises
        ------
        ImageStackError
        """
        if len(self) > self._most_share * len(self.statuses):
            raise ImageStackError(
                f"{particles.source}: {self._counted()} of {len(self.statuses)} cannot be used, perhaps more: "
                f"{self.first_few(particles)}. That is over {100 * self._most_share:g} %: {self.advice()}"
            )

    def first_few(self, particles: Particles) -> str:
        """The first images left out, with their reasons."""
        few = self.rows[:NAMED_AT_MOST]
        named = [
            f"{describe_particle(particles, int(row))}: {REASONS[int(self.statuses[row])][1]}" for row in few
        ]
        return "; ".join(named) + ("; ..." if len(self) > len(few) else "")

    def counts(self) -> dict[str, int]:
        """How many there are of each reason that occurs."""
        return dict(Counter(self.reasons()))

    def _counted(self) -> str:
        return "1 image" if len(self) == 1 else f"{len(self)} images"

    def advice(self) -> str:
        """What to do where there are too many."""
        advice = "extract them again from the micrographs, or remove them from the file"
        if (self.statuses == CONSTANT_BACKGROUND).any():
            advice += "; where the images were masked on purpose, leave them as they are with --no-normalise"
        return advice

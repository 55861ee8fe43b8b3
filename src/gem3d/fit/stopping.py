"""When to stop: as soon as the likelihood of particles that the fit has not seen stops gaining."""

from __future__ import annotations

import math

from gem3d.gaussians import Gaussians

# A fit ends when the last evaluations gained less than this share of what the map explains.
SMALLEST_GAIN = 5e-4


class BestSoFar:
    """Keeps the Gaussians with the best held-out likelihood and says when to stop looking for better ones.

    Parameters
    ----------
    patience: stop after so many evaluations without a better one,
    window: or when so many gained less than `SMALLEST_GAIN` together.

    Attributes
    ----------
    gaussians: the best; None before the first evaluation.
    losses: of the held-out particles, at every evaluation.
    """

    def __init__(self, patience: int, window: int) -> None:
        self._patience, self._window = patience, window
        self.gaussians: Gaussians | None = None
        self.losses: list[float] = []

    @property
    def loss(self) -> float:
        """The least held-out loss."""
        return min(self.losses, default=math.inf)

    def see(self, gaussians: Gaussians, held_out_loss: float) -> None:
        """Take note of one evaluation."""
        if held_out_loss < self.loss:
            self.gaussians = gaussians.detached()
        self.losses.append(held_out_loss)

    @property
    def finished(self) -> bool:
        """Nothing is gained any more."""
        if not self.losses:
            return False
        best = self.loss
        if len(self.losses) - 1 - self.losses.index(best) >= self._patience:
            return True
        earlier = self.losses[: -self._window]
        return bool(earlier) and min(earlier) - best < SMALLEST_GAIN * abs(best)

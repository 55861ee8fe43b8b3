"""What a fit returns, whichever way it was made, and what it calls on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from gem3d.assess.overfit import LikelihoodGain
from gem3d.gaussians import Gaussians

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how much, and what there is to say of it."""
Watch = Callable[[Gaussians, float], None]
"""Called with the Gaussians and their held-out loss per particle as they are judged."""


@dataclass(frozen=True)
class Round:
    """One stretch of a fit with a fixed number of Gaussians; losses are per particle.

    Attributes
    ----------
    steps: of Adam.
    training_loss, held_out_loss: at each evaluation; training by images has no training loss at its first, before any
        step. The held-out loss is empty where nothing is held out.
    kept: False for a growth that the held-out particles did not support.
    """

    n_gaussians: int
    steps: int
    training_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]
    kept: bool = True


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    Attributes
    ----------
    gaussians: the result, held-out particles folded in.
    stopped: at the best held-out likelihood, before these particles were used.
    rounds: what was tried.
    gain: what `stopped` explains of the particles it was fitted to and of the held-out ones; None where none are
        held out, or where no fit was made.
    """

    gaussians: Gaussians
    stopped: Gaussians
    rounds: tuple[Round, ...]
    gain: LikelihoodGain | None = None

    def to(self, device: torch.device | str) -> Fit:
        """The same on a device."""
        return replace(self, gaussians=self.gaussians.to(device), stopped=self.stopped.to(device))

"""Half 1 of a particle set, read once and fitted in several ways within this process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np

from context import Context
from gem3d import ReconstructSettings
from gem3d.fit.accumulate import accumulate
from gem3d.fit.checkpoint import no_checkpoint
from gem3d.fit.descent import Shapes
from gem3d.fit.methods import FromEquations, FromImages, Method
from gem3d.fit.observations import Observations
from gem3d.fit.result import Fit, Watch
from gem3d.fit.start import start_of_half
from gem3d.inputs import BACKGROUND_DIAMETER_BOXES, find_images
from gem3d.threads import set_threads


class HalfOne:
    """What `gem3d reconstruct` has of half 1 once it has read the images.

    Attributes
    ----------
    accumulate_s: it took to read and accumulate both halves.
    """

    def __init__(self, context: Context, folder: Path) -> None:
        set_threads(context.threads)
        images, self._halves = find_images(folder / "particles.star", ReconstructSettings())
        self._box = images.box_size_px
        self._pixel_size_A = images.pixel_size_A
        self._observations = Observations.of(images, BACKGROUND_DIAMETER_BOXES * self._box / 2)
        begun_s = time.perf_counter()
        self._sets = accumulate(self._observations, self._halves, seed=0)
        self.accumulate_s = time.perf_counter() - begun_s
        self._linear = self._sets[0].linear_map().values

    def fit(
        self,
        how: Literal["volume", "images"],
        init: Literal["map", "random"],
        gaussians: int | Literal["auto"],
        shapes: Shapes,
        watch: Watch | None = None,
    ) -> tuple[Fit, float]:
        """The fit and its seconds."""
        method: Method = (
            FromEquations(self._sets, shapes)
            if how == "volume"
            else FromImages(
                [half.held_out for half in self._sets],
                [half.noise_power for half in self._sets],
                shapes,
                self._observations,
                self._halves,
                seed=0,
                epochs=None,
                checkpoint_of=no_checkpoint,
            )
        )
        begun_s = time.perf_counter()
        start = start_of_half(
            self._linear,
            method.held_out[0],
            BACKGROUND_DIAMETER_BOXES * self._box * self._pixel_size_A,
            np.random.default_rng([0, 1]),
            n_gaussians=gaussians,
            init=init,
            spread=method.spread,
        )
        found = method.fit_half(1, start, lambda done, total, note: None, watch)
        return found, time.perf_counter() - begun_s

"""The images of a job and what is settled of them before all are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.fit.contrast_sign import refuse_inverted
from gem3d.fit.observations import Observations
from gem3d.fit.sample import look_at_sample
from gem3d.inputs import background_diameter_A, find_images, last_shell_of
from gem3d.particles import Particles
from gem3d.particles.image_grids import Resampled, find_resampled
from gem3d.place import Place, settle_place
from gem3d.progress import Reporter
from gem3d.runtime import kernels_are_compiled, return_freed_memory
from gem3d.settings import PassSettings


@dataclass(frozen=True)
class GivenImages:
    """Images, as they will be taken.

    Attributes
    ----------
    halves: `(n,)` half set of each particle.
    last_shell: last Fourier shell to use.
    diameter_A: of the sphere that holds the particle.
    resampled: particles whose images are taken to the grid of the others, or binned.
    """

    observations: Observations
    halves: NDArray[np.int8]
    last_shell: int
    diameter_A: float
    resampled: tuple[Resampled, ...]

    @classmethod
    def find(cls, particle_file: str | Path, settings: PassSettings, reporter: Reporter) -> GivenImages:
        """Those that the settings choose, their stacks all there.

        Raises
        ------
        Gem3dError: the input or the settings are at fault.
        """
        with reporter.stage("read particles"):
            images, halves = find_images(particle_file, settings)
            return_freed_memory()
        narrowest = images.narrowest_grid
        diameter_A = background_diameter_A(
            settings.particle_diameter_A, narrowest.box_size_px, narrowest.pixel_size_A
        )
        radius_px = diameter_A / images.pixel_size_A / 2
        return cls(
            Observations.of(images, radius_px, normalise=settings.normalise),
            halves,
            last_shell_of(settings.max_resolution_A, images.box_size_px, images.pixel_size_A),
            diameter_A,
            find_resampled(images.particles, images.grid),
        )

    @property
    def particles(self) -> Particles:
        """Of the images."""
        return self.observations.images.particles

    def settle_place(self, settings: PassSettings) -> Place:
        """Where to compute with them; errors as of `gem3d.device.choose_device`."""
        images = self.observations.images
        return settle_place(
            settings, images.box_size_px, images.pixel_size_A, self.last_shell, self.diameter_A
        )

    def look(self, settings: PassSettings, reporter: Reporter) -> None:
        """Say what they are, look at a sample of them, and settle what power is usual.

        Raises
        ------
        Gem3dError: they look inverted.
        """
        images = self.observations.images
        counts = [int((self.halves == half).sum()) for half in (1, 2)]
        reporter.say(
            f"{len(images)} particles ({counts[0]} and {counts[1]}), box {images.box_size_px} px, "
            f"{images.pixel_size_A:g} A/px"
        )
        if self.resampled:
            reporter.say(f"images resampled to that grid: {'; '.join(map(str, self.resampled))}")
        if not kernels_are_compiled():
            reporter.say("first run here: kernels are compiled once, which takes up to half a minute")
        with reporter.stage("look at a sample"):
            sample = look_at_sample(self.observations, settings.seed)
        refuse_inverted(sample.sign, self.particles.source, inverted=settings.invert)
        self.observations.excluded.usual_power = sample.usual_power

"""Particle images as a fit meets them: normalised, transformed, each with its pose, shift and CTF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.optics import ctf_coefficients
from gem3d.particles import ExcludedImages, ImageBatch, ImageSource, Particles, measure_images


@dataclass(frozen=True)
class Observations:
    """All images of a particle set, read when needed.

    Attributes
    ----------
    particle_radius_px: outside it lies the background of the normalisation and of the noise estimate.
    normalise: give each image's background mean 0 and standard deviation 1.
    ctf_coefficients: `(n, 7)` float64, see `gem3d.optics`.
    rotations: `(n, 3, 3)` float64 poses.
    shifts_px: `(n, 2)` float64, where the particle's centre appears.
    excluded: images that were found to be of no use: one record for all that go back to the same set.
    """

    images: ImageSource
    particle_radius_px: float
    normalise: bool
    ctf_coefficients: torch.Tensor
    rotations: torch.Tensor
    shifts_px: torch.Tensor
    excluded: ExcludedImages

    @classmethod
    def of(cls, images: ImageSource, particle_radius_px: float, *, normalise: bool = True) -> Observations:
        """Those of an image source, with the poses and CTFs of its particles."""
        particles = images.particles
        excluded = ExcludedImages(len(particles))
        return cls(images, particle_radius_px, normalise, *_poses_and_ctfs(particles), excluded)

    def at(self, particles: Particles) -> Observations:
        """The same images at other poses, shifts and CTFs of their particles."""
        coefficients, rotations, shifts_px = _poses_and_ctfs(particles)
        return replace(self, ctf_coefficients=coefficients, rotations=rotations, shifts_px=shifts_px)

    @property
    def box_size_px(self) -> int:
        """D, of the images."""
        return self.images.box_size_px

    @property
    def pixel_size_A(self) -> float:
        """Of the images."""
        return self.images.particles.pixel_size_A

    def batches(self, rows: NDArray[np.int64], batch_size: int | Sequence[int]) -> Iterator[ImageBatch]:
        """Images in the given order, normalised if they are to be; valid until the next are asked for.

        Images that cannot be used are left out, and put down in `excluded`: a batch may be smaller than asked for,
        and none is empty. Who relies on sizes asks for rows without those excluded, after a pass over all.

        Raises
        ------
        ImageStackError: too many images cannot be used; or a stack has gone.
        """
        n_left_out = 0
        for batch in self.images.batches(rows, batch_size):
            found = measure_images(batch.images, self.particle_radius_px, normalise=self.normalise)
            good = self.excluded.judge(batch.rows, found, self.images.particles)
            n_left_out += int(np.count_nonzero(~good))
            if good.all():
                yield replace(batch, n_left_out=n_left_out)
            elif good.any():
                yield ImageBatch(batch.rows[good], batch.images[good], n_left_out)
            else:
                continue
            n_left_out = 0


def _poses_and_ctfs(particles: Particles) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(ctf_coefficients(particles)),
        torch.from_numpy(np.ascontiguousarray(particles.rotations)),
        torch.from_numpy(particles.shifts_A / particles.pixel_size_A),
    )


def transform(images: NDArray[np.float32]) -> torch.Tensor:
    """`(b, D, D // 2 + 1)` complex transforms of images, the phase origin at pixel (0, 0)."""
    transforms: torch.Tensor = torch.fft.rfft2(torch.from_numpy(images))
    return transforms

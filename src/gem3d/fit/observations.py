"""Particle images as a fit meets them: normalised, transformed, each with its pose, shift and CTF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.fit.device_batches import DeviceBatches
from gem3d.optics import camera_matrices, ctf_coefficients, phase_factors
from gem3d.particles import (
    ExcludedImages,
    ImageBatch,
    ImageGrid,
    ImageSource,
    ImageStatistics,
    Particles,
    measure_images,
)
from gem3d.particles.copy_lane import send


@dataclass(frozen=True)
class Observations:
    """All images of a particle set, read when needed.

    Attributes
    ----------
    particle_radius_px: outside it lies the background of the normalisation and of the noise estimate, in pixels of
        the common grid, as are box size, pixel size and shifts.
    normalise: give each image's background mean 0 and standard deviation 1.
    ctf_coefficients: `(n, 15)` float32, see `gem3d.optics`.
    cameras: `(n, 3, 3)` float64 poses, with the magnification of the microscope: see `gem3d.optics.camera_matrices`.
    shifts_px: `(n, 2)` float64, where the particle's centre appears.
    excluded: images that were found to be of no use: one record for all that go back to the same set.
    """

    images: ImageSource
    particle_radius_px: float
    normalise: bool
    ctf_coefficients: torch.Tensor
    cameras: torch.Tensor
    shifts_px: torch.Tensor
    excluded: ExcludedImages

    @classmethod
    def of(cls, images: ImageSource, particle_radius_px: float, *, normalise: bool = True) -> Observations:
        """Those of an image source, with the poses and CTFs of its particles."""
        excluded = ExcludedImages(len(images))
        poses_and_ctfs = _poses_and_ctfs(images.particles, images.pixel_size_A)
        return cls(images, particle_radius_px, normalise, *poses_and_ctfs, excluded)

    def at(self, particles: Particles) -> Observations:
        """The same images at other poses, shifts and CTFs of their particles."""
        coefficients, cameras, shifts_px = _poses_and_ctfs(particles, self.pixel_size_A)
        return replace(self, ctf_coefficients=coefficients, cameras=cameras, shifts_px=shifts_px)

    @property
    def box_size_px(self) -> int:
        """D, of the images."""
        return self.images.box_size_px

    @property
    def pixel_size_A(self) -> float:
        """Of the images."""
        return self.images.pixel_size_A

    def batches(self, rows: NDArray[np.int64], batch_size: int | Sequence[int]) -> Iterator[ImageBatch]:
        """Images in the given order, normalised if they are to be; valid until the next are asked for.

        Images that cannot be used are left out, and put down in `excluded`: a batch may be smaller than asked for,
        and none is empty. Who relies on sizes asks for rows without those excluded, after a pass over all.

        Raises
        ------
        ImageStackError: too many images cannot be used; or a stack has gone.
        """
        n_left_out = 0
        for batch, found in self.all_batches(rows, batch_size):
            good = self.excluded.judge(batch.rows, found, self.images.particles)
            n_left_out += int(np.count_nonzero(~good))
            if good.all():
                yield replace(batch, n_left_out=n_left_out)
            elif good.any():
                yield ImageBatch(batch.rows[good], batch.images[good], n_left_out=n_left_out)
            else:
                continue
            n_left_out = 0

    def all_batches(
        self, rows: NDArray[np.int64], batch_size: int | Sequence[int]
    ) -> Iterator[tuple[ImageBatch, ImageStatistics]]:
        """Images in the given order, normalised if they are to be, good or bad, and what tells them apart."""
        for batch in self.images.batches(rows, batch_size, self._measure):
            assert batch.statistics is not None
            yield batch, batch.statistics

    def device_batches(
        self, rows: NDArray[np.int64], batch_size: int | Sequence[int], device: torch.device
    ) -> DeviceBatches:
        """Images in the given order on a device, good and bad, with a weight of 0 for the bad; see `DeviceBatches`.

        Once the pass has ended, all that cannot be used are in `excluded`.
        """
        return DeviceBatches(
            self.images,
            self.excluded,
            self.particle_radius_px,
            normalise=self.normalise,
            rows=rows,
            batch_size=batch_size,
            device=device,
        )

    def transform(self, images: NDArray[np.float32] | torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        """`(b, D, D // 2 + 1)` complex transforms of images, the phase origin at pixel (0, 0), where the images are.

        The phases that aberrations of the microscope gave them are turned back.

        Parameters
        ----------
        images: `(b, D, D)`, of `batches` or `device_batches`.
        rows: `(b,)`, their particles, on the host.
        """
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(images)
        transforms: torch.Tensor = torch.fft.rfft2(images)
        particles, device = self.images.particles, transforms.device
        for index, group in enumerate(particles.optics):
            if not any(group.phase_coefficients):
                continue
            mine = np.flatnonzero(particles.optics_index[rows] == index)
            if len(mine):
                factors = phase_factors(group, self.box_size_px, self.pixel_size_A, device)
                transforms[send(torch.from_numpy(mine), device)] *= factors.conj()
        return transforms

    def _measure(self, images: NDArray[np.float32], grid: ImageGrid) -> ImageStatistics:
        """Judge and normalise images as they were stored.

        A hot pixel is still one, and the deviation of the background tells the power density of its noise: after
        resampling it would depend on how much of the band a grid fills.
        """
        radius_px = self.particle_radius_px * (self.pixel_size_A / grid.pixel_size_A)
        return measure_images(images, radius_px, normalise=self.normalise)


def _poses_and_ctfs(
    particles: Particles, pixel_size_A: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(ctf_coefficients(particles, np.float32)),
        torch.from_numpy(np.ascontiguousarray(camera_matrices(particles))),
        torch.from_numpy(particles.shifts_A / pixel_size_A),
    )

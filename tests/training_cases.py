"""Images of some Gaussians, in memory, for tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gem3d.assess import sphere_mask
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.observations import Observations
from gem3d.gaussians import Gaussians, initialise_random
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, weigh_slices
from gem3d.kernels.project import project
from gem3d.optics import NO_MAGNIFICATION, contrast_transfer_function
from gem3d.particles import ExcludedImages, ImageBatch, ImageGrid
from gem3d.particles.image_source import Preparation

PIXEL_A = 2.0


@dataclass
class InMemory:
    """Stands in for an ImageSource."""

    values: np.ndarray

    @property
    def box_size_px(self) -> int:
        return self.values.shape[-1]

    pixel_size_A = PIXEL_A
    particles: Any = field(default_factory=lambda: SimpleNamespace(optics=()))

    @property
    def grid_index(self) -> np.ndarray:
        return np.zeros(len(self.values), np.int16)

    def batches(self, rows: np.ndarray, sizes: list[int], prepare: Preparation) -> Iterator[ImageBatch]:
        for chosen in np.split(rows, np.cumsum(sizes)[:-1]):
            images = self.values[chosen]
            yield ImageBatch(chosen, images, prepare(images, ImageGrid(self.box_size_px, PIXEL_A)))


def observe(truth: Gaussians, n: int, box: int, *, noise: float = 0.0, seed: int = 0) -> Observations:
    """Images of some Gaussians at random poses and shifts."""
    rng = np.random.default_rng(seed)
    rotations = torch.tensor(Rotation.random(n, rng=rng).as_matrix())
    shifts = torch.tensor(rng.uniform(-1.5, 1.5, (n, 2)))
    optics = np.tile(
        [-600.0, 30.0, -650.0, 200.0, 0.0, 400.0, 0.0, 200.0, -0.1, 5.0, 1.0, *NO_MAGNIFICATION], (n, 1)
    )
    optics[:, :3] += rng.uniform(0, 90, (n, 3))
    coefficients = torch.tensor(optics)
    images = project_images(truth, rotations.float(), shifts.float(), box)
    k = torch.fft.fftfreq(box, PIXEL_A)[:, None], torch.fft.rfftfreq(box, PIXEL_A)[None]
    seen = torch.fft.irfft2(
        torch.fft.rfft2(images) * contrast_transfer_function(coefficients.float(), k[1], k[0]), s=(box, box)
    )
    values = seen.numpy() + noise * rng.standard_normal(seen.shape, dtype=np.float32)
    return Observations(InMemory(values), box / 2, False, coefficients, rotations, shifts, ExcludedImages(n))  # type: ignore[arg-type]


def project_images(truth: Gaussians, rotations: torch.Tensor, shifts: torch.Tensor, box: int) -> torch.Tensor:
    return project(
        truth.masses / PIXEL_A**3,
        truth.centres_A / PIXEL_A,
        truth.covariances_A2() / PIXEL_A**2,
        rotations,
        shifts,
        box,
    )


def some_gaussians(seed: int = 0, n: int = 20) -> Gaussians:
    rng = np.random.default_rng(seed)
    ball = sphere_mask(24, PIXEL_A, 16 * PIXEL_A, PIXEL_A)
    round_ones = initialise_random(ball, PIXEL_A, 2000.0, n, rng, 1.2 * PIXEL_A)
    stretched = round_ones.log_scales + torch.tensor(rng.uniform(-0.1, 0.5, (n, 3)), dtype=torch.float32)
    return round_ones.replaced({**round_ones.parameters, "log_scales": stretched})


def leaves(gaussians: Gaussians, dtype: torch.dtype = torch.float32) -> Gaussians:
    return gaussians.replaced(
        {name: t.detach().to(dtype).requires_grad_() for name, t in gaussians.parameters.items()}
    )


def equations_of(observations: Observations, rows: np.ndarray, noise: torch.Tensor) -> NormalEquations:
    box = observations.box_size_px
    equations = NormalEquations.zeros(box, PIXEL_A)
    weighted = weigh_slices(
        torch.fft.rfft2(torch.from_numpy(observations.images.values[rows])),  # type: ignore[attr-defined]
        observations.ctf_coefficients[rows],
        observations.shifts_px[rows],
        half_plane_weight(1 / noise),
        1 / (box * PIXEL_A),
    )
    insert_slices(equations.accumulator, weighted, observations.cameras[rows])
    return replace(equations, n_particles=len(rows))

"""The Gaussians' density and the linear map are in one unit, whatever the pixel size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.assess import sphere_mask
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, voxelize_on
from gem3d.fit.volume import fit_volume
from gem3d.gaussians import Gaussians, initialise_random, split
from gem3d.gaussians.model import inverse_softplus
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, weigh_slices
from gem3d.kernels.project import project

BOX = 24
PIXEL_SIZES = pytest.mark.parametrize(
    "pixel_size_A",
    [1.0, 4.0],
)


def model(pixel_size_A: float) -> Gaussians:
    """Round Gaussians at random in a ball of five pixels."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((20, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    centres_A = 5 * pixel_size_A * direction * np.cbrt(rng.random((20, 1)))
    spacing_A = 5 * pixel_size_A * np.cbrt(4 * np.pi / 3 / 20)
    return Gaussians(
        centres_A=torch.tensor(centres_A, dtype=torch.float32),
        log_scales=torch.full((20, 3), float(np.log(max(0.5 * spacing_A, 1.2 * pixel_size_A)))),
        quaternions=torch.tensor(rng.standard_normal((20, 4)), dtype=torch.float32),
        raw_masses=inverse_softplus(torch.full((20,), 0.05)),
        unit_mass=100.0 * pixel_size_A**3 / 20 / 0.05,
    )


def equations_of(gaussians: Gaussians, pixel_size_A: float) -> NormalEquations:
    """Noise-free images of a density: a pixel is the sum of the voxels along its line."""
    rotations = torch.tensor(Rotation.random(200, rng=np.random.default_rng(1)).as_matrix())
    images = project(
        gaussians.masses / pixel_size_A**3,
        gaussians.centres_A / pixel_size_A,
        gaussians.covariances_A2() / pixel_size_A**2,
        rotations.float(),
        torch.zeros(200, 2),
        BOX,
    )
    equations = NormalEquations.zeros(BOX, pixel_size_A)
    weight = half_plane_weight(torch.ones(equations.radius + 1))
    transforms = torch.fft.rfft2(images)
    weighted = weigh_slices(transforms, None, torch.zeros(200, 2), weight, 1 / (BOX * pixel_size_A))
    insert_slices(equations.accumulator, weighted, rotations)
    return NormalEquations(equations.accumulator, BOX, pixel_size_A, 200)


@PIXEL_SIZES
def test_density_voxels_and_linear_map_agree(pixel_size_A: float) -> None:
    gaussians = model(pixel_size_A)
    density = gaussians.density(BOX, pixel_size_A)
    linear = torch.from_numpy(equations_of(gaussians, pixel_size_A).linear_map().values)
    torch.testing.assert_close(linear, density, atol=0.02 * float(density.max()), rtol=0)
    half_width_A = BOX * pixel_size_A / 2
    grid = Grid.around(BOX, pixel_size_A, BOX, ((-half_width_A, half_width_A),) * 3)
    torch.testing.assert_close(
        voxelize_on(gaussians, grid), density, atol=1e-5 * float(density.max()), rtol=0
    )


@PIXEL_SIZES
def test_the_truth_stays_the_truth(pixel_size_A: float) -> None:
    """A fit that starts at the answer has nothing to do: the masses are in the right unit."""
    gaussians = model(pixel_size_A)
    support = ((-9 * pixel_size_A, 9 * pixel_size_A),) * 3
    equations, none = equations_of(gaussians, pixel_size_A), NormalEquations.zeros(BOX, pixel_size_A)
    fit = fit_volume(gaussians, equations, none, support, restart=True)
    before, after = (g.density(BOX, pixel_size_A) for g in (gaussians, fit.gaussians))
    assert float((after - before).norm() / before.norm()) < 0.15
    assert fit.rounds[0].training_loss[0] < 0, "the loss of the empty volume is 0"


def test_growth_keeps_the_map() -> None:
    """Splitting keeps mass, centre and covariance of every pair where its longest axis is long enough."""
    gaussians = model(1.0)
    pair = split(gaussians, min_scale_A=0.3)
    n = len(gaussians)
    assert len(pair) == 2 * n
    torch.testing.assert_close(pair.masses[:n] + pair.masses[n:], gaussians.masses)
    torch.testing.assert_close((pair.centres_A[:n] + pair.centres_A[n:]) / 2, gaussians.centres_A)
    half = (pair.centres_A[:n] - pair.centres_A[n:]) / 2
    x, y, z = half.unbind(1)
    between = torch.stack([x * x, y * y, z * z, x * y, x * z, y * z], dim=1)
    torch.testing.assert_close(
        pair.covariances_A2()[:n] + between, gaussians.covariances_A2(), atol=1e-5, rtol=1e-5
    )


def test_fits_stop_and_fold_in_the_held_out_particles() -> None:
    gaussians = model(1.0)
    equations = equations_of(gaussians, 1.0)
    half_width = ((-9.0, 9.0),) * 3
    start = initialise_random(sphere_mask(BOX, 1.0, 14.0, 1.0), 1.0, 100.0, 20, np.random.default_rng(3), 1.2)
    fit = fit_volume(start, equations, equations, half_width, most_gaussians=40)
    assert [r.n_gaussians for r in fit.rounds] == [20, 40][: len(fit.rounds)]
    first = fit.rounds[0]
    assert min(first.held_out_loss) < first.held_out_loss[0]
    assert not torch.equal(fit.gaussians.centres_A, fit.stopped.centres_A), "folding in takes further steps"

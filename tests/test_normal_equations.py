"""The normal equations and their operator against a brute-force sum over images."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.errors import MapError
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.operator import Grid, NormalOperator
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, weigh_slices
from gem3d.optics import MAGNIFICATION, NO_MAGNIFICATION, contrast_transfer_function
from kernel_cases import random_ctf_coefficients

PIXEL_A = 1.5


def coefficients(n):
    found = random_ctf_coefficients(n)
    # Of magnified slices, what lies beyond the last shell is left out.
    found[:, MAGNIFICATION] = torch.tensor(NO_MAGNIFICATION, dtype=torch.float64)
    return found


def accumulate(images, rotations, shifts, noise):
    box = images.shape[-1]
    equations = NormalEquations.zeros(box, PIXEL_A)
    weight = half_plane_weight(1 / noise)
    weighted = weigh_slices(
        torch.fft.rfft2(images), coefficients(len(images)), shifts, weight, 1 / (box * PIXEL_A)
    )
    insert_slices(equations.accumulator, weighted, rotations)
    return equations


def brute_force_loss(volume, images, rotations, shifts, noise):
    """sum_i sum_k |Y - C exp(-2 pi i k t) V(A^T k)|^2 / sigma^2 less sum |Y|^2 / sigma^2, by direct Fourier sums."""
    box = images.shape[-1]
    radius = (box - 1) // 2
    k = torch.arange(-radius, radius + 1, dtype=torch.float64)
    ky, kx = torch.meshgrid(k, k, indexing="ij")
    shell = (kx**2 + ky**2).sqrt().round().long()
    inside = shell <= radius
    kx, ky, shell = kx[inside], ky[inside], shell[inside]
    pixel = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(pixel, pixel, pixel, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    occupied = volume.flatten() != 0
    step = 1 / (box * PIXEL_A)
    ctfs = contrast_transfer_function(coefficients(len(images)), kx * step, ky * step)
    loss = 0.0
    for image, rotation, shift, ctf in zip(images.double(), rotations, shifts, ctfs, strict=True):
        wave_y = torch.exp(-2j * torch.pi / box * (kx[:, None] * pixel))  # over x
        transform = torch.einsum(
            "kx,ky,yx->k", wave_y, torch.exp(-2j * torch.pi / box * (ky[:, None] * pixel)), image + 0j
        )
        direction = kx[:, None] * rotation[0] + ky[:, None] * rotation[1]
        phases = torch.exp(-2j * torch.pi / box * (direction @ points[occupied].T))
        model = phases @ (volume.double().flatten()[occupied] + 0j)
        model = model * ctf * torch.exp(-2j * torch.pi / box * (kx * shift[0] + ky * shift[1]))
        loss += float((((transform - model).abs() ** 2 - transform.abs() ** 2) / noise[shell]).sum())
    return loss


@pytest.mark.parametrize("box", [20, 21])
def test_operator_equals_brute_force(box):
    rng = torch.Generator().manual_seed(0)
    n = 12
    images = torch.randn(n, box, box, generator=rng)
    rotations = torch.from_numpy(Rotation.random(n, random_state=np.random.default_rng(1)).as_matrix())
    shifts = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    noise = 1 + torch.rand((box - 1) // 2 + 1, generator=rng)
    equations = accumulate(images, rotations, shifts, noise)
    grid = Grid(box, PIXEL_A, PIXEL_A, (6, 5, 7), (8, 9, 7))
    operator = NormalOperator(equations, grid)
    support = torch.rand(grid.shape, generator=rng)
    volume = torch.zeros(box, box, box)
    volume[tuple(slice(s, s + n) for s, n in zip(grid.start, grid.shape, strict=True))] = support
    expected = brute_force_loss(volume, images, rotations, shifts, noise)
    loss, gradient, judged = operator.loss_and_gradient(support, operator)
    assert float(loss) == pytest.approx(expected, rel=0.01)
    assert float(judged) == pytest.approx(float(loss), rel=1e-4)
    # The gradient along a direction is the derivative of the loss, a parabola.
    direction = torch.randn(grid.shape, generator=rng)
    ahead, behind = (operator.loss_and_gradient(v)[0] for v in (support + direction, support - direction))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-3)


def test_linear_map_of_noise_free_projections():
    box, n = 32, 400
    rng = np.random.default_rng(0)
    rotations = torch.from_numpy(Rotation.random(n, random_state=rng).as_matrix())
    from gem3d.kernels.project import project
    from gem3d.kernels.voxelize import voxelize

    centres = torch.from_numpy(rng.uniform(-6, 6, (20, 3))).float()
    covariances = torch.tensor([[2.0, 2.0, 2.0, 0, 0, 0]]).repeat(20, 1)
    shifts = torch.from_numpy(rng.uniform(-2, 2, (n, 2)))
    images = project(torch.ones(20), centres, covariances, rotations.float(), shifts.float(), box)
    equations = NormalEquations.zeros(box, PIXEL_A)
    weight = half_plane_weight(torch.ones(equations.radius + 1))
    weighted = weigh_slices(torch.fft.rfft2(images), None, shifts, weight, 1 / (box * PIXEL_A))
    insert_slices(equations.accumulator, weighted, rotations)
    truth = voxelize(torch.ones(20), centres + box // 2, covariances, (box, box, box))
    linear = equations.linear_map()
    found = torch.from_numpy(linear.values)
    assert linear.coverage.shape == (equations.radius + 1,)
    assert linear.coverage.min() > 0.95
    # Gridding averages the samples of each Fourier voxel, which few views do not fill evenly.
    assert float((found - truth).norm() / truth.norm()) < 0.07


def test_coverage_tells_missing_views():
    box, n = 32, 200
    angle = torch.rand(n, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    about_z = torch.from_numpy(Rotation.from_euler("z", angle.numpy()[:, None]).as_matrix())
    equations = NormalEquations.zeros(box, PIXEL_A)
    weight = half_plane_weight(torch.ones(equations.radius + 1))
    weighted = weigh_slices(
        torch.fft.rfft2(torch.ones(n, box, box)), None, torch.zeros(n, 2), weight, 1 / (box * PIXEL_A)
    )
    insert_slices(equations.accumulator, weighted, about_z)
    coverage = equations.linear_map().coverage
    # All views are along z: of a shell only the equator is reached, a band of constant width.
    assert coverage[10] < 0.25
    assert coverage[1] > coverage[5] > coverage[10]


def test_equations_add_and_survive_a_file(tmp_path):
    parts = [
        NormalEquations(torch.rand_like(NormalEquations.zeros(12, PIXEL_A).accumulator), 12, PIXEL_A, i + 1)
        for i in range(2)
    ]
    total = parts[0] + parts[1]
    assert total.n_particles == 3
    assert torch.equal(total.accumulator, parts[0].accumulator + parts[1].accumulator)
    in_place = NormalEquations(parts[0].accumulator.clone(), 12, PIXEL_A, 1)
    in_place += parts[1]
    assert torch.equal(in_place.accumulator, total.accumulator)
    assert in_place.n_particles == 3
    total.save(tmp_path / "equations.safetensors")
    again = NormalEquations.load(tmp_path / "equations.safetensors")
    assert torch.equal(again.accumulator, total.accumulator)
    assert (again.box_size_px, again.pixel_size_A, again.n_particles) == (12, PIXEL_A, 3)
    with pytest.raises(MapError, match="do not add"):
        total + NormalEquations.zeros(14, PIXEL_A)

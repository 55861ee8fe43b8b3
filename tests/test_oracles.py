"""The forward models against images that RELION made (see shared/data/README.md) and exact Fourier sums."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.kernels.project import project
from gem3d.maps import Map, fourier_resample, read_map
from gem3d.optics import contrast_transfer_function, ctf_coefficients
from gem3d.particles import Particles, read_relion_star
from gem3d.simulate import forward_model
from gem3d.simulate_models import ForwardModel, GaussianModel, SliceModel, integer_frequencies, resample_map
from gem3d.structures import Structure, structure_to_gaussians

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"reference data not at {DATA}")

BOX, PIXEL_A = 48, 2.5

# Fourier radius within which RELION projects, in cycles per box of 64.
POINT_RADIUS = 32


def read_stack(path: Path) -> np.ndarray:
    with mrcfile.open(path) as mrc:
        return mrc.data.astype(np.float64)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)])


def point_images(particles: Particles, model: ForwardModel) -> np.ndarray:
    """CTF-multiplied images within RELION's Fourier radius."""
    size, pixel_size_A = 64, particles.pixel_size_A
    ky, kx = (torch.tensor(k)[None] for k in integer_frequencies(size))
    per_A = 1 / (size * pixel_size_A)
    ctf = contrast_transfer_function(torch.tensor(ctf_coefficients(particles)), kx * per_A, ky.T * per_A)
    inside = torch.hypot(ky.T.double(), kx.double()) <= POINT_RADIUS
    transforms = model.transforms(particles.rotations, particles.shifts_A / pixel_size_A)
    return torch.fft.irfft2(transforms * ctf * inside, s=(size, size)).numpy()


@needs_data
def test_point_oracle() -> None:
    folder = DATA / "point_oracle"
    truth = read_map(folder / "pointmass.mrc").values
    z, y, x = np.argwhere(truth == truth.max())[0]
    assert (z, y, x) == (32, 32, 49)
    assert truth.sum() == truth.max() == 1
    particles = read_relion_star(folder / "relion_proj_batch_pfac3.star")
    px = particles.pixel_size_A
    point = np.array([[x - 32, y - 32, z - 32]]) * px
    covariance = np.array([[1e-6, 1e-6, 1e-6, 0, 0, 0]])
    model = GaussianModel(np.ones(1), point, covariance, 64, px)
    expected = read_stack(folder / "relion_proj_batch_pfac3.mrcs")
    images = point_images(particles, model)
    assert len(images) == 24
    assert correlations(images, expected).min() >= 0.998
    # RELION divides neither by the box nor by the padding: the scale is ours.
    scale = (images * expected).sum(axis=(1, 2)) / (images**2).sum(axis=(1, 2))
    np.testing.assert_allclose(scale, 1.0, atol=0.02)


@needs_data
@pytest.mark.parametrize("kind", ["centered", "shifted"])
@pytest.mark.parametrize(("size", "relion_offset_px"), [(64, 0), (65, 1)])
def test_relion_oracles(kind: str, size: int, relion_offset_px: int) -> None:
    folder = DATA / "relion_oracles"
    truth = read_map(folder / "clean70SRibosome_vol_65p.mrc")
    particles = read_relion_star(folder / f"rln_proj_{size}_{kind}.star", ctf=False)
    model = SliceModel(Map(fourier_resample(truth.values, size), 1.0), size, 1.0)
    shifts_px = particles.shifts_A / particles.pixel_size_A + relion_offset_px
    images = torch.fft.irfft2(model.transforms(particles.rotations, shifts_px), s=(size, size)).numpy()
    assert correlations(images, read_stack(folder / f"rln_proj_{size}_{kind}.mrcs")).min() >= 0.999


def small_structure(n: int = 150, radius_A: float = 25.0) -> Structure:
    rng = np.random.default_rng(3)
    positions = rng.normal(size=(n, 3)) * radius_A / 3 + 70.0
    return Structure(positions, rng.choice(np.array([6, 7, 8], np.uint8), n), rng.uniform(10, 60, n))


def exact_transform(structure: Structure, frequency_per_A: np.ndarray) -> np.ndarray:
    """Sum of the atoms' transforms at `(m, 3)` frequencies."""
    amplitudes, means, covariances = structure_to_gaussians(structure)
    s = (frequency_per_A**2).sum(axis=1)[:, None]
    waves = np.exp(-2j * np.pi * frequency_per_A @ means.T - 2 * np.pi**2 * s * covariances[None, :, 0])
    return waves @ amplitudes


@pytest.mark.parametrize("size", [48, 49])
def test_gaussian_model_is_the_exact_fourier_sum(size: int) -> None:
    structure = small_structure()
    model = forward_model(structure, size, PIXEL_A)
    rotations = Rotation.random(3, rng=np.random.default_rng(1)).as_matrix()
    shifts = np.array([[0.0, 0.0], [2.3, -1.7], [0.4, 5.0]])
    transforms = model.transforms(rotations, shifts).numpy()
    ky, kx = np.meshgrid(*integer_frequencies(size), indexing="ij")
    k = np.stack([kx.ravel(), ky.ravel(), 0 * kx.ravel()], axis=1)
    below = (2 * np.abs(k) < size).all(axis=1)
    for rotation, shift, transform in zip(rotations, shifts, transforms, strict=True):
        phase = np.exp(-2j * np.pi * (k[:, :2] @ (shift + size // 2)) / size)
        exact = exact_transform(structure, k @ rotation / (size * PIXEL_A)) * phase * below
        assert not transform.ravel()[~below].any()
        for low, high, tolerance in ((0, 0.5, 1e-4), (0.5, 0.8, 2e-3), (0.8, 1.0, 2e-2)):
            radius = 2 * np.hypot(k[:, 0], k[:, 1]) / size
            ring = below & (radius >= low) & (radius < high)
            error = np.linalg.norm(transform.ravel()[ring] - exact[ring]) / np.linalg.norm(exact[ring])
            assert error < tolerance, (low, error)


@pytest.mark.parametrize("size", [48, 49])
def test_truth_is_the_exact_fourier_sum(size: int) -> None:
    structure = small_structure()
    truth = forward_model(structure, size, PIXEL_A).truth()
    transform = np.fft.fftn(np.fft.ifftshift(truth))
    k = np.random.default_rng(2).integers(-size // 3, size // 3, size=(300, 3))
    exact = exact_transform(structure, k / (size * PIXEL_A))
    found = transform[k[:, 2], k[:, 1], k[:, 0]]
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 5e-3
    if size % 2 == 0:
        assert np.abs(transform[size // 2]).max() < 1e-3 * np.abs(transform).max()


@pytest.mark.parametrize("size", [48, 49])
def test_slices_of_a_map_are_its_fourier_sum(size: int) -> None:
    values = np.random.default_rng(4).normal(size=(size,) * 3).astype(np.float32)
    r = np.arange(size) - size // 2
    values *= (r[:, None, None] ** 2 + r[:, None] ** 2 + r**2) < (0.4 * size) ** 2
    model = SliceModel(Map(values, PIXEL_A), size, PIXEL_A)
    rotations = Rotation.random(2, rng=np.random.default_rng(5)).as_matrix()
    shifts = np.array([[1.3, -2.0], [0.0, 0.0]])
    transforms = model.transforms(rotations, shifts).numpy()
    truth = model.truth().astype(np.float64)
    for rotation, shift, transform in zip(rotations, shifts, transforms, strict=True):
        errors, exact = [], []
        for kx, ky in ((0, 0), (3, -5), (0, 20), (17, 12), (22, 3), (1, -23)):
            k = np.array([kx, ky, 0]) @ rotation / size
            wave = [np.exp(-2j * np.pi * r * component) for component in k]
            value = np.einsum("zyx,x,y,z", truth, *wave, optimize=True)
            value *= np.exp(-2j * np.pi * np.array([kx, ky]) @ (shift + size // 2) / size)
            exact.append(value)
            errors.append(transform[ky, kx] - value)
        assert np.linalg.norm(errors) / np.linalg.norm(exact) < 3e-4


def test_both_models_give_the_same_images() -> None:
    structure = small_structure()
    soft = Structure(structure.positions_A, structure.atomic_numbers, structure.bfactors_A2 + 600)
    gaussians = forward_model(soft, BOX, PIXEL_A)
    slices = SliceModel(Map(gaussians.truth(), PIXEL_A), BOX, PIXEL_A)
    np.testing.assert_allclose(slices.truth(), gaussians.truth(), atol=1e-5 * gaussians.truth().max())
    rotations = Rotation.random(4, rng=np.random.default_rng(6)).as_matrix()
    shifts = np.array([[0.0, 0.0], [2.0, 1.0], [-3.3, 0.2], [0.0, 4.0]])
    a, b = (torch.fft.irfft2(m.transforms(rotations, shifts), s=(BOX, BOX)) for m in (gaussians, slices))
    assert float((a - b).norm() / a.norm()) < 5e-3
    mass = small_structure().atomic_numbers.sum()
    np.testing.assert_allclose(a.sum(dim=(1, 2)).numpy(), mass, rtol=1e-4)
    np.testing.assert_allclose(gaussians.truth().sum(), mass, rtol=2e-3)


def test_model_and_plain_projection_agree_for_wide_gaussians() -> None:
    amplitudes, means, covariances = structure_to_gaussians(small_structure())
    covariances[:, :3] += 20.0
    model = GaussianModel(amplitudes, means, covariances, 47, PIXEL_A)
    rotations = Rotation.random(2, rng=np.random.default_rng(7)).as_matrix()
    shifts = np.array([[0.0, 0.0], [2.0, 1.0]])
    images = torch.fft.irfft2(model.transforms(rotations, shifts), s=(47, 47))
    arrays = (amplitudes, means / PIXEL_A, covariances / PIXEL_A**2, rotations, shifts)
    plain = project(*(torch.tensor(a, dtype=torch.float32) for a in arrays), 47)
    torch.testing.assert_close(images, plain, atol=2e-4 * float(plain.max()), rtol=0)


@pytest.mark.parametrize(("shape", "size", "pixel_A"), [((50, 50, 50), 40, 2.7), ((31, 44, 40), 61, 2.0)])
def test_resample_map(shape: tuple[int, int, int], size: int, pixel_A: float) -> None:
    def density(n: tuple[int, int, int], step_A: float) -> np.ndarray:
        z, y, x = np.meshgrid(*((np.arange(m) - m // 2) * step_A for m in n), indexing="ij")
        return np.exp(-((x - 3) ** 2 + (y + 5) ** 2 + z**2) / (2 * 6.0**2)).astype(np.float32)

    resampled = resample_map(Map(density(shape, 2.5), 2.5), size, pixel_A)
    np.testing.assert_allclose(resampled, density((size,) * 3, pixel_A), atol=2e-4)


def test_conventions_of_one_atom() -> None:
    """Test vector 2: (10, 0, 0) A; psi 90; rlnOriginXAngst +5."""
    covariance = np.array([[9.0, 9.0, 9.0, 0, 0, 0]])
    model = GaussianModel(np.ones(1), np.array([[10.0, 0.0, 0.0]]), covariance, BOX, PIXEL_A)
    psi_90 = Rotation.from_euler("ZYZ", [0, 0, 90], degrees=True).as_matrix().T
    rotations = np.stack([np.eye(3), psi_90, np.eye(3)])
    origin_A = np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    images = torch.fft.irfft2(model.transforms(rotations, -origin_A / PIXEL_A), s=(BOX, BOX))
    peaks = [divmod(int(image.argmax()), BOX) for image in images]
    c = BOX // 2
    assert peaks == [(c, c + 4), (c - 4, c), (c, c + 2)]
    z, y, x = np.unravel_index(model.truth().argmax(), (BOX,) * 3)
    assert (z, y, x) == (c, c, c + 4)

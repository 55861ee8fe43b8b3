"""The forward model against images that RELION made (see shared/data/README.md)."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from gem3d.maps import Map, fourier_resample, read_map
from gem3d.optics import contrast_transfer_function, ctf_coefficients
from gem3d.particles import Particles, read_relion_star
from gem3d.simulate_models import ForwardModel, GaussianModel, SliceModel, integer_frequencies

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"reference data not at {DATA}")

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

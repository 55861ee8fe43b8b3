"""The Gaussian model, its starts and its files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.assess import sphere_mask
from gem3d.errors import MapError
from gem3d.gaussians import initialise_from_map, initialise_random, load_gaussians, save_gaussians, save_ply
from gem3d.kernels.project import project


@pytest.fixture
def gaussians():
    start = initialise_random(sphere_mask(32, 2.0, 40.0, 2.0), 2.0, 100.0, 50, np.random.default_rng(0), 0.5)
    start.log_scales.add_(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.3)
    return start


def test_covariance_is_the_rotated_diagonal(gaussians):
    q = gaussians.quaternions.numpy()
    frames = Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix()
    s2 = np.exp(2 * gaussians.log_scales.numpy())
    full = np.einsum("nij,nj,nkj->nik", frames, s2, frames)
    packed = np.stack([full[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], axis=1)
    np.testing.assert_allclose(gaussians.covariances_A2().numpy(), packed, rtol=1e-4, atol=1e-5)


def test_density_holds_the_mass(gaussians):
    density = gaussians.density(48, 2.0)
    assert float(density.sum()) * 2.0**3 == pytest.approx(100.0, rel=0.01)


def images_of(gaussians, rotations, box=48, pixel_A=2.0):
    return project(
        gaussians.masses / pixel_A**3,
        gaussians.centres_A / pixel_A,
        gaussians.covariances_A2() / pixel_A**2,
        torch.tensor(rotations, dtype=torch.float32),
        torch.zeros(len(rotations), 2),
        box,
    )


def test_every_view_has_the_mass_of_the_volume(gaussians):
    rotations = Rotation.random(20, rng=np.random.default_rng(1)).as_matrix()
    sums = images_of(gaussians, rotations).sum(dim=(1, 2)).numpy()
    np.testing.assert_allclose(sums, float(gaussians.density(48, 2.0).sum()), rtol=2e-3)


def test_splitting_in_two_halves_changes_nothing(gaussians):
    split = gaussians.scaled(0.5).joined(gaussians.scaled(0.5))
    assert len(split) == 2 * len(gaussians)
    density = gaussians.density(48, 2.0)
    torch.testing.assert_close(split.density(48, 2.0), density, atol=1e-5 * float(density.max()), rtol=0)
    rotations = Rotation.random(3, rng=np.random.default_rng(1)).as_matrix()
    images = images_of(gaussians, rotations)
    torch.testing.assert_close(images_of(split, rotations), images, atol=1e-5 * float(images.max()), rtol=0)


def test_turning_the_particle_is_turning_the_camera_back(gaussians):
    """V(R^-1 X) seen at pose A R^-1 is V seen at A."""
    turn = Rotation.random(rng=np.random.default_rng(2))
    poses = Rotation.random(4, rng=np.random.default_rng(3)).as_matrix()
    own = Rotation.from_quat(gaussians.quaternions.numpy()[:, [1, 2, 3, 0]])
    quaternions = (turn * own).as_quat()[:, [3, 0, 1, 2]]
    turned = replace(
        gaussians,
        centres_A=gaussians.centres_A @ torch.tensor(turn.as_matrix().T, dtype=torch.float32),
        quaternions=torch.tensor(quaternions, dtype=torch.float32),
    )
    before, after = images_of(gaussians, poses), images_of(turned, poses @ turn.as_matrix().T)
    torch.testing.assert_close(after, before, atol=1e-4 * float(before.max()), rtol=0)


def test_start_from_a_map_follows_the_map():
    z, y, x = np.mgrid[:32, :32, :32] - 16
    blob = np.exp(-((x - 4) ** 2 + y**2 + z**2) / 18.0).astype(np.float32)
    start = initialise_from_map(blob, 1.5, 400, np.random.default_rng(0), 0.5)
    assert float(start.masses.sum()) == pytest.approx(blob.sum() * 1.5**3, rel=1e-4)
    np.testing.assert_allclose(start.centres_A.mean(0).numpy(), [6.0, 0, 0], atol=0.6)
    density = start.density(32, 1.5).numpy()
    assert np.corrcoef(density.ravel(), blob.ravel())[0, 1] > 0.95


def test_files_round_trip(gaussians, tmp_path):
    save_gaussians(gaussians, tmp_path / "g.safetensors", 64, 1.5)
    again, box, pixel_size_A = load_gaussians(tmp_path / "g.safetensors")
    assert (box, pixel_size_A) == (64, 1.5)
    assert again.unit_mass == gaussians.unit_mass
    for name, tensor in gaussians.parameters.items():
        assert torch.equal(getattr(again, name), tensor)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "g.safetensors").write_bytes(b"nonsense")
    with pytest.raises(MapError, match="cannot be read as Gaussians"):
        load_gaussians(tmp_path / "g.safetensors")


def test_ply_has_the_fields_of_splat_viewers(gaussians, tmp_path):
    save_ply(gaussians, tmp_path / "g.ply")
    header, body = (tmp_path / "g.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property float")]
    assert names[:3] == ["x", "y", "z"]
    assert {"opacity", "scale_0", "rot_3", "f_dc_0"} <= set(names)
    values = np.frombuffer(body, "<f4").reshape(50, len(names))
    np.testing.assert_array_equal(values[:, :3], gaussians.centres_A.numpy())

"""Structures, and simulated particle sets: conventions, mass, noise, determinism, files, errors."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gem3d.errors import ParticleFileError, RunDirectoryError, SettingsError, StructureError
from gem3d.maps import read_map
from gem3d.optics import contrast_transfer_function, ctf_coefficients
from gem3d.particles import read_relion_star
from gem3d.simulate import Simulation, forward_model, noise_free_images, simulate
from gem3d.simulate_particles import draw_particles, perturb_particles, read_ctf_table
from gem3d.structures import (
    ATOM_RADIUS_A,
    Structure,
    packaged_structure,
    read_structure,
    structure_to_gaussians,
    write_compact_structure,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"reference data not at {DATA}")
BOX, PIXEL_A = 48, 2.5

PDB = """\
ATOM      1  N   ALA A   1      11.000  12.000  13.000  1.00 20.00           N
ATOM      2  CA AALA A   1       1.000   2.000   3.000  0.40 30.00           C
ATOM      3  CA BALA A   1       1.500   2.000   3.000  0.60 35.00           C
ATOM      4  H   ALA A   1       9.000   9.000   9.000  1.00 10.00           H
HETATM    5  O   HOH A   2      20.000  20.000  20.000  1.00 10.00           O
HETATM    6 ZN    ZN A   3      -5.000   0.000   0.000  1.00 40.00          ZN
END
"""


def small_structure(n: int = 150, radius_A: float = 25.0) -> Structure:
    rng = np.random.default_rng(3)
    positions = rng.normal(size=(n, 3)) * radius_A / 3 + 70.0
    return Structure(positions, rng.choice(np.array([6, 7, 8], np.uint8), n), rng.uniform(10, 60, n))


def run(out: Path, n: int = 70, snr: float = 0.1, **options: Any) -> Simulation:
    return simulate(small_structure(), out, n, BOX, PIXEL_A, snr, **options)


def images_of(simulation: Simulation) -> np.ndarray:
    with mrcfile.open(simulation.stack) as mrc:
        return np.array(mrc.data)


# Structures


def test_read_structure(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(PDB)
    structure = read_structure(tmp_path / "a.pdb")
    assert structure.atomic_numbers.tolist() == [7, 6, 30]  # no hydrogen, no water, the likelier conformer
    np.testing.assert_allclose(structure.positions_A[1], [1.5, 2.0, 3.0])
    np.testing.assert_allclose(structure.bfactors_A2, [20, 35, 40])


def test_unreadable_structures(tmp_path: Path) -> None:
    (tmp_path / "text.pdb").write_text("nothing here\n")
    (tmp_path / "text.xyz").write_text("nothing here\n")
    for name in ("text.pdb", "text.xyz", "absent.pdb"):
        with pytest.raises(StructureError, match=name):
            read_structure(tmp_path / name)


def test_structure_to_gaussians() -> None:
    amplitudes, means, covariances = structure_to_gaussians(small_structure())
    np.testing.assert_allclose(means.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_array_equal(amplitudes, small_structure().atomic_numbers)
    expected = small_structure().bfactors_A2 / (8 * np.pi**2) + ATOM_RADIUS_A**2
    np.testing.assert_allclose(covariances[:, :3], np.tile(expected[:, None], 3))
    assert not covariances[:, 3:].any()


def test_packaged_structure() -> None:
    structure = packaged_structure()
    assert len(structure) == 32_920
    assert set(structure.atomic_numbers.tolist()) == {6, 7, 8, 11, 12, 16}
    assert np.ptp(structure.positions_A, axis=0).max() == pytest.approx(181, abs=1)


@needs_data
def test_packaged_structure_is_its_source(tmp_path: Path) -> None:
    source = DATA / "structures" / "5a1a.pdb"
    packaged, read = packaged_structure(), read_structure(source)
    np.testing.assert_allclose(packaged.positions_A, read.positions_A, atol=0.00501)
    np.testing.assert_allclose(packaged.bfactors_A2, read.bfactors_A2, atol=0.251)
    np.testing.assert_array_equal(packaged.atomic_numbers, read.atomic_numbers)
    write_compact_structure(source, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").stat().st_size < 350_000


# Simulated particle sets


def test_files_and_round_trip(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    made = run(tmp_path / "new" / "folder", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(64, 70), (70, 70)]
    assert sorted(p.name for p in made.star.parent.iterdir()) == [
        "particles.mrcs",
        "particles.star",
        "truth.mrc",
    ]
    with mrcfile.open(made.stack) as mrc:
        assert mrc.is_image_stack()
        assert mrc.data.shape == (70, BOX, BOX)
        assert mrc.data.dtype == np.float32
        assert float(mrc.voxel_size.x) == PIXEL_A
        assert float(mrc.header.rms) == pytest.approx(float(mrc.data.std()), rel=1e-4)
    read = read_relion_star(made.star)
    for name in ("rotations", "shifts_A", "defocus_A", "astigmatism_deg", "phase_shift_deg"):
        np.testing.assert_allclose(getattr(read, name), getattr(made.particles, name), atol=1e-6)
    assert read.half_set.tolist() == [1, 2] * 35
    assert read.stacks == ("particles.mrcs",)
    assert read.image_index.tolist() == list(range(70))
    assert read.optics[0].box_size_px == BOX
    assert read.pixel_size_A == PIXEL_A
    truth = read_map(made.truth)
    assert truth.values.shape == (BOX, BOX, BOX)
    assert truth.voxel_size_A == PIXEL_A


def test_deterministic(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    for name in ("stack", "star", "truth"):
        assert getattr(first, name).read_bytes() == getattr(second, name).read_bytes()
    assert run(tmp_path / "c", seed=1).stack.read_bytes() != first.stack.read_bytes()


@pytest.mark.parametrize("snr", [0.01, 1.0])
def test_signal_to_noise(tmp_path: Path, snr: float) -> None:
    noisy = images_of(run(tmp_path / "noisy", n=300, snr=snr, envelope_bfactor_A2=80.0))
    clean = images_of(run(tmp_path / "clean", n=300, snr=math.inf, envelope_bfactor_A2=80.0))
    noise = noisy - clean
    assert clean.var(axis=(1, 2)).mean() / noise.var() == pytest.approx(snr, rel=0.03)
    # white: the same power in every ring
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0) / (BOX**2 * noise.var())
    assert power[:8, :8].mean() == pytest.approx(1, abs=0.05)
    assert power[16:32, 16:32].mean() == pytest.approx(1, abs=0.05)


def test_images_without_ctf(tmp_path: Path) -> None:
    made = run(tmp_path, ctf=False, snr=math.inf)
    k = torch.linspace(0, 0.2, 50, dtype=torch.float64)
    ctf = contrast_transfer_function(torch.tensor(ctf_coefficients(read_relion_star(made.star))), k, k)
    torch.testing.assert_close(ctf, torch.ones_like(ctf))
    mass = float(small_structure().atomic_numbers.sum())
    images = images_of(made)
    np.testing.assert_allclose(images.sum(axis=(1, 2), dtype=np.float64), mass, rtol=1e-4)
    # centred: the centre of mass lies at n//2 + shift, to the spread between mean and centre of mass
    r = np.arange(BOX) - BOX // 2
    centre = np.stack([(images * r).sum(axis=(1, 2)), (images * r[:, None]).sum(axis=(1, 2))], axis=1) / mass
    np.testing.assert_allclose(centre, made.particles.shifts_A / PIXEL_A, atol=0.3)
    assert np.abs(made.particles.shifts_A / PIXEL_A).max() <= 3.0


def test_errors_of_the_star_file_leave_the_images_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"angle_error_deg": 2.0, "shift_error_px": 0.5, "defocus_error_A": 300.0}
    exact, wrong = run(tmp_path / "a"), run(tmp_path / "b", **options)
    np.testing.assert_array_equal(images_of(exact), images_of(wrong))
    np.testing.assert_array_equal(exact.particles.rotations, wrong.true_particles.rotations)
    np.testing.assert_allclose(read_relion_star(wrong.star).shifts_A, wrong.particles.shifts_A, atol=1e-6)
    redone = noise_free_images(
        forward_model(small_structure(), BOX, PIXEL_A), wrong.true_particles.subset(slice(0, 4))
    )
    residual = images_of(wrong)[:4] - redone.numpy()
    assert residual.std() == pytest.approx(wrong.noise_sd, rel=0.05)


def test_perturbations_have_the_spread_asked_for() -> None:
    true = draw_particles(4000, 32, 2.0, np.random.default_rng(0))
    wrong = perturb_particles(
        true, np.random.default_rng(1), angle_error_deg=2.0, shift_error_px=0.5, defocus_error_A=300.0
    )
    turns = Rotation.from_matrix(wrong.rotations @ true.rotations.mT).as_rotvec(degrees=True)
    np.testing.assert_allclose(turns.std(axis=0), 2.0, rtol=0.05)
    np.testing.assert_allclose((wrong.shifts_A - true.shifts_A).std(axis=0), 1.0, rtol=0.05)
    change = wrong.defocus_A - true.defocus_A
    np.testing.assert_allclose(change.std(axis=0), 300.0, rtol=0.05)
    np.testing.assert_allclose(change[:, 0], change[:, 1], atol=1e-8)


def test_drawn_particles() -> None:
    particles = draw_particles(4000, 32, 2.0, np.random.default_rng(0), max_shift_px=3.0)
    # uniform in SO(3): every entry of the matrices has mean 0 and variance 1/3
    np.testing.assert_allclose(particles.rotations.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose(particles.rotations.var(axis=0), 1 / 3, atol=0.03)
    assert 5.7 < np.abs(particles.shifts_A).max() <= 6.0
    assert 7_000 < particles.defocus_A.min() < particles.defocus_A.max() < 26_000


def test_poses_and_optics_from_a_star_file(tmp_path: Path) -> None:
    first = run(tmp_path / "a", n=5)
    second = run(tmp_path / "b", poses=first.star, ctf_table=first.star, seed=7)
    for name in ("rotations", "defocus_A"):
        pool, drawn = (
            getattr(s.true_particles, name).reshape(len(s.true_particles), -1) for s in (first, second)
        )
        distance = np.abs(drawn[:, None] - pool[None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-6
        assert len(set(distance.argmin(axis=1))) == 5


@needs_data
def test_cryodrgn_optics_table(tmp_path: Path) -> None:
    table = read_ctf_table(DATA / "optics" / "empiar10028_ctf.pkl")
    assert table.defocus_A.shape == (105_247, 2)
    assert np.unique(table.instrument, axis=0).tolist() == [[300.0, 2.0, 0.1]]
    made = run(tmp_path, ctf_table=DATA / "optics" / "empiar10028_ctf.pkl")
    assert made.particles.optics[0].spherical_aberration_mm == 2.0
    assert made.particles.pixel_size_A == PIXEL_A
    assert np.isin(made.particles.defocus_A[:, 0], table.defocus_A[:, 0]).all()


def test_pickles_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "ctf.pkl"
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(ParticleFileError, match=r"ctf\.pkl.*builtins\.print"):
        read_ctf_table(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ParticleFileError, match=r"ctf\.pkl"):
        read_ctf_table(path)
    path.write_bytes(pickle.dumps(np.zeros((3, 4))))
    with pytest.raises(ParticleFileError, match=r"shape \(3, 4\)"):
        read_ctf_table(path)
    with pytest.raises(ParticleFileError, match=r"absent\.pkl"):
        read_ctf_table(tmp_path / "absent.pkl")


def test_a_map_as_source(tmp_path: Path) -> None:
    # Damped, as images reach into corners of frequency space that the map's cube lacks in most views.
    options: dict[str, Any] = {"envelope_bfactor_A2": 300.0}
    first = run(tmp_path / "a", snr=math.inf, **options)
    second = simulate(first.truth, tmp_path / "b", 70, BOX, PIXEL_A, math.inf, **options)
    a, b = images_of(first), images_of(second)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(
        read_map(second.truth).values, read_map(first.truth).values, atol=1e-4 * b.max()
    )


def test_refusals(tmp_path: Path) -> None:
    run(tmp_path, n=3)
    with pytest.raises(RunDirectoryError, match=r"particles\.mrcs, particles\.star, truth\.mrc exist"):
        run(tmp_path, n=3)
    run(tmp_path, n=2, overwrite=True)
    assert len(read_relion_star(tmp_path / "particles.star")) == 2
    for snr in (0.0, -1.0, math.nan):
        with pytest.raises(SettingsError, match="--snr"):
            run(tmp_path / "b", snr=snr)
    with pytest.raises(SettingsError, match="--particles 0: give at least 1"):
        run(tmp_path / "b", n=0)
    with pytest.raises(SettingsError, match="--angle-error -1"):
        run(tmp_path / "b", angle_error_deg=-1.0)
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        run(tmp_path / "file" / "b", n=2)

"""The sign of the contrast: told where it is clear, never told wrong; inverted sets are stopped early."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from command_line import refused
from gem3d.fit.contrast_sign import BlobCorrelation, ContrastSign, refuse_inverted
from gem3d.maps import Map
from gem3d.optics import ctf_coefficients
from gem3d.particles import Particles, measure_images
from gem3d.simulate import Simulation, forward_model, noise_free_images
from gem3d.simulate_particles import draw_particles
from gem3d.structures import packaged_structure

N = 200


def images_of(
    source: object, box: int, pixel_size_A: float, *, ctf: bool, low_defocus: bool
) -> tuple[np.ndarray, Particles]:
    particles = draw_particles(N, box, pixel_size_A, np.random.default_rng(3), ctf=ctf, max_shift_px=3)
    if low_defocus:
        low = np.random.default_rng(4).uniform(3000, 8000, (N, 1)).repeat(2, axis=1)
        optics = tuple(replace(group, amplitude_contrast=0.07) for group in particles.optics)
        particles = replace(particles, defocus_A=low, optics=optics)
    model = forward_model(source, box, pixel_size_A)  # type: ignore[arg-type]
    return noise_free_images(model, particles).numpy(), particles


def found_in(images: np.ndarray, particles: Particles) -> ContrastSign:
    images = np.ascontiguousarray(images, dtype=np.float32).copy()
    measure_images(images, 0.45 * images.shape[1], normalise=True)
    blob = BlobCorrelation(images.shape[1], particles.pixel_size_A)
    shifts_px = torch.from_numpy(particles.shifts_A / particles.pixel_size_A)
    coefficients = torch.from_numpy(ctf_coefficients(particles))
    for some in np.array_split(np.arange(len(images)), 3):
        blob.add(images[some], coefficients[some], shifts_px[some])
    return blob.result()


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize(("ctf", "low_defocus"), [(True, False), (True, True), (False, False)])
def test_sign_of_a_complex(box: int, ctf: bool, low_defocus: bool) -> None:
    images, particles = images_of(packaged_structure(), box, 211 / box, ctf=ctf, low_defocus=low_defocus)
    rng = np.random.default_rng(0)
    for snr in (np.inf, 1.0, 0.1, 0.02):
        noisy = images + rng.standard_normal(images.shape) * np.sqrt(images.var((1, 2)).mean() / snr)
        found, inverted = found_in(noisy, particles), found_in(-noisy, particles)
        assert found.sign == 1, (snr, found)
        assert inverted.sign == -1, (snr, inverted)
        assert inverted.correlation == pytest.approx(-found.correlation, rel=1e-3)


@pytest.mark.parametrize("width", [0.4, 0.6, 0.8, 0.9])
@pytest.mark.parametrize("low_defocus", [True, False])
def test_empty_shells_are_never_told_wrong(width: float, low_defocus: bool) -> None:
    box = 32
    offset = np.arange(box) - box // 2
    radius = np.sqrt(offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2)
    shell = np.abs(radius - width / 2 * box) < 1
    images, particles = images_of(
        Map(shell.astype(np.float32), 6.0), box, 6.0, ctf=True, low_defocus=low_defocus
    )
    assert found_in(images, particles).sign >= 0
    assert found_in(-images, particles).sign <= 0


def test_noise_has_no_sign() -> None:
    _, particles = images_of(packaged_structure(), 32, 6.6, ctf=True, low_defocus=False)
    rng = np.random.default_rng(0)
    assert all(found_in(rng.standard_normal((N, 32, 32)), particles).sign == 0 for _ in range(40))


def test_few_images_have_no_sign() -> None:
    images, particles = images_of(packaged_structure(), 32, 6.6, ctf=True, low_defocus=False)
    assert found_in(images[:40], particles.subset(slice(0, 40))).sign == 0
    assert found_in(images[:0], particles.subset(slice(0, 0))).n_images == 0


def test_an_inverted_set_is_refused_before_the_work_begins(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ml-struct-bio/cryodrgn#65: a set of dark particles gave an inverted map without a word."""
    shutil.copy(made.star, tmp_path)
    shutil.copy(made.stack, tmp_path)
    with mrcfile.mmap(tmp_path / made.stack.name, "r+") as stack:
        stack.data[:] *= -1
    out = tmp_path / "out"
    message = refused(capsys, "reconstruct", str(tmp_path / made.star.name), "--out", str(out), "--quiet")
    assert "dark on a bright ground: 300 images have a correlation of -0." in message
    assert "give --invert" in message
    assert "accumulate" not in (out / "run.log").read_text()


def test_the_way_out_depends_on_what_was_asked_for() -> None:
    clear = ContrastSign(1000, -0.2, 0.005, -0.1)
    with pytest.raises(Exception, match="give --invert"):
        refuse_inverted(clear, Path("p.star"), inverted=False)
    with pytest.raises(Exception, match="leave out --invert"):
        refuse_inverted(clear, Path("p.star"), inverted=True)
    for unclear in (
        ContrastSign(1000, 0.2, 0.005, 0.1),
        ContrastSign(1000, -0.2, 0.05, -0.1),
        ContrastSign(1000, -0.005, 0.0001, -0.1),
        ContrastSign(1000, -0.2, 0.005, 0.1),
        ContrastSign(30, -0.2, 0.005, -0.1),
    ):
        refuse_inverted(unclear, Path("p.star"), inverted=False)

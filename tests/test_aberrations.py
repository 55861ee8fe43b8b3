"""Aberrations and uneven magnification: read, written, and made up for."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gem3d.assess import fourier_shell_correlation
from gem3d.errors import ParticleFileError
from gem3d.fit.accumulate import accumulate
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.normal_equations import NormalEquations
from gem3d.fit.observations import Observations
from gem3d.fit.operator import Grid, NormalOperator, voxelize_on
from gem3d.kernels.insert_slices import half_plane_weight, insert_slices, slice_shape, weigh_slices
from gem3d.maps import read_map
from gem3d.optics import (
    MOST_KNOWN_FACTORS,
    NO_MAGNIFICATION,
    antisymmetric_phase,
    contrast_transfer_function,
    ctf_coefficients,
    electron_wavelength_A,
)
from gem3d.particles import ImageSource, Particles, read_relion_star, write_relion_star
from gem3d.particles.relion_aberrations import (
    of_beam_tilt,
    of_even_zernike,
    of_odd_zernike,
    to_even_zernike,
    to_odd_zernike,
)
from gem3d.simulate import Simulation, forward_model, noise_free_images, simulate
from gem3d.structures import packaged_structure
from training_cases import leaves, some_gaussians

needs_relion = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="RELION (Debian: relion) is not installed"
)
TREFOIL = "[0.5,-0.25,120,-35,80,60]"


def frequencies(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (2, 50))


def phase(
    coefficients: NDArray[np.float64], kx: NDArray[np.float64], ky: NDArray[np.float64]
) -> NDArray[np.float64]:
    return antisymmetric_phase(coefficients.tolist(), torch.from_numpy(kx), torch.from_numpy(ky)).numpy()


def zernike(
    number: int, kx: NDArray[np.float64], ky: NDArray[np.float64], degrees: tuple[int, ...] = (1, 3, 5)
) -> NDArray[np.float64]:
    """The polynomial of this number: sum of (-1)^s (n-s)! / (s! ((n+m)/2-s)! ((n-m)/2-s)!) r^(n-2s)."""
    order = [(n, m) for n in degrees for m in range(-n, n + 1, 2)]
    n, signed = order[number]
    m, r, angle = abs(signed), np.hypot(kx, ky), np.arctan2(ky, kx)
    radial = sum(
        (-1) ** s
        * math.factorial(n - s)
        / math.prod(math.factorial(k) for k in (s, (n + m) // 2 - s, (n - m) // 2 - s))
        * r ** (n - 2 * s)
        for s in range((n - m) // 2 + 1)
    )
    return radial * (np.cos(m * angle) if signed >= 0 else np.sin(m * angle))


def test_beam_tilt() -> None:
    kx, ky = frequencies()
    found = of_beam_tilt(np.array([[0.5, -0.3], [0, 0]]), np.array([300.0, 200.0]), np.array([2.7, 1.4]))
    factor = -2 * np.pi * 2.7e7 * electron_wavelength_A(300) ** 2 * (kx**2 + ky**2) * 1e-3
    np.testing.assert_allclose(phase(found[0], kx, ky), factor * (0.5 * kx - 0.3 * ky), rtol=1e-12)
    assert not found[1].any()


@pytest.mark.parametrize("number", range(6))
def test_zernike_polynomials(number: int) -> None:
    kx, ky = frequencies(number)
    found, complete = of_odd_zernike(f"[{','.join(['0'] * number + ['2.5'])}]")
    assert complete
    np.testing.assert_allclose(phase(found, kx, ky), 2.5 * zernike(number, kx, ky), atol=1e-12)


@pytest.mark.parametrize("number", range(9))
def test_even_zernike_polynomials_add_to_gamma(number: int, made: Simulation) -> None:
    kx, ky = map(torch.from_numpy, frequencies(number))
    coefficients, complete = of_even_zernike(f"[{','.join(['0'] * number + ['2.5'])}]")
    assert complete
    particles = made.particles.subset(slice(0, 1))
    # Pure phase contrast at no defocus: gamma is the aberration, and the CTF -sin of it.
    group = replace(
        particles.optics[0],
        spherical_aberration_mm=0.0,
        amplitude_contrast=0.0,
        gamma_coefficients=tuple(coefficients.tolist()),
    )
    particles = replace(particles, optics=(group,), defocus_A=np.zeros((1, 2)))
    found = contrast_transfer_function(torch.from_numpy(ctf_coefficients(particles)), kx, ky)[0].numpy()
    np.testing.assert_allclose(
        found, -np.sin(2.5 * zernike(number, kx.numpy(), ky.numpy(), (0, 2, 4))), atol=1e-12
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=9, max_size=9))
def test_writing_even_ones_is_the_inverse_of_reading(coefficients: list[float]) -> None:
    found, complete = of_even_zernike(to_even_zernike(tuple(coefficients)))
    assert complete
    np.testing.assert_allclose(found, coefficients, atol=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6))
def test_writing_is_the_inverse_of_reading(coefficients: list[float]) -> None:
    found, complete = of_odd_zernike(to_odd_zernike(tuple(coefficients)))
    assert complete
    np.testing.assert_allclose(found, coefficients, atol=1e-9)


@pytest.mark.parametrize("text", ["[0,0,0,0,0,0,0.5]", "[" + "0," * 11 + "1e-3]"])
def test_higher_degrees_are_told(text: str) -> None:
    found, complete = of_odd_zernike(text)
    assert not complete
    assert not found.any()


@pytest.mark.parametrize("text", ["[a]", "[nan]", "[1,inf]", "[1e300]"])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        of_odd_zernike(text)


def aberrant(particles: Particles, *lists: str) -> Particles:
    """The same particles, each in one of several optics groups that have these aberrations, in turn."""
    groups = tuple(
        replace(particles.optics[0], name=f"g{i}", phase_coefficients=tuple(of_odd_zernike(text)[0].tolist()))
        for i, text in enumerate(lists)
    )
    index = (np.arange(len(particles)) % len(lists)).astype(np.int32)
    return replace(particles, optics=groups, optics_index=index)


def test_files(made: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    given_ = aberrant(made.particles, TREFOIL, "[0]")
    write_relion_star(given_, path)
    found = read_relion_star(path)
    for one, other in zip(found.optics, given_.optics, strict=True):
        np.testing.assert_allclose(one.phase_coefficients, other.phase_coefficients, atol=1e-9)
    np.testing.assert_array_equal(found.optics_index, given_.optics_index)
    # A particle's own beam tilt goes before its group's, and makes a group of its own.
    text = path.read_text().replace("_rlnPhaseShift", "_rlnBeamTiltX")
    lines = text.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("000003@"))
    words = lines[place].split()
    column = [line.split()[0] for line in lines if line.startswith("_rln")].index("_rlnBeamTiltX") - sum(
        line.startswith("_rln") for line in lines[: lines.index("data_particles")]
    )
    words[column] = "0.25"
    lines[place] = " ".join(words)
    path.write_text("\n".join(lines) + "\n")
    found = read_relion_star(path)
    assert len(found.optics) == 3
    own = found.optics[found.optics_index[2]].phase_coefficients
    group = found.optics[0]
    tilt = of_beam_tilt(
        np.array([[0.25, 0.0]]), np.array([group.voltage_kV]), np.array([group.spherical_aberration_mm])
    )
    np.testing.assert_allclose(own, np.array(given_.optics[0].phase_coefficients) + tilt[0], rtol=1e-9)
    assert not any(any(group.phase_coefficients) for group in read_relion_star(path, ctf=False).optics)


def distorted(particles: Particles, even: str = "[]", **changes: Any) -> Particles:
    """The same particles seen by a microscope with all aberrations, in a group of its own."""
    of_microscope: dict[str, Any] = {
        "magnification": (1.04, 0.02, -0.03, 0.97),
        "phase_coefficients": tuple(of_odd_zernike(TREFOIL)[0].tolist()),
        "gamma_coefficients": tuple(of_even_zernike(even)[0].tolist()),
    }
    return replace(particles, optics=(replace(particles.optics[0], **of_microscope | changes),))


TETRAFOIL = "[0.5,12,-7,9,150,-90,30,60,-120]"


def test_files_with_even_aberrations_and_magnification(made: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    given_ = distorted(made.particles, TETRAFOIL)
    write_relion_star(given_, path)
    (found,), (expected,) = read_relion_star(path).optics, given_.optics
    assert found.magnification == expected.magnification
    np.testing.assert_allclose(found.gamma_coefficients, expected.gamma_coefficients, atol=1e-9)
    (without,) = read_relion_star(path, ctf=False).optics
    assert without.magnification == expected.magnification
    assert not any(without.gamma_coefficients)


@pytest.fixture(scope="module", params=[32, 31])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """A set that says how it was distorted."""
    folder, box = tmp_path_factory.mktemp("seen"), request.param
    made = simulate(packaged_structure(), folder, 400, box, 6.6, np.inf, seed=3)
    particles = distorted(made.particles, TETRAFOIL)
    images = noise_free_images(forward_model(packaged_structure(), box, 6.6), particles).numpy()
    images += np.random.default_rng(0).normal(0, 0.3 * float(images.std()), images.shape).astype(np.float32)
    with mrcfile.open(made.stack, "r+") as stack:
        stack.set_data(images)
    write_relion_star(particles, made.star)
    return replace(made, particles=particles)


def correlations(values: NDArray[np.float32], made: Simulation) -> NDArray[np.float64]:
    """With the truth, shells 1 to 14."""
    assert made.truth is not None
    return fourier_shell_correlation(values, read_map(made.truth).values)[1:15]


ASPECTS = {
    "magnification": NO_MAGNIFICATION,
    "phase_coefficients": (0.0,) * 6,
    "gamma_coefficients": (0.0,) * 9,
}


def test_a_map_from_distorted_images(seen: Simulation) -> None:
    """Close to the truth; and no aspect may be left out."""

    def linear_map(particles: Particles) -> NDArray[np.float64]:
        observations = Observations.of(ImageSource(particles), 12.0)
        (half,) = accumulate(observations, np.ones(len(particles), np.int8), seed=0, wanted=(1,))
        return correlations(half.linear_map().values, seen)

    found = linear_map(read_relion_star(seen.star))
    assert found.min() > 0.9
    for aspect, none in ASPECTS.items():
        assert (
            linear_map(distorted(seen.particles, TETRAFOIL, **{aspect: none})).mean() < found.mean() - 0.005
        )


def test_losses_of_distorted_images_agree(seen: Simulation) -> None:
    """That of single images is that of the normal equations, whose slices are made up for in another way."""
    particles = read_relion_star(seen.star).subset(slice(0, 60))
    box, rows = particles.box_size_px, np.arange(60)
    observations = Observations.of(ImageSource(particles), 12.0)
    noise = torch.full(((box + 1) // 2,), float(box * box))
    last = 10
    images = next(iter(observations.batches(rows, 60))).images
    loss = ImageLoss(observations, noise[None], last)
    weighted = weigh_slices(
        observations.transform(images, rows),
        observations.ctf_coefficients,
        observations.shifts_px,
        half_plane_weight(1 / noise[: last + 1]),
        1 / (box * 6.6),
    )
    # Of the magnified slices what lies beyond their last shell is to be kept as well.
    equations = NormalEquations.zeros(box, 6.6, last + 2)
    padded = torch.zeros(60, *slice_shape(last + 2))
    padded[:, 2:-2, :-2] = weighted
    insert_slices(equations.accumulator, padded, observations.cameras)
    grid = Grid(box, 6.6, 6.6, (0, 0, 0), (box,) * 3)
    operator = NormalOperator(replace(equations, n_particles=60), grid)
    gaussians = some_gaussians(n=8)
    with torch.no_grad():
        by_equations = float(operator.loss_and_gradient(voxelize_on(gaussians, grid))[0])
    measured = loss.measured(torch.from_numpy(rows), observations.transform(images, rows))
    by_images = float(loss.backward(leaves(gaussians), measured))
    assert by_images == pytest.approx(by_equations, rel=2e-3)


@needs_relion
@pytest.mark.parametrize("seen", [32], indirect=True)  # RELION wants even boxes
def test_relion_sees_the_same_distortions(seen: Simulation) -> None:
    """Its own map from such images is good where the file tells it of them, and worse where not."""

    def relion_map(particles: Particles, name: str) -> float:
        write_relion_star(particles, seen.stack.parent / f"{name}.star")
        command = ["relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf"]
        subprocess.run(command, cwd=seen.stack.parent, check=True, capture_output=True)
        return float(correlations(read_map(seen.stack.parent / f"{name}.mrc").values, seen).mean())

    found = relion_map(seen.particles, "told")
    assert found > 0.97
    for aspect, none in ASPECTS.items():
        assert relion_map(distorted(seen.particles, TETRAFOIL, **{aspect: none}), aspect) < found - 0.005


@pytest.mark.parametrize("box", [32, 31])
def test_phases_are_turned_back(box: int, tmp_path: Path) -> None:
    plain = simulate(packaged_structure(), tmp_path / "plain", 12, box, 6.6, np.inf, seed=3)
    model = forward_model(packaged_structure(), box, 6.6)
    turned = aberrant(plain.particles, TREFOIL, "[]", "[0,0,0,0,900,0]")
    images = noise_free_images(model, turned).numpy()
    straight = noise_free_images(model, plain.particles).numpy()
    assert np.abs(images - straight)[::3].max() > 0.1 * straight.std()

    observed = Observations.of(ImageSource(turned), box * 0.4, normalise=False)
    rows = np.array([7, 0, 1, 2, 11, 3])
    found = observed.transform(images[rows].copy(), rows).numpy()
    expected = np.fft.rfft2(straight[rows])
    inner = slice(0, (box + 1) // 2)  # the Nyquist frequency counts for nothing
    keep = np.abs(np.fft.fftfreq(box, 1 / box)) < box / 2
    error = np.abs(found - expected)[:, keep, inner]
    assert error.max() < 1e-4 * np.abs(expected).max()


def test_more_groups_than_are_kept(made: Simulation) -> None:
    n = MOST_KNOWN_FACTORS + 5
    turned = aberrant(made.particles, *(f"[{i + 1}]" for i in range(n)))
    observed = Observations.of(ImageSource(turned), 12.0)
    rows = np.arange(n)
    images = np.random.default_rng(0).standard_normal((n, 32, 32)).astype(np.float32)
    found = observed.transform(images, rows)
    assert torch.equal(found, observed.transform(images, rows))
    ky = torch.fft.fftfreq(32, 6.6)[:, None]
    expected = torch.fft.rfft2(torch.from_numpy(images)) * torch.polar(
        torch.ones(n, 1, 1), -(torch.arange(n)[:, None, None] + 1.0) * ky
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_aberrations_beyond_anything_possible_are_refused(made: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    write_relion_star(aberrant(made.particles, TREFOIL), path)
    path.write_text(path.read_text().replace("[0.5", "[oops"))
    with pytest.raises(ParticleFileError, match="data_optics row 1, column rlnOddZernike"):
        read_relion_star(path)

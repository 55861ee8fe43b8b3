"""Phases that beam tilt and other antisymmetric aberrations give: read, written, and turned back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError
from gem3d.fit.observations import Observations
from gem3d.optics import MOST_KNOWN_FACTORS, antisymmetric_phase, electron_wavelength_A
from gem3d.particles import ImageSource, Particles, read_relion_star, write_relion_star
from gem3d.particles.relion_aberrations import of_beam_tilt, of_odd_zernike, to_odd_zernike
from gem3d.simulate import Simulation, forward_model, noise_free_images, simulate
from gem3d.structures import packaged_structure

TREFOIL = "[0.5,-0.25,120,-35,80,60]"


def frequencies(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (2, 50))


def phase(
    coefficients: NDArray[np.float64], kx: NDArray[np.float64], ky: NDArray[np.float64]
) -> NDArray[np.float64]:
    return antisymmetric_phase(coefficients.tolist(), torch.from_numpy(kx), torch.from_numpy(ky)).numpy()


def zernike(number: int, kx: NDArray[np.float64], ky: NDArray[np.float64]) -> NDArray[np.float64]:
    """The odd polynomial of this number: sum of (-1)^s (n-s)! / (s! ((n+m)/2-s)! ((n-m)/2-s)!) r^(n-2s)."""
    order = [(n, m) for n in (1, 3, 5) for m in range(-n, n + 1, 2)]
    n, signed = order[number]
    m, r, angle = abs(signed), np.hypot(kx, ky), np.arctan2(ky, kx)
    radial = sum(
        (-1) ** s
        * math.factorial(n - s)
        / math.prod(math.factorial(k) for k in (s, (n + m) // 2 - s, (n - m) // 2 - s))
        * r ** (n - 2 * s)
        for s in range((n - m) // 2 + 1)
    )
    return radial * (np.cos(m * angle) if signed > 0 else np.sin(m * angle))


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

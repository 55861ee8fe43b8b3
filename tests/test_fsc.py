"""FSC, its crossings, and the correction by phase randomisation."""

from __future__ import annotations

import numpy as np
import pytest

from gem3d.assess import (
    fourier_shell_correlation,
    mask_corrected_fsc,
    randomise_phases,
    resolution_at,
    sphere_mask,
)
from gem3d.assess.shells import (
    fourier_transform,
    frequency_radius,
    inverse_fourier_transform,
    shell_index,
    shell_sizes,
)
from gem3d.errors import MapError


def white_noise(seed: int, box_size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box_size,) * 3, dtype=np.float32)


def low_passed_noise(seed: int, box_size: int, width: float) -> np.ndarray:
    transfer = np.exp(-((frequency_radius(box_size) / np.float32(width)) ** 2))
    return inverse_fourier_transform(fourier_transform(white_noise(seed, box_size)) * transfer, box_size)


@pytest.mark.parametrize("box_size", [6, 7])
def test_fsc_equals_a_loop_over_every_frequency(box_size: int):
    a, b = white_noise(1, box_size), white_noise(2, box_size)
    mask = sphere_mask(box_size, 1.0, 4.0, 2.0)
    fa, fb = np.fft.fftn(a * mask), np.fft.fftn(b * mask)
    k = np.rint(np.fft.fftfreq(box_size) * box_size)
    cross, power_a, power_b = np.zeros((3, 2 * box_size))
    for z in range(box_size):
        for y in range(box_size):
            for x in range(box_size):
                shell = round(float(np.sqrt(k[z] ** 2 + k[y] ** 2 + k[x] ** 2)))
                cross[shell] += (fa[z, y, x] * fb[z, y, x].conj()).real
                power_a[shell] += abs(fa[z, y, x]) ** 2
                power_b[shell] += abs(fb[z, y, x]) ** 2
    n_shells = box_size // 2 + 1
    expected = cross[:n_shells] / np.sqrt(power_a * power_b)[:n_shells]
    assert fourier_shell_correlation(a, b, mask) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("box_size", [20, 21])
def test_fsc_of_a_map_with_itself_is_one(box_size: int):
    a = white_noise(3, box_size)
    assert fourier_shell_correlation(a, -2 * a) == pytest.approx(-np.ones(box_size // 2 + 1))
    assert fourier_shell_correlation(a, a, sphere_mask(box_size, 1.0, 12.0)) == pytest.approx(
        np.ones(box_size // 2 + 1)
    )


@pytest.mark.parametrize("box_size", [32, 33])
def test_fsc_of_independent_noise_spreads_as_one_over_root_n(box_size: int):
    """With n real degrees of freedom in a shell: standard deviation 1 / sqrt(n)."""
    curves = np.array(
        [
            fourier_shell_correlation(white_noise(2 * i, box_size), white_noise(2 * i + 1, box_size))
            for i in range(60)
        ]
    )[:, 4:]
    scaled = curves * np.sqrt(shell_sizes(box_size)[4:])
    assert abs(scaled.mean()) < 0.15
    assert scaled.std() == pytest.approx(1, abs=0.1)


def test_fsc_takes_any_byte_order_and_read_only_maps_and_empty_shells():
    a = white_noise(4, 12)
    swapped = a.astype(">f4")
    swapped.setflags(write=False)
    assert fourier_shell_correlation(swapped, a) == pytest.approx(np.ones(7))
    assert not fourier_shell_correlation(np.zeros_like(a), a).any()


def test_fsc_refuses_maps_that_do_not_fit():
    with pytest.raises(MapError, match="b has shape"):
        fourier_shell_correlation(np.zeros((8, 8, 8), np.float32), np.zeros((9, 9, 9), np.float32))
    with pytest.raises(MapError, match="cubic"):
        fourier_shell_correlation(np.zeros((8, 8, 9), np.float32), np.zeros((8, 8, 9), np.float32))


def test_crossing_is_interpolated_in_shell_index():
    curve = np.array([1.0, 0.9, 0.5, 0.1, 0.4, 0.0])
    crossing = resolution_at(curve, 0.3, pixel_size_A=2.0, box_size=10)
    assert crossing.shell == pytest.approx(2.5)
    assert crossing.resolution_A == pytest.approx(20 / 2.5)
    assert crossing.reason is None


def test_crossing_says_why_there_is_none():
    never = resolution_at(np.ones(6), 0.143, pixel_size_A=1.6, box_size=10)
    assert (never.resolution_A, never.shell) == (None, None)
    assert never.reason == "not below 0.143 up to Nyquist (3.20 A)"
    cut = resolution_at(np.ones(4), 0.5, pixel_size_A=1.5, box_size=10)
    assert cut.reason == "not below 0.5 up to the last shell (5.00 A)"
    low = resolution_at(np.array([1.0, 0.1, 0.9, 0.0]), 0.143, pixel_size_A=1.0, box_size=6)
    assert low.resolution_A is None
    assert low.reason == "below 0.143 from the first shell judged (6.0 A) on"
    assert resolution_at(np.ones(1), 0.143, pixel_size_A=1.0, box_size=1).reason == "no shell to judge"


def test_crossing_ignores_the_mean_of_the_map():
    assert resolution_at(np.array([-1.0, 1.0, 0.0]), 0.5, 1.0, 4).shell == pytest.approx(1.5)


@pytest.mark.parametrize("box_size", [16, 17])
def test_phase_randomisation_keeps_amplitudes_low_shells_and_symmetry(box_size: int):
    volume = white_noise(5, box_size) + 1
    randomised = randomise_phases(volume, 5, seed=1)
    before, after = np.fft.fftn(volume), np.fft.fftn(randomised)
    assert np.abs(after) == pytest.approx(np.abs(before), abs=1e-3)
    half = slice(0, box_size // 2 + 1)
    low = shell_index(box_size) < 5
    assert after[:, :, half][low] == pytest.approx(before[:, :, half][low], abs=1e-3)
    # Hermitian: had the spectrum not been, the inverse transform would have changed its amplitudes (above).
    phases = np.angle(after / before)[:, :, half][~low]
    assert abs(np.exp(1j * phases).mean()) < 0.1
    assert np.array_equal(randomised, randomise_phases(volume, 5, seed=1))
    assert not np.allclose(randomised, randomise_phases(volume, 5, seed=2))


def test_correction_undoes_what_a_tight_mask_fakes():
    box_size = 48
    signal = low_passed_noise(6, box_size, 5.0)
    signal /= signal.std()
    halves = [signal + 0.3 * white_noise(7 + i, box_size) for i in range(2)]
    hard = (sphere_mask(box_size, 1.0, 10.0, 0.0) > 0.5).astype(np.float32)
    curves = mask_corrected_fsc(*halves, hard, 1.0)
    k_r = curves.first_randomised_shell
    assert k_r == int(np.flatnonzero(curves.unmasked[1:] < 0.8)[0]) + 1
    beyond = slice(k_r + 2, None)
    assert np.array_equal(curves.corrected[: k_r + 2], curves.masked[: k_r + 2])
    masked, randomised = curves.masked[beyond], curves.randomised[beyond]
    assert curves.corrected[beyond] == pytest.approx((masked - randomised) / (1 - randomised))
    assert curves.randomised[beyond].max() > 0.1
    assert np.abs(curves.corrected[beyond]).mean() < np.abs(curves.masked[beyond]).mean()
    assert np.array_equal(curves.corrected, mask_corrected_fsc(*halves, hard, 1.0).corrected)


def test_flags_a_mask_that_fakes_correlation_at_the_resolution():
    box_size = 48
    signal = low_passed_noise(6, box_size, 5.0)
    signal *= 5 / signal.std()
    halves = [signal + white_noise(7 + i, box_size) for i in range(2)]
    tight = (sphere_mask(box_size, 1.0, 12.0, 0.0) > 0.5).astype(np.float32)
    assert mask_corrected_fsc(*halves, tight, 1.0).mask_too_tight
    soft = sphere_mask(box_size, 1.0, 26.0, 12.0)
    assert not mask_corrected_fsc(*halves, soft, 1.0).mask_too_tight


def test_nothing_is_corrected_where_the_unmasked_fsc_stays_high():
    a = white_noise(9, 16)
    curves = mask_corrected_fsc(a, a, sphere_mask(16, 1.0, 8.0, 4.0), 1.0)
    assert curves.first_randomised_shell is None
    assert np.array_equal(curves.corrected, curves.masked)
    assert "not below" in curves.resolution.reason

"""B factor from the Guinier plot; sharpening and weighting."""

from __future__ import annotations

import numpy as np
import pytest

from gem3d.assess import guinier_bfactor, sharpen_and_weight
from gem3d.assess.shells import fourier_transform, frequency_radius, inverse_fourier_transform

PIXEL_SIZE_A = 1.2


def decaying_map(box_size: int, bfactor_A2: float) -> np.ndarray:
    """A point at the centre, flat in amplitude, times exp(-B k^2 / 4)."""
    point = np.zeros((box_size,) * 3, np.float32)
    point[box_size // 2, box_size // 2, box_size // 2] = 1000
    frequency_per_A = frequency_radius(box_size) / (box_size * PIXEL_SIZE_A)
    decay = np.exp(-bfactor_A2 / 4 * frequency_per_A**2).astype(np.float32)
    return inverse_fourier_transform(fourier_transform(point) * decay, box_size)


@pytest.mark.parametrize("box_size", [48, 51])
@pytest.mark.parametrize("bfactor_A2", [80.0, -30.0])
def test_guinier_recovers_a_known_bfactor(box_size: int, bfactor_A2: float):
    fit = guinier_bfactor(decaying_map(box_size, bfactor_A2), PIXEL_SIZE_A, high_A=3.0)
    assert fit.bfactor_A2 == pytest.approx(bfactor_A2, rel=0.02)
    assert fit.intercept == pytest.approx(np.log(1000), rel=0.01)
    assert (fit.low_A, fit.high_A, fit.reason) == (10.0, 3.0, None)


def test_guinier_sees_the_weights():
    volume = decaying_map(48, 50.0)
    k = np.arange(25) / (48 * PIXEL_SIZE_A)
    fit = guinier_bfactor(volume, PIXEL_SIZE_A, high_A=3.0, shell_weights=np.exp(-40 / 4 * k**2))
    assert fit.bfactor_A2 == pytest.approx(90.0, rel=0.02)


def test_guinier_declines_a_short_range():
    fit = guinier_bfactor(decaying_map(48, 50.0), PIXEL_SIZE_A, high_A=9.0)
    assert fit.bfactor_A2 is None
    assert fit.n_shells < 5
    assert fit.reason.startswith("only ")
    assert guinier_bfactor(np.zeros((16,) * 3, np.float32), PIXEL_SIZE_A, high_A=3.0).bfactor_A2 is None


@pytest.mark.parametrize("box_size", [48, 51])
def test_sharpening_undoes_the_decay(box_size: int):
    sharp = sharpen_and_weight(decaying_map(box_size, 60.0), PIXEL_SIZE_A, 60.0)
    assert np.abs(fourier_transform(sharp)) == pytest.approx(1000, rel=1e-3)


def test_weights_are_interpolated_and_end_at_the_last_shell():
    volume = decaying_map(48, 0.0)
    weights = np.zeros(25)
    weights[10] = 1.0
    amplitude = np.abs(
        fourier_transform(sharpen_and_weight(volume, PIXEL_SIZE_A, None, shell_weights=weights))
    )
    expected = 1000 * np.clip(1 - np.abs(frequency_radius(48) - 10), 0, 1)
    # The factor is tabulated at sixteenths of a Fourier pixel, exact for a function linear between shells.
    assert amplitude == pytest.approx(expected, abs=0.1)
    ones = sharpen_and_weight(volume, PIXEL_SIZE_A, None, shell_weights=np.ones(25))
    corner = np.abs(fourier_transform(ones))[24, 24, 24]
    assert corner < 0.1


def test_low_pass_is_one_half_at_the_resolution():
    volume = decaying_map(48, 0.0)
    filtered = sharpen_and_weight(volume, PIXEL_SIZE_A, 500.0, resolution_A=48 * PIXEL_SIZE_A / 12)
    amplitude = np.abs(fourier_transform(filtered)).astype(np.float64)
    k = np.arange(25) / (48 * PIXEL_SIZE_A)
    along_x = amplitude[0, 0] / np.exp(500.0 / 4 * k**2) / 1000
    assert along_x[:10] == pytest.approx(np.ones(10), rel=1e-3)
    assert along_x[12] == pytest.approx(0.5, rel=0.01)
    assert along_x[15:] == pytest.approx(np.zeros(10), abs=1e-3)
    assert np.isfinite(sharpen_and_weight(volume, PIXEL_SIZE_A, 5000.0, resolution_A=20.0)).all()

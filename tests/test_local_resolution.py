"""Local resolution and local filtering, against maps whose parts are known to end at different resolutions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gem3d.assess import sphere_mask
from gem3d.assess.local_curves import LocalCurves, local_curves
from gem3d.assess.local_filter import filter_locally
from gem3d.assess.local_resolution import local_resolution, window_for
from gem3d.assess.shells import fourier_transform, frequency_radius, inverse_fourier_transform

PIXEL_SIZE_A = 1.6
FINE_A, COARSE_A = 4.0, 8.0
Volume = NDArray[np.float32]


def low_passed(volume: Volume, resolution_A: float) -> Volume:
    """Nothing finer than a resolution, by a sharp edge."""
    box_size = len(volume)
    kept = frequency_radius(box_size) <= box_size * PIXEL_SIZE_A / resolution_A
    return inverse_fourier_transform(fourier_transform(volume) * kept, box_size)


def fading(volume: Volume, bfactor_A2: float) -> Volume:
    """Amplitudes as those of a protein: a strong rise below 10 A, and a decay."""
    box_size = len(volume)
    k_per_A = frequency_radius(box_size) / (box_size * PIXEL_SIZE_A)
    factor = np.exp(-bfactor_A2 / 4 * k_per_A**2) * (1 + 10 * np.exp(-((k_per_A * 20) ** 2)))
    return inverse_fourier_transform(fourier_transform(volume) * factor.astype(np.float32), box_size)


def two_halves(box_size: int, noise: float, seed: int = 3) -> tuple[Volume, list[Volume], Volume, Volume]:
    """Truth that ends at 4 A where x < 0 and at 8 A where x > 0, noisy half maps, mask, and the side of x."""
    rng = np.random.default_rng(seed)
    mask = sphere_mask(box_size, PIXEL_SIZE_A, 0.6 * box_size * PIXEL_SIZE_A, 8.0)
    density = fading(rng.standard_normal((box_size,) * 3, dtype=np.float32), 60.0)
    density /= density.std()
    x = (np.arange(box_size) - box_size // 2) * np.ones((box_size, box_size, 1))
    left = np.clip(0.5 - x / 4, 0, 1).astype(np.float32)
    truth = (low_passed(density, FINE_A) * left + low_passed(density, COARSE_A) * (1 - left)) * mask
    halves = [truth + noise * rng.standard_normal(truth.shape, dtype=np.float32) for _ in range(2)]
    return truth.astype(np.float32), halves, mask, x


def curves_of(halves: list[Volume], mask: Volume, last_shell: int, **more: object) -> LocalCurves:
    window_A = window_for(FINE_A, 0.143, PIXEL_SIZE_A, len(mask))
    return local_curves(*halves, mask, PIXEL_SIZE_A, window_A=window_A, last_shell=last_shell, **more)


@pytest.fixture(scope="module", params=[128, 121])
def known(request: pytest.FixtureRequest) -> tuple[Volume, list[Volume], Volume, Volume, LocalCurves]:
    truth, halves, mask, x = two_halves(request.param, 0.4)
    return truth, halves, mask, x, curves_of(halves, mask, request.param // 2 - 1)


def test_both_halves_of_a_map_show_their_own_resolution(known):
    _, _, mask, x, curves = known
    found = local_resolution(curves, mask, PIXEL_SIZE_A)
    # Away from the seam by nearly as much as the window is wide.
    reach = 0.8 * found.window_A / PIXEL_SIZE_A
    fine, coarse = (found.values_A[(mask > 0.9) & side] for side in (x < -reach, x > reach))
    assert np.median(fine) == pytest.approx(FINE_A, rel=0.15)
    assert np.median(coarse) == pytest.approx(COARSE_A, rel=0.15)
    assert np.percentile(coarse, 10) > np.percentile(fine, 90)
    assert found.quartiles_A[0] < found.median_A < found.quartiles_A[1]
    assert found.values_A.shape == mask.shape


def test_values_stay_within_their_limits(known):
    _, _, mask, _, curves = known
    found = local_resolution(curves, mask, PIXEL_SIZE_A)
    assert found.finest_A >= 2 * PIXEL_SIZE_A
    assert found.values_A.min() >= found.finest_A * (1 - 1e-6)
    assert found.values_A.max() <= found.coarsest_A * (1 + 1e-6)
    last = len(mask) // 4
    short = local_resolution(curves_of(known[1], mask, last), mask, PIXEL_SIZE_A)
    assert short.values_A.min() >= len(mask) * PIXEL_SIZE_A / last * (1 - 1e-6)


def test_noise_alone_has_the_coarsest_value():
    rng = np.random.default_rng(4)
    halves = [rng.standard_normal((64,) * 3, dtype=np.float32) for _ in range(2)]
    mask = sphere_mask(64, PIXEL_SIZE_A, 60.0, 8.0)
    found = local_resolution(curves_of(halves, mask, 31), mask, PIXEL_SIZE_A)
    assert found.median_A == pytest.approx(found.coarsest_A)
    assert found.quartiles_A[0] > 0.7 * found.coarsest_A


def test_a_prior_does_not_make_the_map_finer():
    """Half maps whose noise beyond 8 A is that of both: the linear ones tell it from signal."""
    box_size = 80
    rng = np.random.default_rng(5)
    mask = sphere_mask(box_size, PIXEL_SIZE_A, 70.0, 8.0)
    truth = low_passed(rng.standard_normal((box_size,) * 3, dtype=np.float32) * mask, COARSE_A)
    linear = [truth + 0.1 * rng.standard_normal(truth.shape, dtype=np.float32) for _ in range(2)]
    invented = 0.3 * rng.standard_normal(truth.shape, dtype=np.float32) * mask
    halves = [b + invented - low_passed(invented, COARSE_A) for b in linear]
    naive = local_resolution(curves_of(halves, mask, 39), mask, PIXEL_SIZE_A)
    honest = local_resolution(curves_of(halves, mask, 39, linear=tuple(linear)), mask, PIXEL_SIZE_A)
    assert naive.median_A < 4.5
    assert honest.median_A == pytest.approx(COARSE_A, rel=0.15)


def against_truth(volume: Volume, truth: Volume, where: NDArray[np.bool_]) -> float:
    return float(np.corrcoef(volume[where], truth[where])[0, 1])


def test_local_filter_keeps_detail_and_drops_noise():
    truth, halves, mask, x = two_halves(80, 0.3)
    mean = (halves[0] + halves[1]) / 2
    curves = curves_of(halves, mask, 39)
    filtered = filter_locally(mean, mask, curves, PIXEL_SIZE_A, None)
    found = local_resolution(curves, mask, PIXEL_SIZE_A)
    one_cutoff = low_passed(mean, float(np.median(found.values_A[(mask > 0.9) & (x < -12)])))
    fine, coarse = (mask > 0.9) & (x < -12), (mask > 0.9) & (x > 12)
    for where in (fine, coarse):
        assert against_truth(filtered, truth, where) > against_truth(one_cutoff, truth, where)
    # A filter to the weight that regression gives has the scale of the truth.
    scale = (filtered[fine] @ truth[fine]) / (truth[fine] @ truth[fine])
    assert scale == pytest.approx(1, abs=0.15)


def test_bands_of_the_filter_sum_to_the_map():
    truth, halves, mask, _ = two_halves(64, 0.0)
    curves = curves_of(halves, mask, 31)
    everything = LocalCurves(
        curves.centres_shells,
        curves.window_A,
        curves.positions,
        np.ones_like(curves.calibrated),
        curves.significance,
        np.ones_like(curves.weight),
        curves.inside,
    )
    expected = low_passed(truth, 64 * PIXEL_SIZE_A / 28)
    found = filter_locally(expected, mask, everything, PIXEL_SIZE_A, None)
    assert found == pytest.approx(expected * mask, abs=1e-4)


def test_window_follows_the_resolution_and_the_noise_within_limits() -> None:
    assert window_for(5.0, 0.143, 1.6, 128) == pytest.approx(30.0)
    assert 30.0 < window_for(5.0, 0.06, 1.6, 128) < 50.0
    assert window_for(5.0, 0.001, 1.6, 128) == pytest.approx(50.0)
    assert window_for(2.0, 0.143, 0.8, 256) == 25.0
    assert window_for(9.0, 0.143, 1.6, 60) == pytest.approx(24.0)

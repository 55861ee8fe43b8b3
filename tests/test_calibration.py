"""The calibrated FSC against a known truth, its error estimate, its validity and what it claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gem3d.assess import (
    CalibratedFSC,
    automatic_mask,
    band_passed_products,
    calibrated_fsc,
    effective_number,
    fsc_rows,
    mask_corrected_fsc,
    resolution_at,
    sphere_mask,
)
from gem3d.assess.band_pass import effective_numbers, shell_band
from gem3d.assess.claim import ResolutionClaim, claim_resolution
from gem3d.assess.shells import fourier_transform, frequency_radius, inverse_fourier_transform, shell_index
from gem3d.assess.table import FSC_COLUMNS
from gem3d.errors import MapError

PIXEL_SIZE_A = 1.5
Volume = NDArray[np.float32]


def radial_filter(volume: Volume, transfer: NDArray[np.floating]) -> Volume:
    """Multiply the transform by `transfer`, tabulated per Fourier pixel of radius."""
    box_size = volume.shape[0]
    factor = np.interp(frequency_radius(box_size), np.arange(len(transfer)), transfer).astype(np.float32)
    return inverse_fourier_transform(fourier_transform(volume) * factor, box_size)


def white_noise(rng: np.random.Generator, box_size: int) -> Volume:
    return rng.standard_normal((box_size,) * 3, dtype=np.float32)


def particle(rng: np.random.Generator, box_size: int) -> Volume:
    """Random density, amplitudes falling with frequency, inside a lumpy blob about 0.5 of the box wide."""
    k = np.arange(box_size, dtype=np.float64)
    density = radial_filter(
        white_noise(rng, box_size), np.exp(-((k / (0.3 * box_size)) ** 2)) / (1 + 0.1 * k)
    )
    lumps = radial_filter(white_noise(rng, box_size), np.exp(-((k / 4) ** 2)))
    axis = np.arange(box_size) - box_size // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2) / box_size
    blob = 1 / (1 + np.exp((radius - 0.24 - 0.04 * lumps / lumps.std()) * 80))
    return ((density / density.std() + 1) * blob).astype(np.float32)


def coloured_noise(rng: np.random.Generator, box_size: int, level: float) -> Volume:
    """Noise rising at both ends of the spectrum, as that of a CTF-corrected map does."""
    k = np.arange(box_size, dtype=np.float64)
    return level * radial_filter(white_noise(rng, box_size), 0.6 + (k / box_size) ** 2 * 4 + 1 / (1 + k))


def denoise(linear: Volume, mask: Volume, signal_to_noise: NDArray[np.floating]) -> Volume:
    """A nonlinear prior: Wiener filter, mask, and shrinking of small densities, of one half map alone."""
    wiener = radial_filter(linear, signal_to_noise / (1 + signal_to_noise)) * mask
    threshold = 0.5 * wiener[mask > 0.5].std()
    return np.sign(wiener) * np.maximum(np.abs(wiener) - threshold, 0) + np.float32(0.3) * wiener


def half_maps(seed: int, box_size: int, level: float) -> tuple[Volume, list[Volume], list[Volume], Volume]:
    """Truth, Gaussian-like half maps, linear half maps, mask drawn from the linear maps."""
    rng = np.random.default_rng(seed)
    truth = particle(rng, box_size)
    linear = [truth + coloured_noise(rng, box_size, level) for _ in range(2)]
    mask = automatic_mask((linear[0] + linear[1]) / 2, PIXEL_SIZE_A)
    k = np.arange(box_size, dtype=np.float64)
    ratio = 30 * np.exp(-((k / (0.14 * box_size)) ** 2))
    return truth, [denoise(b, mask, ratio) for b in linear], linear, mask


def true_correlations(truth: Volume, maps: list[Volume], mask: Volume) -> NDArray[np.float64]:
    """Correlation of each map with the truth per shell, `(n, n_shells)`, masked after the shell filter."""
    inner = band_passed_products([truth, *maps], mask**2).inner_products
    norm = np.sqrt(np.einsum("sii->si", inner))
    return (inner[:, 0, 1:] / (norm[:, :1] * norm[:, 1:])).T


@pytest.fixture(scope="module")
def known() -> tuple[Volume, list[Volume], list[Volume], Volume, CalibratedFSC]:
    truth, gaussian, linear, mask = half_maps(3, 80, 2.0)
    return truth, gaussian, linear, mask, calibrated_fsc(*gaussian, *linear, mask, pixel_size_A=PIXEL_SIZE_A)


def test_estimates_the_product_of_correlations_with_the_truth(known):
    truth, gaussian, _, mask, result = known
    actual = true_correlations(truth, gaussian, mask).prod(axis=0)
    valid = slice(result.first_tested_shell, result.valid_up_to_shell + 1)
    assert result.valid_up_to_shell > 15
    assert actual[valid].min() < 0.5
    error = result.smoothed[valid] - actual[valid]
    assert np.abs(error).mean() <= 0.03
    # What it is for: the ordinary FSC of the maps with a prior is further off, and too high.
    assert (result.fsc_gaussian[valid] - actual[valid]).mean() > 2 * abs(error.mean())
    # The stated error is of the size of the error made.
    assert 0.3 < np.sqrt(np.mean((error / result.stderr[valid]) ** 2)) < 2


def test_final_map_correlation_is_that_of_the_mean_map(known):
    truth, gaussian, _, mask, result = known
    mean = (gaussian[0] + gaussian[1]) / 2
    actual = true_correlations(truth, [mean], mask)[0]
    valid = slice(result.first_tested_shell, result.valid_up_to_shell + 1)
    assert np.abs(result.final_map_correlation[valid] - actual[valid]).mean() < 0.03
    assert result.final_map_correlation.max() <= 1


def test_weights_are_the_regression_of_the_truth(known):
    truth, gaussian, linear, mask, result = known
    mean = (gaussian[0] + gaussian[1]) / 2
    inner = band_passed_products([truth, gaussian[0], mean], mask**2).inner_products
    valid = slice(result.first_tested_shell, result.valid_up_to_shell + 1)
    half, final = inner[:, 0, 1] / inner[:, 1, 1], inner[:, 0, 2] / inner[:, 2, 2]
    assert np.abs(result.regression_weight - np.clip(half, 0, 1.5))[valid].mean() < 0.05
    assert np.abs(result.final_map_weight - np.clip(final, 0, 1.5))[valid].mean() < 0.05
    assert np.all(result.regression_weight[result.valid_up_to_shell + 1 :] == 0)
    # A final map at half the scale needs twice the weight.
    scaled = calibrated_fsc(*gaussian, *linear, mask, pixel_size_A=PIXEL_SIZE_A, final_map=mean / 2)
    small = result.final_map_weight < 0.7
    assert scaled.final_map_weight[small] == pytest.approx(2 * result.final_map_weight[small], rel=1e-4)
    # One that is smoother needs more in each shell.
    spectrum = fourier_transform(mean) * np.exp(-((frequency_radius(len(mean)) / len(mean) / 0.4) ** 2))
    smooth = inverse_fourier_transform(spectrum.astype(np.complex64), len(mean))
    inner = band_passed_products([truth, smooth], mask**2).inner_products
    smoother = calibrated_fsc(*gaussian, *linear, mask, pixel_size_A=PIXEL_SIZE_A, final_map=smooth)
    expected = np.clip(inner[:, 0, 1] / inner[:, 1, 1], 0, 1.5)
    assert np.abs(smoother.final_map_weight - expected)[valid].mean() < 0.05


def test_equals_the_band_passed_fsc_without_a_prior(known):
    _, _, linear, mask, _ = known
    result = calibrated_fsc(*linear, *linear, mask, pixel_size_A=PIXEL_SIZE_A)
    positive = result.fsc_linear > 0
    assert result.raw[positive] == pytest.approx(result.fsc_linear[positive], abs=1e-6)
    assert np.all(result.raw[~positive] == 0)
    # The stderr is then that of an ordinary FSC, (1 - F) / sqrt(2 n), plus what remains at F = 0.
    raw = result.stderr[3:8] / ((1 - result.raw) / np.sqrt(2 * result.n_effective))[3:8]
    assert raw == pytest.approx(np.ones(5), rel=0.05)


@pytest.mark.parametrize("drawn_from_noise", [False, True])
def test_pure_noise_claims_nothing(drawn_from_noise: bool):
    box_size = 48
    k = np.arange(box_size, dtype=np.float64)
    smooth = np.exp(-((k / 5) ** 2))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        linear = [coloured_noise(rng, box_size, 1.0) for _ in range(2)]
        total = linear[0] + linear[1]
        if drawn_from_noise:
            low = radial_filter(total, smooth)
            mask = np.clip((low / low.std() - 0.8) * 2, 0, 1).astype(np.float32)
        else:
            mask = automatic_mask(total, PIXEL_SIZE_A)
        gaussian = [denoise(b, mask, 5 * smooth) for b in linear]
        result = calibrated_fsc(*gaussian, *linear, mask, pixel_size_A=PIXEL_SIZE_A)
        assert result.claim.kind == "none", seed
        assert result.claim.resolution_A is None
        assert result.claim.estimate_A is None
        assert result.claim.reason
        assert not result.final_map_weight.any()


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_claims_the_cutoff_of_a_band_limited_signal(noise: float):
    """A cliff is the worst case for smoothing, which must not carry the crossing outwards."""
    box_size, cutoff = 64, 18
    rng = np.random.default_rng(7)
    k = np.arange(box_size, dtype=np.float64)
    truth = radial_filter(particle(rng, box_size), 1 / (1 + np.exp((k - cutoff) * 4)))
    linear = [truth + np.float32(noise) * white_noise(rng, box_size) for _ in range(2)]
    mask = automatic_mask(linear[0] + linear[1], PIXEL_SIZE_A)
    gaussian = [denoise(b, mask, np.where(k < cutoff + 3, 20.0, 0.1)) for b in linear]
    claim = calibrated_fsc(*gaussian, *linear, mask, pixel_size_A=PIXEL_SIZE_A).claim
    actual = true_correlations(truth, gaussian, mask).prod(axis=0)
    true_crossing = resolution_at(actual, 0.143, PIXEL_SIZE_A, box_size)
    assert claim.kind == "crossing"
    assert claim.resolution_A == pytest.approx(true_crossing.resolution_A, rel=0.03)
    assert abs(box_size * PIXEL_SIZE_A / claim.resolution_A - cutoff) < 2  # the band filter widens the edge
    low_A, _ = claim.interval_A
    assert low_A >= claim.resolution_A


def test_perfect_maps_end_at_the_last_valid_shell():
    rng = np.random.default_rng(8)
    truth = radial_filter(white_noise(rng, 48), np.ones(48))
    maps = [truth + 0.3 * white_noise(rng, 48) for _ in range(2)]
    claim = calibrated_fsc(*maps, *maps, None, pixel_size_A=PIXEL_SIZE_A).claim
    assert claim.kind == "last valid shell"
    assert claim.resolution_A == pytest.approx(2 * PIXEL_SIZE_A)
    assert claim.reason == "not below 0.143 up to 3.00 A, where the data end"


def test_the_last_shell_of_the_data_claims_nothing():
    rng = np.random.default_rng(8)
    truth = white_noise(rng, 48)
    # With a prior the maps go on where the data end.
    with_prior = [truth + 0.3 * white_noise(rng, 48) for _ in range(2)]
    last = 15
    linear = [radial_filter(m, (np.arange(48) <= last).astype(float)) for m in with_prior]
    found = calibrated_fsc(*with_prior, *linear, None, pixel_size_A=PIXEL_SIZE_A, last_shell=last)
    assert len(found.raw) == last + 1
    assert found.valid_up_to_shell == last - 1
    assert found.claim.resolution_A == pytest.approx(48 * PIXEL_SIZE_A / (last - 1))
    assert found.claim.reason.endswith("where the data end")


def claim_of(curve: list[float], stderr: float, valid_up_to_shell: int | None) -> ResolutionClaim:
    values = np.array(curve)
    return claim_resolution(
        values,
        np.full_like(values, stderr),
        first_shell=1,
        valid_up_to_shell=valid_up_to_shell,
        last_tested_shell=len(curve) - 1,
        threshold=0.143,
        pixel_size_A=1.0,
        box_size=2 * len(curve) - 2,
    )


def test_claim_rule():
    falling = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.7, 0.2, 0.05, 0.0]
    sharp = claim_of(falling, 0.01, 10)
    assert sharp.kind == "crossing"
    assert sharp.resolution_A == pytest.approx(20 / (8 + (0.2 - 0.143) / 0.15))
    assert sharp.interval_A[0] > sharp.resolution_A > sharp.interval_A[1]
    wide = claim_of(falling, 0.2, 10)
    assert (wide.kind, wide.resolution_A) == ("crossing", None)
    assert wide.estimate_A == pytest.approx(sharp.resolution_A)
    assert "too wide" in wide.reason
    ends = claim_of(falling, 0.01, 7)
    assert (ends.kind, ends.resolution_A) == ("last valid shell", pytest.approx(20 / 7))
    assert ends.reason.startswith("not below 0.143 up to 2.86 A")
    low = claim_of([1.0, 0.1, 0.1, 0.0], 0.01, 3)
    assert (low.kind, low.resolution_A) == ("none", None)
    assert "below 0.143 from the first shell" in low.reason
    assert "do not correlate" in claim_of(falling, 0.01, None).reason


def test_a_mask_of_one_voxel_claims_nothing():
    rng = np.random.default_rng(2)
    maps = [white_noise(rng, 16) for _ in range(2)]
    mask = np.zeros((16,) * 3, dtype=np.float32)
    assert calibrated_fsc(*maps, *maps, mask, pixel_size_A=1.0).claim.kind == "none"
    mask[8, 8, 8] = 1
    claim = calibrated_fsc(*maps, *maps, mask, pixel_size_A=1.0).claim
    assert "too few independent voxels" in claim.reason


@pytest.mark.parametrize("box_size", [16, 21])
def test_effective_number_without_mask_is_half_the_shell(box_size: int):
    weight = np.ones((box_size,) * 3, dtype=np.float32)
    k = np.fft.fftfreq(box_size, 1 / box_size)
    whole = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2))
    for shell in (2, 5, box_size // 2):
        indicator = (shell_index(box_size) == shell).astype(np.float32)
        expected = np.count_nonzero(whole == shell) / 2
        assert effective_number(weight, indicator) == pytest.approx(expected, rel=1e-4)


def test_null_spread_is_that_of_the_effective_number():
    box_size, n_maps = 32, 24
    rng = np.random.default_rng(5)
    mask = sphere_mask(box_size, 1.0, 14.0, 4.0)
    maps = [white_noise(rng, box_size) for _ in range(n_maps)]
    products = band_passed_products(maps, mask**2)
    inner = products.inner_products
    norm = np.sqrt(np.einsum("sii->si", inner))
    pairs = np.triu_indices(n_maps, 1)
    fsc = (inner / (norm[:, :, None] * norm[:, None, :]))[:, pairs[0], pairs[1]]
    measured = np.sqrt((fsc**2).mean(axis=1))[5:15]
    expected = 1 / np.sqrt(2 * products.n_effective[5:15])
    assert np.abs(measured / expected - 1).max() < 0.2
    assert abs((measured / expected).mean() - 1) < 0.05


@pytest.mark.parametrize("diameter", [0.4, 0.8])
@pytest.mark.parametrize("box_size", [40, 45])
def test_small_grids_give_the_result_of_the_full_grid(box_size: int, diameter: float):
    rng = np.random.default_rng(9)
    truth = particle(rng, box_size)
    maps = [truth + 0.5 * white_noise(rng, box_size) for _ in range(3)]
    weight = sphere_mask(box_size, 1.0, diameter * box_size, 6.0) ** 2
    weight[:, : box_size // 3] = 0  # off the centre
    fast, full = band_passed_products(maps, weight), band_passed_products(maps, weight, full_grid=True)
    norm = np.sqrt(np.einsum("sii->si", full.inner_products))
    scale = norm[:, :, None] * norm[:, None, :]
    assert np.abs((fast.inner_products - full.inner_products) / scale).max() < 1e-3


@pytest.mark.parametrize("box_size", [40, 45])
def test_effective_numbers_are_those_of_a_sum_over_pixels(box_size: int):
    weight = sphere_mask(box_size, 1.0, 0.6 * box_size, 6.0)
    weight[: box_size // 2] *= 0.3
    radius = torch.from_numpy(frequency_radius(box_size))
    found = effective_numbers(weight, box_size // 2 + 1)
    for shell in (0, 2, 7, 8, 12, 17, box_size // 2):
        expected = effective_number(weight, (shell_band(shell)(radius) ** 2).numpy())
        assert found[shell] == pytest.approx(expected, rel=0.05)


def test_full_grid_is_filter_then_mask():
    """Against float64 numpy, written out."""
    box_size, shell = 20, 4
    rng = np.random.default_rng(11)
    a, b = white_noise(rng, box_size), white_noise(rng, box_size)
    weight = sphere_mask(box_size, 1.0, 10.0, 4.0)
    k = np.fft.fftfreq(box_size, 1 / box_size)
    distance = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2) - shell
    band = np.where(np.abs(distance) <= 3, np.exp(-(distance**2) / (2 * 0.7**2)), 0)
    band[0, 0, 0] = 0
    fields = [np.fft.ifftn(np.fft.fftn(x.astype(np.float64)) * band).real for x in (a, b)]
    expected = (weight * fields[0] * fields[1]).mean()
    products = band_passed_products([a, b], weight, full_grid=True)
    assert products.inner_products[shell, 0, 1] == pytest.approx(expected, abs=1e-6)
    half_band = band[:, :, : box_size // 2 + 1]
    assert products.n_effective[shell] == pytest.approx(effective_number(weight, half_band**2), rel=1e-4)


def test_table_is_empty_beyond_validity(known):
    _, gaussian, _, mask, result = known
    curves = mask_corrected_fsc(*gaussian, mask, PIXEL_SIZE_A)
    rows = fsc_rows(curves, result.fsc_linear, result, pixel_size_A=PIXEL_SIZE_A, box_size=80)
    assert len(rows) == 41
    assert tuple(rows[0]) == FSC_COLUMNS
    assert rows[0]["resolution_A"] is None
    assert rows[10]["resolution_A"] == pytest.approx(12.0)
    assert rows[10]["frequency_per_A"] == pytest.approx(1 / 12)
    filled = [row["shell"] for row in rows if row["fsc_calibrated"] is not None]
    assert filled == list(range(result.valid_up_to_shell + 1))
    without = fsc_rows(curves, result.fsc_linear, None, pixel_size_A=PIXEL_SIZE_A, box_size=80)
    assert all(row["fsc_calibrated"] is None for row in without)


def test_refuses_maps_that_do_not_fit():
    a, b = np.zeros((8, 8, 8), np.float32), np.zeros((10, 10, 10), np.float32)
    with pytest.raises(MapError, match="linear_half2 has shape"):
        calibrated_fsc(a, a, a, b, None, pixel_size_A=1.0)
    with pytest.raises(MapError, match="cubic"):
        calibrated_fsc(a[:4], a, a, a, None, pixel_size_A=1.0)
    with pytest.raises(MapError, match="NaN"):
        calibrated_fsc(a, a, a, a * np.float32(np.nan), None, pixel_size_A=1.0)

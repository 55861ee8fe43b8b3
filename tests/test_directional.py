"""Directional FSC, its cones, and the correlation of central slices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gem3d.assess import fourier_shell_correlation, resolution_at, sphere_mask
from gem3d.assess.cones import ConicalSums
from gem3d.assess.directional import DirectionalFSC, directional_fsc
from gem3d.assess.shells import (
    fourier_transform,
    frequency_radius,
    inverse_fourier_transform,
    shell_sizes,
)
from gem3d.assess.slice_correlation import slice_correlation
from gem3d.assess.smoothing import local_quadratic_weights, pooled_number
from gem3d.assess.sphere import half_sphere
from gem3d.errors import MapError

PIXEL_SIZE_A = 1.5
Volume = NDArray[np.float32]


def frequencies(box_size: int) -> NDArray[np.float64]:
    """x, y, z of every Fourier pixel of the half spectrum, `(3, D, D, D//2 + 1)`."""
    full, half = np.fft.fftfreq(box_size, 1 / box_size), np.arange(box_size // 2 + 1)
    z, y, x = np.meshgrid(full, full, half, indexing="ij")
    return np.stack([x, y, z])


def filtered(volume: Volume, transfer: NDArray[np.floating]) -> Volume:
    return inverse_fourier_transform(fourier_transform(volume) * transfer.astype(np.float32), volume.shape[0])


def white_noise(rng: np.random.Generator, box_size: int) -> Volume:
    return rng.standard_normal((box_size,) * 3, dtype=np.float32)


def particle(rng: np.random.Generator, box_size: int) -> Volume:
    """Random density, amplitudes falling with frequency, inside a soft sphere half the box wide."""
    radius = frequency_radius(box_size)
    density = filtered(white_noise(rng, box_size), np.exp(-((radius / (0.25 * box_size)) ** 2)))
    return density / density.std() * sphere_mask(box_size, 1.0, 0.4 * box_size, 0.1 * box_size)


def outside_double_cone(box_size: int, half_angle_deg: float) -> NDArray[np.bool_]:
    k = frequencies(box_size)
    return np.abs(k[2]) <= np.cos(np.deg2rad(half_angle_deg)) * np.linalg.norm(k, axis=0)


def noisy_halves(
    seed: int, box_size: int, noise: float
) -> tuple[np.random.Generator, list[Volume], list[Volume], Volume]:
    """Half maps with a prior (low-passed alike), without any, and their mask."""
    rng = np.random.default_rng(seed)
    truth = particle(rng, box_size)
    linear = [truth + noise * white_noise(rng, box_size) for _ in range(2)]
    mask = sphere_mask(box_size, 1.0, 0.45 * box_size, 0.15 * box_size)
    prior = np.exp(-((frequency_radius(box_size) / (0.3 * box_size)) ** 2))
    return rng, [filtered(half, prior) * mask for half in linear], linear, mask


def weakest(result: DirectionalFSC) -> NDArray[np.float64]:
    return result.directions[np.argmin(result.area)]


def test_directions_are_even_over_half_a_sphere():
    directions = half_sphere(500)
    assert np.linalg.norm(directions, axis=1) == pytest.approx(np.ones(500))
    assert np.all(directions[:, 2] > 0)
    # Of an even distribution: second moments 1/3, and fourth moments 1/5.
    assert directions.T @ directions / 500 == pytest.approx(np.eye(3) / 3, abs=2e-3)
    assert (directions**4).mean(axis=0) == pytest.approx(np.full(3, 1 / 5), abs=2e-3)
    cosine = np.abs(directions @ directions.T) - 2 * np.eye(500)
    nearest_deg = np.rad2deg(np.arccos(cosine.max(axis=1)))
    assert nearest_deg.min() > 0.4 * nearest_deg.max()


@pytest.mark.parametrize("box_size", [20, 21])
def test_cones_of_90_degrees_hold_the_whole_shell(box_size: int):
    volume = white_noise(np.random.default_rng(1), box_size)
    cones = ConicalSums(box_size, box_size // 2, half_sphere(3), 90.0)
    sizes, in_cones = cones.sums()
    assert sizes == pytest.approx(shell_sizes(box_size))
    assert in_cones == pytest.approx(np.tile(sizes, (3, 1)))
    power = np.abs(np.fft.fftn(volume)) ** 2
    k = np.fft.fftfreq(box_size, 1 / box_size)
    shells = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)).astype(int)
    expected = np.bincount(shells.ravel(), weights=power.ravel())[: box_size // 2 + 1]
    of_shells, of_cones = cones.sums(np.abs(cones.take(fourier_transform(volume))) ** 2)
    assert of_shells == pytest.approx(expected, rel=1e-5)
    assert of_cones == pytest.approx(np.tile(expected, (3, 1)), rel=1e-5)


@pytest.mark.parametrize("box_size", [32, 33])
@pytest.mark.parametrize("calibrated", [False, True])
def test_curves_are_those_of_every_frequency_within_the_cone(box_size: int, calibrated: bool):
    """Against full transforms in float64, with one sharp cone at a time."""
    _, prior, linear, mask = noisy_halves(2, box_size, 1.0)
    pair = (linear[0], linear[1]) if calibrated else None
    result = directional_fsc(*prior, mask, PIXEL_SIZE_A, linear=pair, half_angle_deg=30.0, n_directions=20)

    k = np.fft.fftfreq(box_size, 1 / box_size)
    z, y, x = np.meshgrid(k, k, k, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    shells = np.rint(radius).astype(int)
    last = box_size // 2
    spectra = [np.fft.fftn((m * mask).astype(np.float64)) for m in (*prior, *linear)]

    def mean(a: int, b: int, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
        product = (spectra[a] * spectra[b].conj()).real
        return np.array([product[inside & (shells == s)].mean() for s in range(last + 1)])

    whole = np.ones_like(shells, dtype=bool)
    amplitude = [np.sqrt(mean(i, i, whole)) for i in range(4)]
    share = np.square(mask).sum() ** 2 / (mask.size * (mask.astype(np.float64) ** 4).sum())
    n = np.bincount(shells.ravel())[: last + 1] / 2 * share * (1 - np.cos(np.deg2rad(30)))
    kernel = local_quadratic_weights(n)
    stderr = 1 / np.sqrt(2 * pooled_number(kernel, n))
    judged = slice(int(np.argmax(n >= 3)), None)
    errors = []
    for direction, curve in zip(result.directions, result.curves, strict=True):
        cosine = np.abs(np.stack([x, y, z], axis=-1) @ direction)
        inside = (cosine >= np.cos(np.deg2rad(30)) * radius) | (shells < 3)
        m = {
            (a, b): kernel @ (mean(a, b, inside) / (amplitude[a] * amplitude[b]))
            for a, b in ((0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (0, 3), (1, 2), (2, 3))
        }
        expected = m[0, 1] / np.sqrt(m[0, 0] * m[1, 1])
        if calibrated:
            linear_norm = np.sqrt(m[2, 2] * m[3, 3])
            crosses = np.maximum(m[0, 3], 0) * np.maximum(m[1, 2], 0)
            denominator = np.maximum(m[2, 3] / linear_norm, stderr) * linear_norm
            expected = crosses / (np.sqrt(m[0, 0] * m[1, 1]) * denominator) * (m[2, 3] > 0)
        errors.append((curve - expected)[judged])
    # What is left is the cone's edge, which cuts the cells that Fourier pixels are first summed in.
    assert np.sqrt(np.mean(np.square(errors))) < 0.02
    assert result.curves[:, judged].std(axis=0).max() > 0.05


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("noise", [0.7, 2.0])
def test_noise_alike_in_all_directions_is_no_anisotropy(noise: float, calibrated: bool):
    _, prior, linear, mask = noisy_halves(3, 64, noise)
    maps, pair = (prior, (linear[0], linear[1])) if calibrated else (linear, None)
    result = directional_fsc(*maps, mask, PIXEL_SIZE_A, linear=pair)
    assert result.cfar > 0.9
    assert result.cfar >= result.area.min() / result.area.max()
    assert result.sphericity > 0.93
    if not calibrated:
        crossing = resolution_at(fourier_shell_correlation(*linear, mask), 0.143, PIXEL_SIZE_A, 64)
        assert np.nanmedian(result.resolution_A) == pytest.approx(crossing.resolution_A, rel=0.05)
        assert result.last_shell == np.ceil(64 * PIXEL_SIZE_A / np.nanmin(result.resolution_A))


@pytest.mark.parametrize("alike", [False, True])
def test_a_missing_cone_is_found_however_the_prior_filled_it(alike: bool):
    """The linear maps lack a double cone about z; maps with a prior invented something there."""
    box_size = 64
    rng, prior, linear, mask = noisy_halves(4, box_size, 1.0)
    seen = outside_double_cone(box_size, 40.0)
    inventions = [filtered(particle(rng, box_size), ~seen) for _ in range(2)]
    if alike:
        inventions[1] = inventions[0]
    prior = [(filtered(m, seen) + i) * mask for m, i in zip(prior, inventions, strict=True)]
    linear = [filtered(m, seen) for m in linear]
    result = directional_fsc(*prior, mask, PIXEL_SIZE_A, linear=(linear[0], linear[1]))
    assert result.cfar < 0.4
    assert abs(weakest(result)[2]) > 0.85
    isotropic = directional_fsc(*noisy_halves(4, box_size, 1.0)[1], mask, PIXEL_SIZE_A)
    assert result.sphericity < isotropic.sphericity - 0.05
    if alike:
        # The FSC of the maps with a prior sees its best direction there.
        fooled = directional_fsc(*prior, mask, PIXEL_SIZE_A)
        assert fooled.area[np.argmin(result.area)] > np.median(fooled.area)


def test_nothing_in_the_linear_maps_is_zero_not_nan():
    box_size = 32
    _, prior, linear, _ = noisy_halves(5, box_size, 0.5)
    seen = outside_double_cone(box_size, 40.0)
    linear = [filtered(m, seen) for m in linear]
    result = directional_fsc(*prior, None, PIXEL_SIZE_A, linear=(linear[0], linear[1]), n_directions=100)
    along_z = result.directions[:, 2] > np.cos(np.deg2rad(15))
    assert np.isfinite(result.curves).all()
    assert np.abs(result.curves[along_z, 6:]).max() < 1e-3
    assert result.curves[~along_z, 6:].max() > 0.9
    empty = np.zeros_like(prior[0])
    nothing = directional_fsc(*prior, None, PIXEL_SIZE_A, linear=(empty, empty), n_directions=20)
    assert not nothing.curves.any()
    assert not directional_fsc(empty, empty, empty, PIXEL_SIZE_A, n_directions=20).curves.any()


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_resolves_nothing(seed: int):
    rng = np.random.default_rng(seed)
    linear = (white_noise(rng, 48), white_noise(rng, 48))
    mask = sphere_mask(48, 1.0, 24.0, 6.0)
    prior = np.exp(-((frequency_radius(48) / 10) ** 2))
    for result in (
        directional_fsc(*linear, mask, PIXEL_SIZE_A),
        directional_fsc(*(filtered(m, prior) for m in linear), mask, PIXEL_SIZE_A, linear=linear),
    ):
        assert np.isnan(result.cfar)
        assert result.sphericity is None
        assert result.last_shell < 8


def test_sphericity_is_that_of_the_resolved_region():
    """Signal within an oblate ellipsoid of Fourier space."""
    box_size, long, short = 72, 28.0, 20.0
    rng = np.random.default_rng(6)
    k = frequencies(box_size)
    inside = (k[0] ** 2 + k[1] ** 2) / long**2 + k[2] ** 2 / short**2 < 1
    signal = filtered(white_noise(rng, box_size), inside)
    halves = [signal + 0.1 * white_noise(rng, box_size) for _ in range(2)]
    # A cone sees its widest reach: narrow ones follow the surface.
    result = directional_fsc(*halves, None, PIXEL_SIZE_A, half_angle_deg=10.0)
    e = np.sqrt(1 - (short / long) ** 2)
    area = 2 * np.pi * long**2 * (1 + (1 - e**2) / e * np.arctanh(e))
    volume = 4 / 3 * np.pi * long**2 * short
    assert result.sphericity == pytest.approx(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area, abs=0.01)
    radius = box_size * PIXEL_SIZE_A / result.resolution_A
    at_pole, at_equator = result.directions[:, 2] > 0.98, result.directions[:, 2] < 0.1
    assert radius[at_pole].mean() == pytest.approx(short + 2, abs=2)
    assert radius[at_equator].mean() == pytest.approx(long + 2, abs=2)
    # Only beyond the surface could more be resolved.
    cut = directional_fsc(*halves, None, PIXEL_SIZE_A, last_shell=18, n_directions=100)
    assert cut.sphericity is None
    assert cut.curves.shape == (100, 19)
    assert np.isnan(cut.resolution_A).all()
    assert cut.cfar == pytest.approx(1, abs=0.05)


def test_direction_and_scale_of_the_maps():
    box_size = 33
    rng, _, linear, _ = noisy_halves(7, box_size, 1.0)
    weak = np.abs(frequencies(box_size)[2]) > 0.8 * frequency_radius(box_size)
    halves = [m + filtered(2 * white_noise(rng, box_size), weak) for m in linear]
    results = []
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        turned = [np.ascontiguousarray(m.transpose(order)) for m in halves]
        results.append(directional_fsc(turned[0], 50 * turned[1], None, PIXEL_SIZE_A))
    # [z, y, x] became [y, x, z]: what lay along z lies along x.
    assert [int(np.argmax(np.abs(weakest(result)))) for result in results] == [2, 0, 1]
    cfar = [result.cfar for result in results]
    assert cfar == pytest.approx([cfar[0]] * 3, abs=0.05)
    assert cfar[0] < 0.8


def test_refuses_maps_that_do_not_fit():
    a, b = np.zeros((8, 8, 8), np.float32), np.zeros((9, 9, 9), np.float32)
    with pytest.raises(MapError, match="shape"):
        directional_fsc(a, b, None, 1.0)
    with pytest.raises(MapError, match="shape"):
        directional_fsc(a, a, None, 1.0, linear=(a, b))
    with pytest.raises(MapError, match="shape"):
        slice_correlation(a, a, b)


def thin_slice(volume: Volume, normal: NDArray[np.float64], last_shell: int) -> NDArray[np.complex128]:
    """Fourier transform of a map at the points of one plane, summed out."""
    u, v = np.linalg.svd(normal[None])[2][1:]
    i, j = np.mgrid[-last_shell : last_shell + 1, -last_shell : last_shell + 1]
    inside = (i**2 + j**2 < (last_shell + 0.5) ** 2) & (i**2 + j**2 > 0)
    points = i[inside][:, None] * u + j[inside][:, None] * v
    size = volume.shape[0]
    waves = [
        np.exp(-2j * np.pi / size * np.outer(points[:, a], np.arange(size) - size // 2)) for a in range(3)
    ]
    return np.einsum("zyx,px,py,pz->p", volume.astype(np.float64), *waves, optimize=True)


@pytest.mark.parametrize("box_size", [32, 33])
def test_slices_are_those_summed_out(box_size: int):
    rng, _, linear, _ = noisy_halves(8, box_size, 1.5)
    small = sphere_mask(box_size, 1.0, 0.3 * box_size, 0.1 * box_size)
    a, b = (filtered(m, frequency_radius(box_size) < 14) for m in linear)
    result = slice_correlation(a, b, small, last_shell=12)
    errors = []
    for i, j in zip(rng.integers(0, 18, 4), rng.integers(0, 36, 4), strict=True):
        elevation, azimuth = np.deg2rad(result.elevation_deg[i]), np.deg2rad(result.azimuth_deg[j])
        normal = np.array(
            [*(np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])), np.sin(elevation)]
        )
        fa, fb = (thin_slice(m * small, normal, 12) for m in (a, b))
        expected = (fa * fb.conj()).real.sum() / np.sqrt((np.abs(fa) ** 2).sum() * (np.abs(fb) ** 2).sum())
        errors.append(result.values[i, j] - expected)
    assert np.abs(errors).max() < 0.02
    assert result.standard_deviation > 3 * np.std(errors)


def test_slices_of_equal_opposite_and_unrelated_maps():
    _, _, (a, b), mask = noisy_halves(9, 25, 1.0)
    same = slice_correlation(a, 3 * a, mask)
    assert same.values == pytest.approx(np.ones((18, 36)), abs=1e-5)
    assert (same.mean, same.standard_deviation) == pytest.approx((1, 0), abs=1e-5)
    assert slice_correlation(a, -a, mask).mean == pytest.approx(-1, abs=1e-5)
    rng = np.random.default_rng(10)
    assert abs(slice_correlation(white_noise(rng, 24), white_noise(rng, 24), None).mean) < 0.03
    assert slice_correlation(a, np.zeros_like(a), None).mean == 0
    assert np.isfinite(slice_correlation(a[:4, :4, :4], b[:4, :4, :4], None).values).all()


def test_slices_through_a_missing_cone_correlate_less():
    box_size, half_angle_deg = 40, 30.0
    truth = white_noise(np.random.default_rng(11), box_size)
    seen = outside_double_cone(box_size, half_angle_deg)
    result = slice_correlation(truth, filtered(truth, seen), None, last_shell=18)
    # A slice of normal at an elevation e comes within e of the axis z.
    spared = result.elevation_deg > half_angle_deg + 7
    assert result.values[spared].min() > 0.99
    by_elevation = result.values.mean(axis=1)
    assert np.all(np.diff(by_elevation[~spared]) > 0)
    # Side views: the cone takes 2 * 60 of 360 degrees of white power.
    assert by_elevation[0] == pytest.approx(np.sqrt(2 / 3), abs=0.02)
    weights = np.cos(np.deg2rad(result.elevation_deg))
    assert result.mean == pytest.approx(np.average(by_elevation, weights=weights))

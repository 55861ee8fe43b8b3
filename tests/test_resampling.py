"""Images on another grid: against Fourier crops, and functions that are known on both grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gem3d.fit.noise import NoiseSpectrum
from gem3d.particles.resample import Resampler


def resampled(images: NDArray[np.float32], resampler: Resampler) -> NDArray[np.float32]:
    out = np.full((len(images), *[len(resampler.matrix)] * 2), np.nan, np.float32)
    resampler.resample(images, out, np.arange(len(images)))
    return out


def cropped_transform(image: NDArray[np.floating], box: int) -> NDArray[np.float64]:
    """Fourier crop or padding about the centre n//2, frequencies from the lower Nyquist on left out; float64."""

    def centred(n: int) -> NDArray[np.int64]:
        return np.arange(n) - n // 2

    n = len(image)
    highest = (min(n, box) - 1) // 2
    m = np.arange(-highest, highest + 1)
    there = np.exp(-2j * np.pi / n * np.outer(m, centred(n)))
    back = np.exp(2j * np.pi / box * np.outer(centred(box), m)) / n
    return np.real(back @ (there @ image @ there.T) @ back.T)


@pytest.mark.parametrize("target", [16, 17, 23, 24, 25, 32, 33, 40, 41])
@pytest.mark.parametrize("box", [24, 25, 32, 33])
def test_equal_width_is_a_fourier_crop(box: int, target: int) -> None:
    images = np.random.default_rng(0).normal(size=(3, box, box)).astype(np.float32)
    resampler = Resampler(box, 1.3, target, 1.3 * box / target)
    expected = [cropped_transform(image, target) for image in images.astype(np.float64)]
    np.testing.assert_allclose(resampled(images, resampler), expected, atol=1e-5)
    assert resampler.last_shell == (min(box, target) - 1) // 2
    # A shell that is said to be whole is that of the image, apart from the phase of the pixel's centre.
    m = np.arange(resampler.last_shell + 1)
    centre = np.exp(2j * np.pi * m * (target // 2 / target - box // 2 / box))
    row = [np.fft.fft2(image)[0, m] / image.size for image in (images[0], resampled(images, resampler)[0])]
    np.testing.assert_allclose(row[1] * centre, row[0], atol=1e-6)


@pytest.mark.parametrize(
    ("box", "target", "ratio"), [(33, 20, 1.21), (32, 25, 1.1), (40, 24, 0.8), (41, 31, 1.0)]
)
def test_smaller_target_is_cut_out_of_a_periodic_function(box: int, target: int, ratio: float) -> None:
    rng = np.random.default_rng(1)
    m = np.arange(1, int(min(1, 1 / ratio) * box / 2))
    parts = rng.normal(size=(2, 2, len(m)))

    def along(x: NDArray[np.float64], which: int) -> NDArray[np.float64]:
        angle = 2 * np.pi / box * np.outer(x, m)
        return 0.3 + np.cos(angle) @ parts[which, 0] + np.sin(angle) @ parts[which, 1]

    def image(n: int, step: float) -> NDArray[np.float64]:
        x = (np.arange(n) - n // 2) * step
        return np.outer(along(x, 0), along(x, 1))

    resampler = Resampler(box, 2.0, target, 2.0 * ratio)
    found = resampled(image(box, 1.0)[None].astype(np.float32), resampler)[0]
    expected = image(target, ratio)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert resampler.covered.all()


@pytest.mark.parametrize(
    ("box", "target", "ratio"), [(32, 40, 1.0), (33, 48, 0.83), (32, 41, 1.25), (41, 41, 1.11)]
)
def test_larger_target_has_nothing_where_the_source_ends(box: int, target: int, ratio: float) -> None:
    def blob(n: int, step: float) -> NDArray[np.float64]:
        x = (np.arange(n) - n // 2) * step
        y = x[:, None]
        return np.exp(-((x - 1.3) ** 2 + (y + 2.2) ** 2) / (2 * 2.0**2))

    resampler = Resampler(box, 1.5, target, 1.5 * ratio)
    found = resampled(blob(box, 1.0)[None].astype(np.float32), resampler)[0]
    np.testing.assert_allclose(found, blob(target, ratio), atol=2e-5)
    x = (np.arange(target) - target // 2) * ratio
    np.testing.assert_array_equal(resampler.covered, (x >= -(box // 2)) & (x <= (box - 1) // 2))


def test_a_coarser_source_says_where_it_ends() -> None:
    # 2 A pixels reach a quarter of an inverse A, which is shell 20 of a box of 80 A.
    assert Resampler(40, 2.0, 80, 1.0).last_shell == 19
    assert Resampler(60, 2.0, 80, 1.0).last_shell == 19
    assert Resampler(30, 2.0, 80, 1.0).last_shell == 19
    assert Resampler(160, 0.5, 80, 1.0).last_shell == 39


@pytest.mark.parametrize(
    ("box", "pixel_A", "target", "target_A"),
    [
        (32, 6.6, 40, 5.28),  # as wide
        (37, 6.6, 40, 5.28),  # wider
        (49, 4.31, 41, 5.28),  # finer
        (50, 1.0, 24, 50 / 24),  # binned
    ],
)
def test_noise_is_known_up_to_the_end_of_the_band(
    box: int, pixel_A: float, target: int, target_A: float
) -> None:
    """Where the band ends, the window around the particle mixes in frequencies that have no noise."""
    resampler = Resampler(box, pixel_A, target, target_A, factor=target_A / pixel_A)
    spectrum = NoiseSpectrum(target, 0.45 * target, resampler)
    noise = np.random.default_rng(0).normal(size=(1000, box, box)).astype(np.float32)
    spectrum.add(torch.from_numpy(resampled(noise, resampler)))
    found = spectrum.power()[3 : resampler.last_shell + 1] / target**2
    np.testing.assert_allclose(found, 1, atol=0.04)

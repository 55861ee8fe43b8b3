"""Sums and factors over |k| on half spectra: the kernels against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d.assess.shells import fourier_transform
from gem3d.kernels.radial import multiply_radially, radial_products, reference
from gem3d.threads import available_threads, set_threads


def noise_spectrum(box_size: int, seed: int) -> np.ndarray:
    return fourier_transform(
        np.random.default_rng(seed).standard_normal((box_size,) * 3, dtype=np.float32) + 1
    )


@settings(max_examples=20, deadline=None)
@given(box_size=st.integers(4, 35), seed=st.integers(0, 2**32 - 1))
def test_products_are_the_formula(box_size, seed):
    a, b = noise_spectrum(box_size, seed), noise_spectrum(box_size, seed + 1)
    found, expected = radial_products(a, b), reference.radial_products(a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * expected.max())


@pytest.mark.parametrize("box_size", [8, 9, 40])
def test_products_of_all_frequencies_are_those_of_the_maps(box_size):
    rng = np.random.default_rng(3)
    one, two = (rng.standard_normal((box_size,) * 3, dtype=np.float32) for _ in range(2))
    found = radial_products(fourier_transform(one), fourier_transform(two)).sum(axis=1) / box_size**3
    assert found == pytest.approx([np.vdot(one, two), np.vdot(one, one), np.vdot(two, two)], rel=1e-4)


def test_products_have_the_same_bits_on_any_number_of_threads():
    a, b = noise_spectrum(21, 4), noise_spectrum(21, 5)
    found = []
    try:
        for n_threads in (1, 3):
            set_threads(n_threads)
            found.append(radial_products(a, b))
    finally:
        set_threads(available_threads())
    np.testing.assert_array_equal(*found)


@settings(max_examples=20, deadline=None)
@given(box_size=st.integers(4, 21), seed=st.integers(0, 2**32 - 1))
def test_factors_are_the_formula(box_size, seed):
    found = noise_spectrum(box_size, seed)
    expected = found.copy()
    factor = np.random.default_rng(seed).standard_normal(3 * (box_size // 2) ** 2 + 1).astype(np.float32)
    multiply_radially(found, factor)
    reference.multiply_radially(expected, factor)
    np.testing.assert_array_equal(found, expected)


def test_refuses_what_is_no_half_spectrum():
    whole, half = np.zeros((8, 8, 8), np.complex64), np.zeros((8, 8, 5), np.complex64)
    with pytest.raises(ValueError, match="no half spectrum"):
        radial_products(whole, whole)
    with pytest.raises(ValueError, match=r"shapes \(8, 8, 5\) and \(9, 9, 5\)"):
        radial_products(half, np.zeros((9, 9, 5), np.complex64))
    with pytest.raises(ValueError, match="do not reach the corners"):
        multiply_radially(half, np.ones(48, np.float32))

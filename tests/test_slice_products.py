"""Products summed over central slices: the kernel against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d.assess.shells import fourier_transform
from gem3d.kernels.slice_products import reference, slice_products


@settings(max_examples=30, deadline=None)
@given(box_size=st.integers(4, 17), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_is_the_formula(box_size, seed, data):
    last_shell = data.draw(st.integers(1, box_size // 2))
    rng = np.random.default_rng(seed)
    a, b = (fourier_transform(rng.standard_normal((box_size,) * 3, dtype=np.float32)) for _ in range(2))
    normals = rng.standard_normal((5, 3))
    normals[:2] = np.eye(3)[rng.integers(3, size=2)]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    found = slice_products(a, b, normals, last_shell)
    expected = np.array([reference.slice_products(a, b, normal, last_shell) for normal in normals])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_refuses_what_does_not_fit():
    half = np.zeros((8, 8, 5), np.complex64)
    with pytest.raises(ValueError, match="half spectra of shapes"):
        slice_products(half, half[:, :, :4], np.eye(3), 4)
    with pytest.raises(ValueError, match="beyond the box of 8"):
        slice_products(half, half, np.eye(3), 5)

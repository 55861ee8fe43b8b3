"""Half spectra multiplied by a band: the kernel against its formula, and against a transform of the whole grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d.kernels.pass_band import pass_band, reference


def spectra_of(maps: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfftn(maps, dim=(1, 2, 3)).permute(3, 0, 2, 1).contiguous()


@settings(max_examples=60, deadline=None)
@given(
    box_size=st.integers(4, 13),
    coarser=st.integers(0, 6),
    first=st.integers(0, 40),
    length=st.integers(1, 140),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_is_the_formula(box_size, coarser, first, length, seed, data):
    size = max(2, box_size - coarser)
    rng = np.random.default_rng(seed)
    spectra = spectra_of(torch.from_numpy(rng.standard_normal((2, *(box_size,) * 3), dtype=np.float32)))
    transfer = torch.from_numpy(rng.standard_normal(length).astype(np.float32))
    transfer[:first] = 0
    column = data.draw(st.integers(0, size // 2))
    columns = range(column, data.draw(st.integers(column, size // 2)) + 1)
    row = data.draw(st.integers(-(size // 2), (size - 1) // 2))
    rows = range(row, data.draw(st.integers(row, (size - 1) // 2)) + 1)
    out = torch.full((len(columns), 2, len(rows), size), complex(np.nan, np.nan), dtype=torch.complex64)
    pass_band(spectra, transfer, columns, rows, out)
    expected = reference.pass_band(spectra, transfer, columns, rows, size)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("box_size", [8, 9])
def test_of_everything_is_the_spectrum(box_size):
    maps = torch.from_numpy(np.random.default_rng(1).standard_normal((1, *(box_size,) * 3), dtype=np.float32))
    spectra = spectra_of(maps)
    half, full = box_size // 2, box_size
    positive, negative = range((box_size - 1) // 2 + 1), range(-half, 0)
    transfer = torch.ones(3 * half**2 + 1)
    parts = []
    for rows in (positive, negative):
        parts.append(torch.empty(half + 1, 1, len(rows), full, dtype=torch.complex64))
        pass_band(spectra, transfer, range(half + 1), rows, parts[-1])
    torch.testing.assert_close(torch.cat(parts, dim=2), spectra, rtol=0, atol=0)


def test_refuses_memory_that_does_not_fit():
    spectra = torch.zeros(5, 1, 8, 8, dtype=torch.complex64)
    with pytest.raises(ValueError, match="does not fit"):
        pass_band(spectra, torch.ones(3), range(2), range(2), torch.zeros(2, 1, 3, 8, dtype=torch.complex64))

"""Fourier shells of a cubic map: index, transform, and sums over a shell.

Transforms are float32 and hold the half spectrum of a real map (`rfftn`): `(D, D, D//2 + 1)`. Every sum over
a shell counts the missing half and is accumulated in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.errors import MapError
from gem3d.kernels.radial import radial_products

FloatVolume = NDArray[np.float32]
Curve = NDArray[np.float64]

# Of the mean power of a map; float32 leaves some 1e-14 where nothing is.
ROUNDING_POWER = 1e-11


def check_same_box(**volumes: FloatVolume | None) -> int:
    """Box size D shared by all volumes; refuses anything that is not `(D, D, D)`, alike and finite.

    Raises
    ------
    MapError: naming the volume at fault by its keyword; a volume that is None is passed over.
    """
    present = {name: volume for name, volume in volumes.items() if volume is not None}
    first_name, first = next(iter(present.items()))
    for name, volume in present.items():
        if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] < 4:
            raise MapError(
                f"{name}: expected a cubic map of at least 4 voxels a side, got shape {volume.shape}"
            )
        if volume.shape != first.shape:
            raise MapError(
                f"{name} has shape {volume.shape} but {first_name} has {first.shape}; resample one of them"
            )
        if not np.isfinite(volume).all():
            raise MapError(f"{name} holds NaN or infinite voxels; check how it was made")
    return int(first.shape[0])


def as_tensor(volume: FloatVolume) -> torch.Tensor:
    """Float32 tensor of an array of any byte order; shares memory only if the array may be written."""
    return torch.from_numpy(np.require(volume, dtype=np.float32, requirements=["C", "W"]))


def fourier_transform(volume: FloatVolume) -> NDArray[np.complex64]:
    """Half spectrum `(D, D, D//2 + 1)` of a real map `(D, D, D)`; the origin stays at voxel 0."""
    spectrum: NDArray[np.complex64] = torch.fft.rfftn(as_tensor(volume)).numpy()
    return spectrum


def inverse_fourier_transform(spectrum: NDArray[np.complex64], box_size: int) -> FloatVolume:
    """Real map `(D, D, D)` of a half spectrum `(D, D, D//2 + 1)`."""
    volume: FloatVolume = torch.fft.irfftn(torch.from_numpy(spectrum), s=(box_size,) * 3).numpy()
    return volume


def frequency_radius(box_size: int) -> NDArray[np.float32]:
    """|k| in Fourier pixels (cycles per box) on the half spectrum, `(D, D, D//2 + 1)`."""
    full = np.fft.fftfreq(box_size, 1.0 / box_size).astype(np.float32)
    half = np.arange(box_size // 2 + 1, dtype=np.float32)
    radius: FloatVolume = np.sqrt(
        full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2
    )
    return radius


def shell_index(box_size: int) -> NDArray[np.int64]:
    """Shell of every Fourier pixel, round(|k|), on the half spectrum `(D, D, D//2 + 1)`; the corners exceed
    D//2.

    |k|^2 is an integer, so |k| is never half-way between two shells.
    """
    return np.rint(frequency_radius(box_size)).astype(np.int64)


def hermitian_multiplicity(box_size: int) -> NDArray[np.float64]:
    """How often each kx column of the half spectrum occurs in the whole one, `(D//2 + 1,)`: 1 or 2."""
    multiplicity = np.full(box_size // 2 + 1, 2.0)
    multiplicity[0] = 1.0
    if box_size % 2 == 0:
        multiplicity[-1] = 1.0
    return multiplicity


def shell_sums(values: NDArray[np.floating], box_size: int, shells: NDArray[np.int64] | None = None) -> Curve:
    """Sum over each shell 0 .. D//2 of the whole spectrum, given `values` `(D, D, D//2 + 1)` on its half."""
    shells = shell_index(box_size) if shells is None else shells
    weighted = values * hermitian_multiplicity(box_size)
    sums = np.bincount(shells.ravel(), weights=weighted.ravel())
    return np.asarray(sums[: box_size // 2 + 1], dtype=np.float64)


def radii(box_size: int) -> Curve:
    """|k| of |k|^2 = 0, 1, ..., up to the corners of a half spectrum, `(3 (D//2)^2 + 1,)`."""
    return np.sqrt(np.arange(3 * (box_size // 2) ** 2 + 1, dtype=np.float64))


def shells_of_squares(box_size: int) -> NDArray[np.int64]:
    """Shell of |k|^2 = 0, 1, ..., up to the corners of a half spectrum, `(3 (D//2)^2 + 1,)`."""
    return np.rint(radii(box_size)).astype(np.int64)


def shell_products(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> tuple[Curve, Curve, Curve]:
    """Sums of Re A conj(B), |A|^2 and |B|^2 over each shell 0 .. D//2, of two half spectra `(D, D, D//2 + 1)`."""
    cross, power_a, power_b = (_by_shell(sums, len(a)) for sums in radial_products(a, b))
    return cross, power_a, power_b


def _by_shell(sums: Curve, box_size: int) -> Curve:
    """Sums at each |k|^2 `(3 (D//2)^2 + 1,)` brought together by shell 0 .. D//2."""
    by_shell = np.bincount(shells_of_squares(box_size), weights=sums)
    return np.asarray(by_shell[: box_size // 2 + 1], dtype=np.float64)


def shell_power(half_spectrum: NDArray[np.complex64]) -> Curve:
    """Sum of |A|^2 over each shell 0 .. D//2."""
    return shell_products(half_spectrum, half_spectrum)[1]


def whole_frequencies(box_size: int) -> NDArray[np.int64]:
    """K in Fourier pixels along an axis of the whole spectrum, `(D,)`."""
    frequencies: NDArray[np.int64] = np.rint(np.fft.fftfreq(box_size, 1 / box_size)).astype(np.int64)
    return frequencies


def shell_sizes(box_size: int) -> Curve:
    """Number of Fourier pixels in each shell 0 .. D//2 of the whole spectrum."""
    squared = whole_frequencies(box_size) ** 2
    in_plane = np.bincount((squared[:, None] + squared).ravel())
    numbers = np.zeros(3 * (box_size // 2) ** 2 + 1)
    for x_squared in squared:
        numbers[x_squared : x_squared + len(in_plane)] += in_plane
    return _by_shell(numbers, box_size)


def shell_resolution_A(shell: float, pixel_size_A: float, box_size: int) -> float:
    """Resolution in A of a (fractional) shell: box size in A over the shell."""
    return float(pixel_size_A * box_size / shell)


def ratio(numerator: Curve, denominator: Curve) -> Curve:
    """Quotient of arrays of one shape, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def last_shell_with_power(volume: FloatVolume) -> int:
    """Last shell of a map that holds more than rounding errors: where a map ends that was made from fewer shells."""
    sums, sizes = shell_power(fourier_transform(volume)), shell_sizes(len(volume))
    filled = np.flatnonzero(sums / sizes > ROUNDING_POWER * sums.sum() / sizes.sum())
    return int(filled[-1]) if len(filled) else 0

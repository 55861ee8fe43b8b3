"""What a simulation projects: a sum of Gaussians, or a voxel map through central slices of its transform.

Both give the transforms of images, band-limited to the image's frequencies, and the volume that these are
projections of, on the grid of the images. The sum of an image is the sum of the volume, for every pose.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.fft
import torch
from numba import njit
from numpy.typing import NDArray

from gem3d.errors import MapError
from gem3d.kernels.project import project
from gem3d.kernels.voxelize import voxelize
from gem3d.maps import Map
from gem3d.threads import in_shares

OVERSAMPLING = 1.5
MIN_FOOTPRINT_PX2 = 0.25
MIN_VARIANCE_PX2 = 0.8
"""A footprint variance is added to every Gaussian and divided out in Fourier space: as much as brings the sharpest
to this variance, in pixels of the oversampled grid. What aliases into the image's Nyquist frequency is then
exp(-2 pi^2 0.8 (1 - 2/3)) = 0.5 % of the transform there, less below."""

PADDING = 2
KERNEL_WIDTH = 5
KERNEL_BETA = 2.3 * KERNEL_WIDTH
"""Interpolation kernel exp(beta (sqrt(1 - (2u/w)^2) - 1)), |u| < w/2, of Barnett, Magland & af Klinteberg
2019 (SIAM J. Sci. Comput. 41:C479); beta for twofold padding. Relative error about 1e-4."""


class ForwardModel(Protocol):
    """A density that can be projected."""

    def transforms(self, cameras: NDArray[np.float64], shifts_px: NDArray[np.float64]) -> torch.Tensor:
        """`rfft2` of the images at `(b, 3, 3)` poses and `(b, 2)` shifts: `(b, D, D//2 + 1)` complex64.

        The poses may hold a magnification, see `gem3d.optics.camera_matrices`.
        """

    def truth(self) -> NDArray[np.float32]:
        """The volume `(D, D, D)`, mass per voxel."""


def integer_frequencies(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows ky `(D,)` and columns kx `(D//2 + 1,)` of an `rfft2`, in cycles per box."""
    return np.rint(np.fft.fftfreq(size) * size).astype(np.int64), np.arange(size // 2 + 1)


def below_nyquist(size: int) -> NDArray[np.bool_]:
    """`(D, D//2 + 1)` mask without the Nyquist row and column, on which programs disagree."""
    ky, kx = integer_frequencies(size)
    return (2 * np.abs(ky) < size)[:, None] & (2 * kx < size)[None]


class GaussianModel:
    """Projects Gaussians on an oversampled grid, so that sharp ones do not alias.

    Parameters
    ----------
    amplitudes, means, covariances: `(n,)`, `(n, 3)`, `(n, 6)` in angstroms, as `structure_to_gaussians` gives.
    """

    def __init__(
        self,
        amplitudes: NDArray[np.float64],
        means: NDArray[np.float64],
        covariances: NDArray[np.float64],
        box_size_px: int,
        pixel_size_A: float,
    ) -> None:
        self.size = box_size_px
        self.fine_size = 2 * scipy.fft.next_fast_len(int(np.ceil(OVERSAMPLING * box_size_px / 2)), real=True)
        fine_pixel_A = box_size_px * pixel_size_A / self.fine_size
        covariances = covariances / fine_pixel_A**2
        self._footprint_px2 = max(MIN_FOOTPRINT_PX2, MIN_VARIANCE_PX2 - covariances[:, :3].min())
        covariances[:, :3] += self._footprint_px2
        # Neighbours in z touch neighbouring voxels, and pixels in many views.
        order = np.argsort(means[:, 2], kind="stable")
        self.amplitudes = torch.tensor(amplitudes[order], dtype=torch.float32)
        self.means = torch.tensor(means[order] / fine_pixel_A, dtype=torch.float32)
        self.covariances = torch.tensor(covariances[order], dtype=torch.float32)
        ky, kx = integer_frequencies(box_size_px)
        filter_y, filter_x = self._axis_filter(ky), self._axis_filter(kx)
        self._filter = torch.tensor(
            filter_y[:, None] * filter_x[None] * below_nyquist(box_size_px), dtype=torch.complex64
        )
        self._rows = torch.tensor(ky % self.fine_size)

    def _axis_filter(self, k: NDArray[np.int64]) -> NDArray[np.complex128]:
        """Division by the footprint's transfer, and the step from the fine grid's centre to the image's."""
        nu = k / self.fine_size
        centre_shift = (self.fine_size // 2) / self.fine_size - (self.size // 2) / self.size
        transfer: NDArray[np.complex128] = np.exp(
            2 * np.pi**2 * self._footprint_px2 * nu**2 + 2j * np.pi * k * centre_shift
        )
        return transfer

    def transforms(self, cameras: NDArray[np.float64], shifts_px: NDArray[np.float64]) -> torch.Tensor:
        images = project(
            self.amplitudes,
            self.means,
            self.covariances,
            torch.tensor(cameras, dtype=torch.float32),
            torch.tensor(shifts_px * (self.fine_size / self.size), dtype=torch.float32),
            self.fine_size,
        )
        cropped: torch.Tensor = torch.fft.rfft2(images)[:, self._rows, : self.size // 2 + 1]
        return cropped * self._filter

    def truth(self) -> NDArray[np.float32]:
        fine = voxelize(
            self.amplitudes, self.means + self.fine_size // 2, self.covariances, (self.fine_size,) * 3
        ).numpy()
        ky, kx = integer_frequencies(self.size)
        rows = ky % self.fine_size
        transform = scipy.fft.rfftn(fine, workers=-1)[np.ix_(rows, rows, kx)]
        transform *= (self._axis_filter(ky) * (2 * np.abs(ky) < self.size))[:, None, None]
        transform *= self._filter.numpy()
        volume = scipy.fft.irfftn(transform, s=(self.size,) * 3, workers=-1)
        return np.ascontiguousarray(volume, dtype=np.float32)


class SliceModel:
    """Projects a map by central slices of its transform, padded twofold and interpolated with correction."""

    def __init__(self, source: Map, box_size_px: int, pixel_size_A: float) -> None:
        self.size = box_size_px
        self._truth = resample_map(source, box_size_px, pixel_size_A)
        padded_size = PADDING * box_size_px
        r = np.arange(box_size_px) - box_size_px // 2
        correction = 1 / _kernel_transform(r / padded_size)
        padded = np.zeros((padded_size,) * 3, dtype=np.float32)
        inside = np.ix_(r % padded_size, r % padded_size, r % padded_size)
        padded[inside] = self._truth * (
            correction[:, None, None] * correction[None, :, None] * correction[None, None, :]
        )
        half = scipy.fft.rfftn(padded, workers=-1)
        # A margin beyond kx = 0 and beyond the highest kx, so that the kernel finds its columns in place.
        columns = np.arange(-KERNEL_WIDTH, padded_size // 2 + 1 + KERNEL_WIDTH)
        stored = np.minimum(columns % padded_size, -columns % padded_size)
        self._transform = half[:, :, stored]
        outside = (columns < 0) | (columns > padded_size // 2)
        mirrored = -np.arange(padded_size) % padded_size
        self._transform[:, :, outside] = half[np.ix_(mirrored, mirrored, stored[outside])].conj()
        ky, kx = integer_frequencies(box_size_px)
        self._ky, self._kx = ky.astype(np.float64), kx.astype(np.float64)
        self._mask = below_nyquist(box_size_px)

    def transforms(self, cameras: NDArray[np.float64], shifts_px: NDArray[np.float64]) -> torch.Tensor:
        slices = np.zeros((len(cameras), *self._mask.shape), dtype=np.complex64)
        in_shares(
            _central_slices,
            len(cameras),
            self._transform,
            cameras,
            self._ky,
            self._kx,
            self._mask,
            slices,
        )
        # exp(-2 pi i k.t) moves content by +t; the centre goes to index D//2.
        position = torch.tensor((shifts_px + self.size // 2) / self.size)
        phase_x = torch.exp(-2j * np.pi * position[:, 0, None] * torch.tensor(self._kx))
        phase_y = torch.exp(-2j * np.pi * position[:, 1, None] * torch.tensor(self._ky))
        return torch.from_numpy(slices) * (phase_y[:, :, None] * phase_x[:, None, :]).to(torch.complex64)

    def truth(self) -> NDArray[np.float32]:
        return self._truth


def resample_map(
    source: Map,
    box_size_px: int,
    pixel_size_A: float,
    offset_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> NDArray[np.float32]:
    """The map on a grid of any box and pixel size; densities keep their values.

    The transform is evaluated at those of the new grid's frequencies that the old grid has (a matrix product
    an axis), without Nyquist. Voxels outside the new box are left out: they would come back on the other
    side.

    Parameters
    ----------
    offset_A: x, y, z of the map's centre (n//2) from that of the new grid; by default centre on centre.

    Returns
    -------
    `(box_size_px,) * 3`
    """
    if source.voxel_size_A <= 0:
        raise MapError("the map's header does not state its voxel size; set it in the file")
    ky, kx = integer_frequencies(box_size_px)
    voxel_px = source.voxel_size_A / pixel_size_A
    transform = source.values.astype(np.complex64)
    for axis, k, offset in zip((2, 1, 0), (kx, ky, ky), offset_A, strict=True):
        n = source.values.shape[axis]
        r_px = (np.arange(n) - n // 2) * voxel_px + offset / pixel_size_A
        # The box is half-open: of two voxels that lie a whole box apart one is inside.
        edge_px = -(box_size_px // 2) - 0.5 - 1e-3 * voxel_px
        inside = (r_px >= edge_px) & (r_px < edge_px + box_size_px)
        shared = (2 * np.abs(k) < box_size_px) & (2 * voxel_px * np.abs(k) < (1 - 1e-6) * box_size_px)
        dft = np.exp(-2j * np.pi / box_size_px * np.outer(k, r_px)) * np.outer(shared, inside)
        transform = np.moveaxis(np.tensordot(dft.astype(np.complex64), transform, axes=(1, axis)), 0, axis)
    volume = scipy.fft.irfftn(transform, s=(box_size_px,) * 3, workers=-1)
    return np.ascontiguousarray(scipy.fft.fftshift(volume) * voxel_px**3, dtype=np.float32)


def _kernel_transform(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fourier transform of the interpolation kernel, by quadrature; `position` in padded boxes."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    u = nodes * KERNEL_WIDTH / 2
    kernel = np.exp(KERNEL_BETA * (np.sqrt(1 - nodes**2) - 1)) * weights * KERNEL_WIDTH / 2
    transform: NDArray[np.float64] = np.cos(2 * np.pi * np.outer(position, u)) @ kernel
    return transform


@njit(nogil=True, cache=True)
def _central_slices(
    begin: int,
    end: int,
    transform: NDArray[np.complex64],
    cameras: NDArray[np.float64],
    ky: NDArray[np.float64],
    kx: NDArray[np.float64],
    mask: NDArray[np.bool_],
    slices: NDArray[np.complex64],
) -> None:
    """Sample the transform at A^T (kx, ky, 0); zero beyond the padded grid's own frequencies."""
    size = transform.shape[0]
    limit = size / 2
    for b in range(begin, end):
        a = cameras[b]
        weights = np.empty((3, KERNEL_WIDTH))
        first = np.empty(3, dtype=np.int64)
        for row in range(len(ky)):
            for column in range(len(kx)):
                if not mask[row, column]:
                    continue
                x = PADDING * (a[0, 0] * kx[column] + a[1, 0] * ky[row])
                y = PADDING * (a[0, 1] * kx[column] + a[1, 1] * ky[row])
                z = PADDING * (a[0, 2] * kx[column] + a[1, 2] * ky[row])
                if max(abs(x), abs(y), abs(z)) > limit:
                    continue
                # The half with kx >= 0 is stored; the transform of a real volume is Hermitian.
                sign = -1.0 if x < 0 else 1.0
                for axis, k in enumerate((sign * x, sign * y, sign * z)):
                    first[axis] = int(np.ceil(k - KERNEL_WIDTH / 2))
                    for i in range(KERNEL_WIDTH):
                        u = 2 * (first[axis] + i - k) / KERNEL_WIDTH
                        weights[axis, i] = np.exp(KERNEL_BETA * (np.sqrt(max(1 - u * u, 0.0)) - 1))
                total = 0j
                for iz in range(KERNEL_WIDTH):
                    for iy in range(KERNEL_WIDTH):
                        line = transform[(first[2] + iz) % size, (first[1] + iy) % size]
                        part = 0j
                        for ix in range(KERNEL_WIDTH):
                            part += weights[0, ix] * line[first[0] + ix + KERNEL_WIDTH]
                        total += weights[2, iz] * weights[1, iy] * part
                slices[b, row, column] = total.real + 1j * sign * total.imag

"""The loss of single images: what the Gaussians predict, through the CTF, against what was measured.

    loss = sum_i sum_k |C_i(k) P_i(k) - Y_i(k)|^2 / sigma^2(|k|)  -  sum_i sum_k |Y_i(k)|^2 / sigma^2(|k|)

P_i is the transform of the projection, C_i the CTF, Y_i the image, sigma^2 the noise power of the shell; k runs over
all Fourier pixels up to the last shell. The second sum does not depend on the Gaussians: without it the loss is the
one that the normal equations have (`gem3d.fit.normal_equations`), summed over the same images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess.shells import hermitian_multiplicity
from gem3d.fit.half_space import sums_by_shell
from gem3d.fit.observations import Observations
from gem3d.gaussians import Gaussians
from gem3d.kernels.project import project
from gem3d.optics import contrast_transfer_function
from gem3d.particles.copy_lane import send

TAIL = 1e-3
"""Each Gaussian is cut where its projection falls below this share of its peak. In two dimensions the mass beyond
equals it: a thousandth of each mass is left out, which drowns in the noise of any real image. Three fifths of the
pixels of `gem3d.kernels.project.TAIL_CUTOFF`."""


class Measured(NamedTuple):
    """A batch of images as the loss takes them, all where the Gaussians are.

    Attributes
    ----------
    transforms: `(b, D, D // 2 + 1)` complex64.
    cameras: `(b, 3, 3)` float32.
    shifts_px: `(b, 2)` float32.
    ctf_coefficients: `(b, 15)` float32.
    grid_index: `(b,)` int64.
    """

    transforms: torch.Tensor
    cameras: torch.Tensor
    shifts_px: torch.Tensor
    ctf_coefficients: torch.Tensor
    grid_index: torch.Tensor


class ImageLoss:
    """Loss of batches of images and its gradient.

    Parameters
    ----------
    noise_power: `(n_grids, shells)` of the half set; see `gem3d.fit.half_sets.HalfSet`.
    last_shell: no Fourier pixel beyond it counts.
    device: of the Gaussians and the transforms.
    """

    def __init__(
        self,
        observations: Observations,
        noise_power: torch.Tensor,
        last_shell: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._observations, self._device = observations, torch.device(device)
        self.last_shell = last_shell
        box, pixel_size_A = observations.box_size_px, observations.pixel_size_A
        self._ky = torch.fft.fftfreq(box, pixel_size_A, device=device)[:, None]
        self._kx = torch.fft.rfftfreq(box, pixel_size_A, device=device)[None, :]
        shell = ((self._ky**2 + self._kx**2).sqrt() * (box * pixel_size_A)).round().long()
        inside = shell <= last_shell
        self._weight = torch.where(inside, 1 / noise_power.to(device)[:, shell.clamp(max=last_shell)], 0.0)
        self._grid = torch.from_numpy(observations.images.grid_index)
        # Beyond the last shell the weight is zero, and so is what is counted with it.
        self._shell = shell.clamp(max=last_shell)
        self._multiplicity = torch.from_numpy(hermitian_multiplicity(box)).float().to(device)

    def measured(self, rows: torch.Tensor, transforms: torch.Tensor) -> Measured:
        """Images, with what is known of them.

        Parameters
        ----------
        rows: `(b,)` their particles, on the host.
        transforms: `(b, D, D // 2 + 1)` complex, on the device.
        """
        observed = self._observations
        return Measured(
            transforms,
            send(observed.cameras[rows].float(), self._device),
            send(observed.shifts_px[rows].float(), self._device),
            send(observed.ctf_coefficients[rows].float(), self._device),
            send(self._grid[rows].long(), self._device),
        )

    def backward(self, gaussians: Gaussians, images: Measured) -> torch.Tensor:
        """Add the gradient of the loss of some images to that of the Gaussians' parameters.

        Returns
        -------
        The loss, a scalar without a graph.
        """
        box = self._observations.box_size_px
        projections = self._project(gaussians, images)
        with torch.no_grad():
            ctf = self._ctf(images)
            predicted = torch.fft.rfft2(projections.detach()).mul_(ctf)
            weight = self._weight_of(images)
            loss = (self._excess(predicted, images.transforms, weight).sum((0, 1)) * self._multiplicity).sum(
                dtype=torch.float64
            )
            residual = predicted.sub_(images.transforms).mul_(ctf.mul_(weight))
            # Parseval; `forward` leaves the inverse transform without its 1 / D^2.
            gradient = torch.fft.irfft2(residual, s=(box, box), norm="forward").mul_(2)
        torch.autograd.backward(projections, gradient)
        return loss

    @torch.no_grad()
    def by_shell(self, gaussians: Gaussians, images: Measured) -> NDArray[np.float64]:
        """The loss of some images in each shell.

        Returns
        -------
        `(2, last_shell + 1)`: the loss, and of it what does not depend on the images, |P|^2 / sigma^2.
        """
        predicted = torch.fft.rfft2(self._project(gaussians, images)).mul_(self._ctf(images))
        weight = self._weight_of(images)
        parts = self._excess(predicted, images.transforms, weight), predicted.abs().square_().mul_(weight)
        sums = [part.sum(0, dtype=torch.float64) * self._multiplicity for part in parts]
        return np.stack(
            [
                sums_by_shell(self._shell.flatten(), part.flatten(), self.last_shell + 1).cpu().numpy()
                for part in sums
            ]
        )

    def _project(self, gaussians: Gaussians, images: Measured) -> torch.Tensor:
        pixel_size_A = self._observations.pixel_size_A
        return project(
            gaussians.masses / pixel_size_A**3,
            gaussians.centres_A / pixel_size_A,
            gaussians.covariances_A2() / pixel_size_A**2,
            images.cameras,
            images.shifts_px,
            self._observations.box_size_px,
            TAIL,
        )

    def _ctf(self, images: Measured) -> torch.Tensor:
        return contrast_transfer_function(images.ctf_coefficients, self._kx, self._ky)

    def _weight_of(self, images: Measured) -> torch.Tensor:
        """1 / sigma^2 of some images, `(b, D, D // 2 + 1)`, or `(1, ...)` where that of all is the same."""
        return self._weight if len(self._weight) == 1 else self._weight[images.grid_index]

    @staticmethod
    def _excess(predicted: torch.Tensor, transforms: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(|P|^2 - 2 Re(P* Y)) / sigma^2: not |P - Y|^2 - |Y|^2, a small difference of large numbers."""
        twice = torch.view_as_real(predicted - 2 * transforms)
        return (torch.view_as_real(predicted) * twice).sum(-1).mul_(weight)

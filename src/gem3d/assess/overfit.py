"""Has the map been fitted to noise? What it explains of particles it has seen, and of particles it has not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import Curve

# The fit knows the map inside a box little larger than the particle, whose Fourier pixels are wider than those of the
# images: the first shells are blurred into one another, and single ones of them may have the wrong sign.
FIRST_SHELL = 4
POOLED_SHELLS = 5
SURE_SIGMAS = 3.5


@dataclass(frozen=True)
class LikelihoodGain:
    """Log-likelihood that the map of one half gains over an empty map, per particle and Fourier pixel of a shell.

    Not to be read before `FIRST_SHELL`.

    seen: `(shells,)` of the particles it was fitted to; None where they were not kept.
    unseen: `(shells,)` of the held-out particles of the same half. Negative: here the map is worse than none.
    unseen_stderr: `(shells,)` standard error that the noise of the held-out images gives it.
    n_seen, n_unseen: particles.
    """

    seen: Curve | None
    unseen: Curve
    unseen_stderr: Curve
    n_seen: int
    n_unseen: int

    def follows_noise(self, last_shell: int) -> NDArray[np.int64]:
        """Shells up to `last_shell` where the held-out particles refute the map, beyond what chance would do.

        Judged over `POOLED_SHELLS` shells around each, in which the gain is below zero by `SURE_SIGMAS` standard
        errors.
        """
        pixels = self._pixels
        window = np.ones(POOLED_SHELLS)
        gain = np.convolve(self.unseen * pixels, window, "same")
        stderr = np.sqrt(np.convolve((self.unseen_stderr * pixels) ** 2, window, "same"))
        shells = np.flatnonzero(gain < -SURE_SIGMAS * stderr)
        return shells[(shells >= FIRST_SHELL) & (shells <= last_shell)]

    def gains_at(self, last_shell: int) -> bool:
        """Whether the held-out particles confirm the map in the last `POOLED_SHELLS` shells up to this one."""
        shells = slice(max(last_shell - POOLED_SHELLS + 1, FIRST_SHELL), last_shell + 1)
        pixels = self._pixels[shells]
        gain = float(self.unseen[shells] @ pixels)
        return gain > SURE_SIGMAS * float(np.sqrt((self.unseen_stderr[shells] ** 2) @ pixels**2))

    @property
    def _pixels(self) -> Curve:
        """Fourier pixels in each shell, but for a factor; 0 where it is not to be read."""
        shells = np.arange(len(self.unseen), dtype=np.float64)
        return np.where(shells >= FIRST_SHELL, shells, 0.0)


def likelihood_gain(
    seen_loss: NDArray[np.float64],
    unseen_loss: NDArray[np.float64],
    n_seen: int,
    n_unseen: int,
    box_size: int,
) -> LikelihoodGain:
    """Gain of a map over an empty one, from the losses of two sets of particles.

    The noise N of a real image is independent in one of each pair of Fourier pixels k and -k, where its density is
    proportional to exp(-|N|^2 / sigma^2). Summed over all Fourier pixels of the plane the logarithm of the likelihood
    is therefore -|N|^2 / (2 sigma^2), and its gain is -1/2 of a loss that is the sum of |Y - C P|^2 / sigma^2 over
    the same pixels, less that of the empty map (`gem3d.fit.normal_equations`, `gem3d.fit.image_loss`).

    The noise enters it by Re(conj(C P) N) / sigma^2, whose variance over a shell is the sum of |C P|^2 / sigma^2.

    Parameters
    ----------
    seen_loss, unseen_loss: `(2, shells)` summed over particles and over the Fourier pixels of each shell: the
        loss, and of it the sum of |C P|^2 / sigma^2.
    box_size: of the images.
    """
    pixels = _ring_sizes(box_size, unseen_loss.shape[1])
    return LikelihoodGain(
        seen=-0.5 * seen_loss[0] / (pixels * n_seen) if n_seen > 0 else None,
        unseen=-0.5 * unseen_loss[0] / (pixels * n_unseen),
        unseen_stderr=np.sqrt(np.maximum(unseen_loss[1], 0)) / (pixels * n_unseen),
        n_seen=n_seen,
        n_unseen=n_unseen,
    )


def _ring_sizes(box_size: int, n_shells: int) -> Curve:
    """Fourier pixels of an image in each shell, over the whole plane."""
    k = np.fft.fftfreq(box_size, 1 / box_size)
    shell = np.rint(np.hypot(k[:, None], k)).astype(np.int64)
    return np.bincount(shell.ravel())[:n_shells].astype(np.float64)

"""Has the map been fitted to noise? What it explains of particles it has seen, and of particles it has not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gem3d.assess.shells import Curve

# The fit knows the map inside a box little larger than the particle, whose Fourier pixels are wider than those of the
# images: the first shells are blurred into one another, and single ones of them may have the wrong sign.
FIRST_SHELL = 4


@dataclass(frozen=True)
class LikelihoodGain:
    """Log-likelihood that the map of one half gains over an empty map, per particle and Fourier pixel of a shell.

    Not to be read before `FIRST_SHELL`.

    seen: `(shells,)` of the particles it was fitted to; None where they were not kept.
    unseen: `(shells,)` of the held-out particles of the same half. Negative: here the map is worse than none.
    n_seen, n_unseen: particles.
    """

    seen: Curve | None
    unseen: Curve
    n_seen: int
    n_unseen: int


def likelihood_gain(
    seen_loss: Curve, unseen_loss: Curve, n_seen: int, n_unseen: int, box_size: int
) -> LikelihoodGain:
    """Gain of a map over an empty one, from the losses of two sets of particles.

    The noise N of a real image is independent in one of each pair of Fourier pixels k and -k, where its density is
    proportional to exp(-|N|^2 / sigma^2). Summed over all Fourier pixels of the plane the logarithm of the likelihood
    is therefore -|N|^2 / (2 sigma^2), and its gain is -1/2 of a loss that is the sum of |Y - C P|^2 / sigma^2 over
    the same pixels, less that of the empty map (`gem3d.fit.normal_equations`, `gem3d.fit.image_loss`).

    Parameters
    ----------
    seen_loss, unseen_loss: `(shells,)` summed over particles and over the Fourier pixels of each shell.
    box_size: of the images.
    """
    per_pixel = -0.5 / _ring_sizes(box_size, len(unseen_loss))
    seen = seen_loss * per_pixel / n_seen if n_seen > 0 else None
    return LikelihoodGain(seen, unseen_loss * per_pixel / n_unseen, n_seen, n_unseen)


def _ring_sizes(box_size: int, n_shells: int) -> Curve:
    """Fourier pixels of an image in each shell, over the whole plane."""
    k = np.fft.fftfreq(box_size, 1 / box_size)
    shell = np.rint(np.hypot(k[:, None], k)).astype(np.int64)
    return np.bincount(shell.ravel())[:n_shells].astype(np.float64)

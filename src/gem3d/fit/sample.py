"""A look at some of the images before the work begins: what is usual among them, and the sign of their contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.fit.contrast_sign import BlobCorrelation, ContrastSign
from gem3d.fit.observations import Observations
from gem3d.particles import ImageStatistics, file_order
from gem3d.particles.preprocess import GOOD

SAMPLE_IMAGES, SAMPLE_BYTES = 1000, 256 << 20
FEWEST_IMAGES = 100
BATCH_SIZE = 64


@dataclass(frozen=True)
class ImageSample:
    """What a sample of the images says.

    Attributes
    ----------
    rows: `(m,)` its particles, in file order.
    statistics: of each image.
    usual_power: median over the images that can be used; None where there are none.
    sign: of the contrast of those.
    """

    rows: NDArray[np.int64]
    statistics: ImageStatistics
    usual_power: float | None
    sign: ContrastSign


def look_at_sample(observations: Observations, seed: int) -> ImageSample:
    """Read some images, the same ones for the same seed, as they will be taken.

    At most `SAMPLE_IMAGES`, or `SAMPLE_BYTES` of them where they are large, and no image twice.
    """
    rows = sample_in_file_order(observations, seed)
    blob = BlobCorrelation(observations.box_size_px, observations.pixel_size_A)
    parts = []
    for batch, found in observations.all_batches(rows, BATCH_SIZE):
        parts.append(found)
        good = found.status == GOOD
        index = torch.from_numpy(batch.rows[good])
        blob.add(batch.images[good], observations.ctf_coefficients[index], observations.shifts_px[index])
    statistics = ImageStatistics.joined(parts)
    good = statistics.status == GOOD
    usual_power = float(np.median(statistics.power[good])) if good.any() else None
    return ImageSample(rows, statistics, usual_power, blob.result())


def sample_in_file_order(observations: Observations, seed: int) -> NDArray[np.int64]:
    """The particles of the sample."""
    images = observations.images
    order = file_order(images.particles)
    ids = images.image_ids()[order]
    order = order[np.concatenate([[True], ids[1:] != ids[:-1]])] if len(order) else order
    fits = SAMPLE_BYTES // (4 * images.box_size_px**2)
    n = min(SAMPLE_IMAGES, max(FEWEST_IMAGES, fits))
    if len(order) <= n:
        return order
    return order[np.sort(np.random.default_rng(seed).choice(len(order), n, replace=False))]

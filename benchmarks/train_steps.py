"""Train on some images in a process of its own, and say how many a second: run by images.py.

python benchmarks/train_steps.py FOLDER GAUSSIANS BATCH IMAGES OUT.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from gem3d import ReconstructSettings
from gem3d.assess import sphere_mask
from gem3d.fit.image_loss import ImageLoss
from gem3d.fit.images import ImageTraining
from gem3d.fit.methods import FromImages
from gem3d.fit.observations import Observations
from gem3d.fit.training_set import TrainingSet
from gem3d.gaussians import initialise_random
from gem3d.inputs import find_images
from gem3d.runtime import peak_memory_GB
from gem3d.threads import available_threads, set_threads

# The particle of the benchmarks fills a ball of this radius.
RADIUS_A = 62.0


def main(folder: Path, n_gaussians: int, batch_size: int, n_images: int, out: Path) -> None:
    """Two epochs from a start at random, the second of which is timed: reading, CTF, steps, everything."""
    set_threads(available_threads())
    images, _ = find_images(folder / "particles.star", ReconstructSettings())
    box, pixel_size_A = images.box_size_px, images.pixel_size_A
    observations = Observations.of(images, 0.45 * box)
    start = initialise_random(
        sphere_mask(box, pixel_size_A, 2 * RADIUS_A),
        pixel_size_A,
        2e4,
        n_gaussians,
        np.random.default_rng(0),
        0.6 * pixel_size_A,
        FromImages.spread.scale_per_spacing,
    )
    last = (box - 1) // 2
    loss = ImageLoss(observations, torch.full((1, last + 1), float(box * box)), last)
    rows = TrainingSet(np.arange(n_images), np.zeros(n_images, dtype=bool), (0, 1), smallest_block=batch_size)
    begun: list[float] = []

    def progress(done: int, total: int, note: str) -> None:
        if done >= n_images:
            begun.append(time.perf_counter())

    ImageTraining(
        start=start,
        observations=observations,
        loss=loss,
        images=rows,
        judge=None,
        voxel_size_A=pixel_size_A,
        epochs=2,
        progress=progress,
    ).run()
    seconds = time.perf_counter() - begun[0]
    found = {"images_per_second": n_images / seconds, "peak_GB": peak_memory_GB()}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))

"""What a reconstruction will take, from the sizes of the set.

A model of measured runs (docs/results.md, "Scaling": 2,500 to 40,000 images of 64 to 256 px, 2 cores of an AMD EPYC,
defaults), right to a factor of 1.5 there:

    memory  = 0.5 GB + 300 bytes x D^3 + 300 bytes x n
    seconds = 5 + 1.2e-5 D^3 + 3.5e-8 D^2 n        on 2 cores
    seconds on c cores: two thirds of the work is shared out, as CPU and wall time of these runs say

Four accumulators on twice the padded half box are most of the memory, the fit of the Gaussians most of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE_GB, BYTES_PER_VOXEL, BYTES_PER_PARTICLE = 0.5, 300.0, 300.0
BASE_S, S_PER_VOXEL, S_PER_PIXEL = 5.0, 1.2e-5, 3.5e-8
SHARED_WORK = 2 / 3
MEASURED_CORES = 2


@dataclass(frozen=True)
class Forecast:
    """About what a reconstruction at the defaults takes.

    Attributes
    ----------
    memory_GB: peak, in units of 1e9 bytes.
    seconds: in all.
    reading_seconds: of them, for reading and adding up the images, which grows with their number.
    threads: cores that this is for.
    """

    memory_GB: float
    seconds: float
    reading_seconds: float
    threads: int


def forecast_reconstruction(
    n_particles: int, box_size_px: int, threads: int, read_s_per_image: float = 0.0
) -> Forecast:
    """Forecast memory and time.

    Parameters
    ----------
    read_s_per_image: what reading one image takes, where that is known; it goes on beside the computation.
    """
    voxels, pixels = box_size_px**3, box_size_px**2
    slower = _share(threads) / _share(MEASURED_CORES)
    reading_s = n_particles * max(S_PER_PIXEL * pixels * slower, read_s_per_image)
    memory = BASE_GB + 1e-9 * (BYTES_PER_VOXEL * voxels + BYTES_PER_PARTICLE * n_particles)
    return Forecast(memory, (BASE_S + S_PER_VOXEL * voxels) * slower + reading_s, reading_s, threads)


def _share(threads: int) -> float:
    """Time on so many cores, relative to one (Amdahl)."""
    return 1 - SHARED_WORK + SHARED_WORK / threads

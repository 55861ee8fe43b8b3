"""Images of a voxel map made by another program, relion_project, with our noise on top."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import scipy.fft
from numpy.typing import NDArray

import relion
from gem3d.particles import write_relion_star
from gem3d.simulate_particles import draw_particles

if TYPE_CHECKING:
    from context import SetSpec

BATCH = 256
MAX_SHIFT_PX = 3.0


def write_images(map_file: Path, folder: Path, spec: SetSpec, ctf_table: Path | None) -> None:
    """Write `particles.star` and `particles.mrcs`: relion_project images times exp(-B k^2 / 4), plus white noise.

    The noise has the variance of the damped images divided by the SNR.
    """
    particle_rng, noise_rng = np.random.default_rng([spec.seed, 5]).spawn(2)
    particles = draw_particles(
        spec.particles,
        spec.box_px,
        spec.pixel_A,
        particle_rng,
        ctf_table=ctf_table,
        max_shift_px=MAX_SHIFT_PX,
        source=folder / "particles.star",
    )
    write_relion_star(particles, folder / "particles.star")
    clean = relion.project(map_file, folder / "particles.star", folder / "projections")
    envelope = _envelope(spec.box_px, spec.pixel_A, spec.envelope_A2)
    shape = (spec.particles, spec.box_px, spec.box_px)
    with (
        mrcfile.mmap(clean, permissive=True) as source,
        mrcfile.new_mmap(folder / "particles.mrcs", shape=shape, mrc_mode=2, overwrite=True) as target,
    ):
        target.set_image_stack()
        target.voxel_size = spec.pixel_A
        variances = []
        for start in range(0, spec.particles, BATCH):
            images = _damped(source.data[start : start + BATCH], envelope)
            variances.append(images.var(axis=(1, 2)))
            target.data[start : start + len(images)] = images
        noise_sd = np.float32(np.sqrt(np.concatenate(variances).mean() / spec.snr))
        for start in range(0, spec.particles, BATCH):
            part = target.data[start : start + BATCH]
            part += noise_sd * noise_rng.standard_normal(part.shape, dtype=np.float32)
    clean.unlink()
    clean.with_suffix(".star").unlink()


def _envelope(size: int, pixel_size_A: float, bfactor_A2: float) -> NDArray[np.float32]:
    ky, kx = np.fft.fftfreq(size, pixel_size_A), np.fft.rfftfreq(size, pixel_size_A)
    envelope: NDArray[np.float32] = np.exp(-bfactor_A2 / 4 * (ky[:, None] ** 2 + kx**2)).astype(np.float32)
    return envelope


def _damped(images: NDArray[np.float32], envelope: NDArray[np.float32]) -> NDArray[np.float32]:
    damped: NDArray[np.float32] = scipy.fft.irfft2(scipy.fft.rfft2(images) * envelope, s=images.shape[1:])
    return damped.astype(np.float32)

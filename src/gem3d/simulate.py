"""Simulation of particle images with known truth: what `gem3d simulate` does.

image = CTF * exp(-B k^2 / 4) * (projection of the truth at the pose, moved by the shift) + white noise
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.atomic import refusing, replacing, reserve
from gem3d.errors import RunDirectoryError, SettingsError, warn
from gem3d.maps import MAP_SUFFIXES, Map, read_map, write_map
from gem3d.optics import (
    BLUR,
    camera_matrices,
    contrast_transfer_function,
    ctf_coefficients,
    phase_factors,
)
from gem3d.particles import Particles, write_relion_star
from gem3d.simulate_models import ForwardModel, GaussianModel, SliceModel, integer_frequencies
from gem3d.simulate_particles import draw_particles, perturb_particles
from gem3d.structures import Structure, read_structure, structure_to_gaussians

BATCH_SIZE = 64
SNR_SAMPLE = 256
"""Images whose mean variance stands for that of all."""

SMALLEST_BOX_PX, LARGEST_BOX_PX = 8, 4096


@dataclass(frozen=True)
class Simulation:
    """What a simulation wrote.

    Attributes
    ----------
    stack, star, truth: the files.
    particles: as in the STAR file, with the errors asked for.
    true_particles: as the images were made.
    noise_sd: standard deviation of the noise added to each pixel.
    """

    stack: Path
    star: Path
    truth: Path
    particles: Particles
    true_particles: Particles
    noise_sd: float


def simulate(
    source: str | Path | Structure | Map,
    out: str | Path,
    n_particles: int,
    box_size_px: int,
    pixel_size_A: float,
    snr: float,
    *,
    seed: int = 0,
    ctf: bool = True,
    ctf_table: str | Path | None = None,
    poses: str | Path | None = None,
    max_shift_px: float = 3.0,
    envelope_bfactor_A2: float = 0.0,
    angle_error_deg: float = 0.0,
    shift_error_px: float = 0.0,
    defocus_error_A: float = 0.0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Make `particles.mrcs`, `particles.star` and `truth.mrc` in the folder `out`.

    The same arguments give the same files.

    Parameters
    ----------
    source: a structure (PDB, mmCIF) or a map (MRC), as a path or in memory. A structure is centred on the
        mean of its atoms, a map keeps its centre (n//2) and is resampled to the box and pixel size.
    snr: variance of the noise-free images, CTF applied, over the whole box, divided by the variance of the
        white noise; `math.inf` for none.
    ctf: False makes images without a CTF, and a STAR file whose CTF is 1 at every frequency.
    ctf_table: cryoDRGN `ctf.pkl` or STAR file to draw the optics from; without it 0.8 to 2.5 um of defocus at
        300 kV.
    poses: STAR file to draw the orientations from; without it they are uniform.
    max_shift_px: shifts are uniform within plus and minus this, in x and in y.
    envelope_bfactor_A2: damps the images by exp(-B k^2 / 4); neither the truth nor the STAR file knows of it.
    angle_error_deg, shift_error_px, defocus_error_A: standard deviations of the errors of the STAR file's
        values; see `perturb_particles`.
    overwrite: replace the three files if they exist.
    progress: called with (images done, images in all) after each batch.

    Raises
    ------
    SettingsError
        if numbers are out of range.
    RunDirectoryError
        if files exist, or `out` cannot be written.
    StructureError, MapError, ParticleFileError
        if an input file is unreadable.
    """
    _check_settings(n_particles, box_size_px, pixel_size_A, snr)
    _check_errors(
        max_shift=max_shift_px,
        envelope_bfactor=envelope_bfactor_A2,
        angle_error=angle_error_deg,
        shift_error=shift_error_px,
        defocus_error=defocus_error_A,
    )
    if max_shift_px >= box_size_px / 2:
        raise SettingsError(f"--max-shift {max_shift_px:g}: moves particles out of a box of {box_size_px} px")
    if not ctf and (ctf_table is not None or defocus_error_A > 0):
        raise SettingsError("--no-ctf: leaves nothing for --ctf-table or --defocus-error to do; drop one")
    if seed < 0:
        raise SettingsError(f"--seed {seed}: give 0 or a positive number")
    # Independent streams: errors in the STAR file leave the images as they are, bit for bit.
    particle_rng, error_rng, noise_rng = np.random.default_rng(seed).spawn(3)
    out = Path(out)
    stack, star, truth = out / "particles.mrcs", out / "particles.star", out / "truth.mrc"
    true_particles = draw_particles(
        n_particles,
        box_size_px,
        pixel_size_A,
        particle_rng,
        ctf=ctf,
        ctf_table=Path(ctf_table) if ctf_table is not None else None,
        poses=Path(poses) if poses is not None else None,
        max_shift_px=max_shift_px,
        stack=stack.name,
        source=star,
    )
    particles = perturb_particles(
        true_particles,
        error_rng,
        angle_error_deg=angle_error_deg,
        shift_error_px=shift_error_px,
        defocus_error_A=defocus_error_A,
    )
    _check_folder(out, (stack, star, truth), overwrite)
    source = read_source(source)
    _warn_of_the_box(source, box_size_px, pixel_size_A)
    model = forward_model(source, box_size_px, pixel_size_A)
    noise_sd = np.sqrt(_signal_variance(model, true_particles, envelope_bfactor_A2) / snr)

    with refusing(out):
        out.mkdir(parents=True, exist_ok=True)
    with replacing(stack) as temporary:
        _write_stack(
            temporary, model, true_particles, envelope_bfactor_A2, float(noise_sd), noise_rng, progress
        )
    write_map(truth, model.truth(), pixel_size_A)
    with replacing(star) as temporary:
        write_relion_star(particles, temporary)
    return Simulation(stack, star, truth, particles, true_particles, float(noise_sd))


def read_source(source: str | Path | Structure | Map) -> Structure | Map:
    """Read a structure or a map; paths are told apart by their suffix."""
    if not isinstance(source, str | Path):
        return source
    path = Path(source)
    return read_map(path) if path.suffix.lower() in MAP_SUFFIXES else read_structure(path)


def forward_model(
    source: str | Path | Structure | Map, box_size_px: int, pixel_size_A: float
) -> ForwardModel:
    """The model that projects a structure or a map."""
    source = read_source(source)
    if isinstance(source, Map):
        return SliceModel(source, box_size_px, pixel_size_A)
    return GaussianModel(*structure_to_gaussians(source), box_size_px, pixel_size_A)


def noise_free_images(
    model: ForwardModel, particles: Particles, envelope_bfactor_A2: float = 0.0
) -> torch.Tensor:
    """Images of particles: projection times CTF times envelope; `(b, D, D)` float32."""
    size, pixel_size_A = particles.box_size_px, particles.pixel_size_A
    ky, kx = (torch.tensor(k / (size * pixel_size_A)) for k in integer_frequencies(size))
    coefficients = ctf_coefficients(particles)
    coefficients[:, BLUR] += envelope_bfactor_A2 / 4
    ctf = contrast_transfer_function(
        torch.tensor(coefficients, dtype=torch.float32), kx[None].float(), ky[:, None].float()
    )
    transforms = model.transforms(camera_matrices(particles), particles.shifts_A / pixel_size_A)
    for index, group in enumerate(particles.optics):
        if any(group.phase_coefficients):
            mine = torch.from_numpy(particles.optics_index == index)
            transforms[mine] *= phase_factors(group, size, pixel_size_A)
    images: torch.Tensor = torch.fft.irfft2(transforms * ctf, s=(size, size))
    return images


def _signal_variance(model: ForwardModel, particles: Particles, envelope_bfactor_A2: float) -> float:
    """Mean over a sample of images of the variance of their pixels."""
    n = len(particles)
    sample = particles.subset(np.linspace(0, n - 1, min(n, SNR_SAMPLE)).round().astype(np.int64))
    variances = [
        noise_free_images(model, batch, envelope_bfactor_A2).double().var(dim=(1, 2), correction=0)
        for batch in _batches(sample)
    ]
    return float(torch.cat(variances).mean())


def _write_stack(
    path: Path,
    model: ForwardModel,
    particles: Particles,
    envelope_bfactor_A2: float,
    noise_sd: float,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> None:
    n, size = len(particles), particles.box_size_px
    extremes, sums = [np.inf, -np.inf], np.zeros(2)
    with mrcfile.new_mmap(path, shape=(n, size, size), mrc_mode=2, overwrite=True) as mrc:
        reserve(path)
        mrc.set_image_stack()
        mrc.voxel_size = particles.pixel_size_A
        mrc.header.label[0] = "gem3d simulate"
        done = 0
        for batch in _batches(particles):
            images: NDArray[np.float32] = noise_free_images(model, batch, envelope_bfactor_A2).numpy()
            if noise_sd > 0:
                images += np.float32(noise_sd) * rng.standard_normal(images.shape, dtype=np.float32)
            mrc.data[done : done + len(batch)] = images
            done += len(batch)
            extremes = [min(extremes[0], images.min()), max(extremes[1], images.max())]
            sums += images.sum(dtype=np.float64), np.square(images, dtype=np.float64).sum()
            if progress is not None:
                progress(done, n)
        mean, mean_square = sums / (n * size * size)
        mrc.header.dmin, mrc.header.dmax = extremes
        mrc.header.dmean, mrc.header.rms = mean, np.sqrt(max(mean_square - mean * mean, 0.0))


def _batches(particles: Particles) -> Iterator[Particles]:
    for start in range(0, len(particles), BATCH_SIZE):
        yield particles.subset(slice(start, start + BATCH_SIZE))


def _check_settings(n_particles: int, box_size_px: int, pixel_size_A: float, snr: float) -> None:
    if n_particles < 1:
        raise SettingsError(f"--particles {n_particles}: give at least 1")
    if not SMALLEST_BOX_PX <= box_size_px <= LARGEST_BOX_PX:
        raise SettingsError(f"--box-size {box_size_px}: give {SMALLEST_BOX_PX} to {LARGEST_BOX_PX} pixels")
    if not 0 < pixel_size_A < math.inf:
        raise SettingsError(f"--pixel-size {pixel_size_A:g}: give a positive number of A")
    if not snr > 0:
        raise SettingsError(f"--snr {snr:g}: give a positive number, or inf for images without noise")


def _check_errors(**options: float) -> None:
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise SettingsError(f"--{name.replace('_', '-')} {value:g}: give 0 or a positive number")


def _warn_of_the_box(source: Structure | Map, box_size_px: int, pixel_size_A: float) -> None:
    """Warn where the source does not fit the images asked for."""
    box_A = box_size_px * pixel_size_A
    if isinstance(source, Map):
        if source.voxel_size_A > pixel_size_A * 1.001:
            warn(
                f"the map's voxels are {source.voxel_size_A:g} A wide: it holds nothing finer than "
                f"{2 * source.voxel_size_A:g} A, though images of {pixel_size_A:g} A pixels could"
            )
        return
    radius_A = float(np.linalg.norm(source.positions_A - source.positions_A.mean(axis=0), axis=1).max())
    if 2 * radius_A > box_A:
        warn(
            f"the structure reaches {radius_A:.0f} A from its centre and the box is only {box_A:.0f} A wide: "
            "what lies outside is cut off; use a larger --box-size"
        )


def _check_folder(out: Path, outputs: tuple[Path, ...], overwrite: bool) -> None:
    with refusing(out):
        existing = [path.name for path in outputs if path.exists()]
    if existing and not overwrite:
        raise RunDirectoryError(
            f"{out}: {', '.join(existing)} exist; choose another folder, or use --overwrite"
        )

"""Particles for a simulation: poses, shifts and optics drawn at random or taken from measured tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gem3d.particles import OpticsGroup, Particles, read_relion_star
from gem3d.particles.cryodrgn_tables import read_cryodrgn_ctf

FloatArray = NDArray[np.float64]

# What a 300 kV microscope is usually set to when no table is given.
DEFOCUS_RANGE_A = (8_000.0, 25_000.0)
ASTIGMATISM_SD_A = 150.0
VOLTAGE_KV, SPHERICAL_ABERRATION_MM, AMPLITUDE_CONTRAST = 300.0, 2.7, 0.1


@dataclass(frozen=True)
class CtfTable:
    """Optics of `m` measured images; `instrument` rows are kV, Cs in mm, amplitude contrast."""

    defocus_A: FloatArray
    astigmatism_deg: FloatArray
    phase_shift_deg: FloatArray
    instrument: FloatArray

    def rows(self, index: NDArray[np.int64]) -> CtfTable:
        """The chosen rows, in the index's order."""
        return CtfTable(
            self.defocus_A[index],
            self.astigmatism_deg[index],
            self.phase_shift_deg[index],
            self.instrument[index],
        )


def draw_particles(
    n_particles: int,
    box_size_px: int,
    pixel_size_A: float,
    rng: np.random.Generator,
    *,
    ctf: bool = True,
    ctf_table: Path | None = None,
    poses: Path | None = None,
    max_shift_px: float = 0.0,
    stack: str = "particles.mrcs",
    source: Path = Path("simulation"),
) -> Particles:
    """Draw the particles of a simulation, of one stack in order, half sets 1 and 2 alternating.

    Parameters
    ----------
    ctf: False gives the CTF that is 1 everywhere: no defocus, no aberration, amplitude contrast 1.
    ctf_table: a cryoDRGN `ctf.pkl` or a STAR file whose rows are drawn with replacement; its pixel size is
        not used.
    poses: a STAR file whose rotations are drawn with replacement; without it they are uniform in SO(3).
    max_shift_px: shifts are uniform in a square of this half width.
    """
    if poses is None:
        rotations = Rotation.random(n_particles, rng=rng).as_matrix()
    else:
        measured = read_relion_star(poses, ctf=False).rotations
        rotations = measured[rng.integers(len(measured), size=n_particles)]
    shifts_px = rng.uniform(-max_shift_px, max_shift_px, size=(n_particles, 2))

    if not ctf:
        optics = _without_ctf(n_particles)
    elif ctf_table is None:
        optics = _default_optics(n_particles, rng)
    else:
        table = read_ctf_table(ctf_table)
        optics = table.rows(rng.integers(len(table.defocus_A), size=n_particles))
    instruments, optics_index = np.unique(optics.instrument, axis=0, return_inverse=True)
    groups = tuple(
        OpticsGroup(f"opticsGroup{i}", pixel_size_A, box_size_px, *map(float, row[:3]))
        for i, row in enumerate(instruments, start=1)
    )
    return Particles(
        rotations=rotations,
        shifts_A=shifts_px * pixel_size_A,
        defocus_A=optics.defocus_A,
        astigmatism_deg=optics.astigmatism_deg,
        phase_shift_deg=optics.phase_shift_deg,
        ctf_bfactor_A2=np.zeros(n_particles),
        ctf_scale=np.ones(n_particles),
        contrast=np.ones(n_particles),
        micrograph_index=np.zeros(n_particles, dtype=np.int32),
        optics_index=optics_index.reshape(-1).astype(np.int32),
        half_set=(1 + np.arange(n_particles) % 2).astype(np.int8),
        stack_index=np.zeros(n_particles, dtype=np.int32),
        image_index=np.arange(n_particles, dtype=np.int32),
        source_row=np.arange(n_particles, dtype=np.int32),
        stacks=(stack,),
        optics=groups,
        source=source,
    )


def perturb_particles(
    particles: Particles,
    rng: np.random.Generator,
    *,
    angle_error_deg: float = 0.0,
    shift_error_px: float = 0.0,
    defocus_error_A: float = 0.0,
) -> Particles:
    """Add Gaussian errors to what a refinement would have estimated.

    Parameters
    ----------
    angle_error_deg: standard deviation of each component of a rotation vector in the camera frame.
    shift_error_px: standard deviation along each axis.
    defocus_error_A: standard deviation of one error a particle, common to defocus U and V.
    """
    n = len(particles)
    turns = Rotation.from_rotvec(rng.normal(size=(n, 3)) * angle_error_deg, degrees=True).as_matrix()
    shift_error_A = rng.normal(size=(n, 2)) * shift_error_px * particles.pixel_size_A
    defocus_error = rng.normal(size=(n, 1)) * defocus_error_A
    return replace(
        particles,
        rotations=turns @ particles.rotations,
        shifts_A=particles.shifts_A + shift_error_A,
        defocus_A=particles.defocus_A + defocus_error,
    )


def read_ctf_table(path: Path) -> CtfTable:
    """Read the optics columns of a cryoDRGN `ctf.pkl` or a STAR file.

    Raises
    ------
    ParticleFileError
        if the file is neither, or its rows are not finite.
    """
    if path.suffix.lower() == ".star":
        particles = read_relion_star(path)
        instruments = np.array(
            [(g.voltage_kV, g.spherical_aberration_mm, g.amplitude_contrast) for g in particles.optics]
        )
        return CtfTable(
            particles.defocus_A,
            particles.astigmatism_deg,
            particles.phase_shift_deg,
            instruments[particles.optics_index],
        )
    table = read_cryodrgn_ctf(path)
    return CtfTable(table.defocus_A, table.astigmatism_deg, table.phase_shift_deg, table.instrument)


def _default_optics(n: int, rng: np.random.Generator) -> CtfTable:
    mean = rng.uniform(*DEFOCUS_RANGE_A, size=n)
    difference = np.abs(rng.normal(size=n)) * ASTIGMATISM_SD_A
    instrument = np.array([VOLTAGE_KV, SPHERICAL_ABERRATION_MM, AMPLITUDE_CONTRAST])
    return CtfTable(
        np.stack([mean + difference / 2, mean - difference / 2], axis=1),
        rng.uniform(0.0, 180.0, size=n),
        np.zeros(n),
        np.tile(instrument, (n, 1)),
    )


def _without_ctf(n: int) -> CtfTable:
    # -sin(-asin(1)) = 1 at every frequency, so that a reader that knows nothing of this gets the right CTF.
    instrument = np.array([VOLTAGE_KV, 0.0, 1.0])
    return CtfTable(np.zeros((n, 2)), np.zeros(n), np.zeros(n), np.tile(instrument, (n, 1)))

"""Whether the values of a particle set can be right: units mistaken, columns mixed up, fits gone astray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d.errors import ParticleFileError, warn
from gem3d.particles.image_names import describe_particle
from gem3d.particles.particles import Particles

USUAL_VOLTAGE_KV, POSSIBLE_VOLTAGE_KV = (60.0, 1000.0), (10.0, 3000.0)
USUAL_PIXEL_A = (0.2, 20.0)
LARGEST_DEFOCUS_A, SMALLEST_DEFOCUS_A = 100_000.0, 100.0
LARGEST_CS_MM = 10.0
ROTATION_TOLERANCE = 1e-3
_PER_PARTICLE = {
    "rotations": "orientation",
    "shifts_A": "shift",
    "defocus_A": "defocus",
    "astigmatism_deg": "astigmatism angle",
    "phase_shift_deg": "phase shift",
    "ctf_bfactor_A2": "CTF B factor",
    "ctf_scale": "CTF scale factor",
}


@dataclass(frozen=True)
class Finding:
    """Something odd.

    Attributes
    ----------
    refused: it cannot be right, so that a reconstruction is not begun.
    message: what, where, and what to do.
    """

    refused: bool
    message: str


def check_values(particles: Particles) -> None:
    """Refuse what cannot be right, and warn of what hardly can.

    Raises
    ------
    ParticleFileError
    """
    for finding in find_odd_values(particles):
        if finding.refused:
            raise ParticleFileError(finding.message)
        warn(finding.message)


def find_odd_values(particles: Particles) -> Iterator[Finding]:
    """Everything odd about optics, defocus, orientations and shifts.

    Defocus is judged only where there is a CTF, shifts only where the box size is known.
    """
    yield from _not_finite(particles)
    yield from _optics(particles)
    yield from _defocus(particles)
    yield from _rotations(particles)
    yield from _shifts(particles)


def _not_finite(particles: Particles) -> Iterator[Finding]:
    for field, name in _PER_PARTICLE.items():
        values = getattr(particles, field).reshape(len(particles), -1)
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            yield _refused(
                particles, bad, f"{name} that is not a finite number", "correct or remove these particles"
            )


def _optics(particles: Particles) -> Iterator[Finding]:
    for group in particles.optics:
        where = f"{particles.source}: optics group {group.name!r}"
        volts, pixel_A = group.voltage_kV, group.pixel_size_A
        if not 0 < pixel_A < np.inf:
            yield Finding(True, f"{where}: a pixel size of {pixel_A:g} A; correct it")
        elif not USUAL_PIXEL_A[0] <= pixel_A <= USUAL_PIXEL_A[1]:
            yield Finding(False, f"{where}: an unusual pixel size of {pixel_A:g} A; is it in A?")
        if not POSSIBLE_VOLTAGE_KV[0] <= volts <= POSSIBLE_VOLTAGE_KV[1]:
            yield Finding(True, f"{where}: a voltage of {volts:g} kV; give it in kV, such as 300")
        elif not USUAL_VOLTAGE_KV[0] <= volts <= USUAL_VOLTAGE_KV[1]:
            yield Finding(False, f"{where}: an unusual voltage of {volts:g} kV; is it in kV?")
        if not 0 <= group.amplitude_contrast <= 1:
            yield Finding(
                True,
                f"{where}: an amplitude contrast of {group.amplitude_contrast:g}; give a fraction, such as 0.1",
            )
        if not abs(group.spherical_aberration_mm) <= LARGEST_CS_MM:
            yield Finding(
                False,
                f"{where}: a spherical aberration of {group.spherical_aberration_mm:g} mm; is it in mm?",
            )


def _defocus(particles: Particles) -> Iterator[Finding]:
    defocus_A = particles.defocus_A
    if not defocus_A.any() or not np.isfinite(defocus_A).all():
        return
    largest, mean = np.abs(defocus_A).max(axis=1), defocus_A.mean(axis=1)
    middle = float(np.median(largest))
    if middle < SMALLEST_DEFOCUS_A:
        yield Finding(
            False,
            f"{particles.source}: half of the particles have a defocus below {middle:.3g} A; is it in A?",
        )
    far = largest > LARGEST_DEFOCUS_A
    if far.any():
        yield _odd(
            particles, far, f"a defocus above {LARGEST_DEFOCUS_A / 1e4:g} um", "did their CTF fits go astray?"
        )
    over = mean < 0
    if over.any():
        yield _odd(
            particles,
            over,
            "negative defocus, which means overfocus",
            "defocus must be positive where underfocused",
        )


def _rotations(particles: Particles) -> Iterator[Finding]:
    rotations = particles.rotations
    if not np.isfinite(rotations).all():
        return
    square = np.einsum("nij,nkj->nik", rotations, rotations) - np.eye(3)
    bad = (np.abs(square).max(axis=(1, 2)) > ROTATION_TOLERANCE) | (np.linalg.det(rotations) < 0)
    if bad.any():
        yield _refused(
            particles, bad, "an orientation that is no rotation", "was another array read as orientations?"
        )


def _shifts(particles: Particles) -> Iterator[Finding]:
    half_box_A = np.array([group.box_size_px * group.pixel_size_A / 2 for group in particles.optics])
    allowed = half_box_A[particles.optics_index]
    length = np.abs(particles.shifts_A).max(axis=1)
    bad = (allowed > 0) & (length > allowed)
    if not bad.any():
        return
    what = "shifts of more than half the box, which put the particle outside its image"
    if np.count_nonzero(bad) > len(particles) / 2:
        yield _refused(
            particles, bad, what, "are they in the unit that the column says, and of images of this size?"
        )
    else:
        yield _odd(particles, bad, what, "remove these particles")


def _refused(particles: Particles, bad: NDArray[np.bool_], what: str, remedy: str) -> Finding:
    return Finding(True, _describe(particles, bad, what, remedy))


def _odd(particles: Particles, bad: NDArray[np.bool_], what: str, remedy: str) -> Finding:
    return Finding(False, _describe(particles, bad, what, remedy))


def _describe(particles: Particles, bad: NDArray[np.bool_], what: str, remedy: str) -> str:
    n = int(np.count_nonzero(bad))
    first = describe_particle(particles, int(np.argmax(bad)))
    have = "1 particle has" if n == 1 else f"{n} particles have"
    return f"{particles.source}: {have} {what}, the first being {first}; {remedy}"

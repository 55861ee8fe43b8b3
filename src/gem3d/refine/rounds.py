"""Rounds of local refinement: maps of the halves, then poses of each half against its own map, until nothing gains.

What the halves share is the frequencies that the calibrated FSC of a round supports, one weight a shell: all else
(map, noise, poses, widths of the prior, random numbers) is of one half alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess import CalibratedFSC
from gem3d.assess.shells import FloatVolume
from gem3d.errors import warn
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.observations import Observations
from gem3d.optics import ctf_coefficients
from gem3d.particles import Particles, file_order
from gem3d.progress import Reporter
from gem3d.refine.estimates import Estimates
from gem3d.refine.half import HalfState, refine_half
from gem3d.refine.images import ImagesOfHalf
from gem3d.settings import RefineSettings

# A round must raise the sum of the calibrated FSC over its shells by this share for another to follow.
LEAST_GAIN = 0.005
# Shells whose weight is below this have nothing to say.
LEAST_WEIGHT = 0.02
FEWEST_SHELLS = 4


@dataclass(frozen=True)
class HalfMaps:
    """What the maps of a round say.

    Attributes
    ----------
    maps: Gaussian half maps.
    noise_power: of each half.
    calibrated: FSC, and how much of each shell to believe.
    """

    maps: tuple[FloatVolume, FloatVolume]
    noise_power: tuple[torch.Tensor, torch.Tensor]
    calibrated: CalibratedFSC


@dataclass(frozen=True)
class RoundReport:
    """One round: the maps that it began with, and what the refinement against them did.

    Attributes
    ----------
    resolution_A: claimed for the maps before the particles were refined; None where none is.
    fsc_sum: of the calibrated FSC over its shells.
    last_shell: of the slices compared.
    angle_change_deg, shift_change_A: root mean square of what changed in this round.
    widths: of the prior of each half: angle (degrees), shift (A), defocus (A), contrast.
    gain: mean log likelihood that particles gained since the start.
    comparisons, seconds: of slices with images, in both halves.
    """

    round: int
    resolution_A: float | None
    fsc_sum: float
    last_shell: int
    angle_change_deg: float
    shift_change_A: float
    widths: tuple[tuple[float, ...], tuple[float, ...]]
    gain: float
    comparisons: int
    seconds: float


@dataclass(frozen=True)
class Refinement:
    """Where the particles have come to.

    Attributes
    ----------
    particles: with their new poses, shifts, defoci and contrasts.
    observations: the same, as the reconstruction takes them.
    gain: `(n,)` log likelihood gained since the start, against the last map.
    width: `(n, 4)` posterior: angle (degrees), shift (A), defocus (A), contrast; 0 where nothing was refined.
    rounds: what happened.
    ended: why there were no more.
    """

    particles: Particles
    observations: Observations
    gain: NDArray[np.float64]
    width: NDArray[np.float64]
    rounds: tuple[RoundReport, ...]
    ended: str


def refine_particles(
    observations: Observations,
    halves: NDArray[np.int8],
    settings: RefineSettings,
    reconstruct: Callable[[Observations, str], HalfMaps],
    reporter: Reporter,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    going_on: bool = False,
) -> Refinement:
    """Refine every particle.

    Parameters
    ----------
    observations: at the poses of the particle file.
    halves: `(n,)`, 1 or 2.
    reconstruct: makes and judges the half maps at given observations; the text names the round.
    checkpoint: written after every round.
    going_on: from what the checkpoint holds.
    """
    course = _Course(observations, halves, settings, seed)
    saved = checkpoint.load() if checkpoint is not None and going_on else None
    if saved is not None:
        course.restore(*saved)
    while course.ended == "":
        number = len(course.reports) + 1
        found = reconstruct(course.observations_now(), f"round {number}")
        if course.judge(found.calibrated):
            course.refine(found, reporter)
        if checkpoint is not None:
            checkpoint.save(course.tensors(), course.numbers())
    reporter.say(f"refinement: {course.ended}")
    return course.result()


class _Course:
    """The state of a refinement between rounds."""

    def __init__(
        self, observations: Observations, halves: NDArray[np.int8], settings: RefineSettings, seed: int
    ) -> None:
        self.given, self.settings, self.seed = observations, settings, seed
        order = file_order(observations.images.particles)
        self.rows = tuple(order[halves[order] == half] for half in (1, 2))
        self.states = tuple(
            HalfState.begin(Estimates.start(*self._given_poses(rows)), settings, observations.pixel_size_A)
            for rows in self.rows
        )
        self.before = self.states
        self.reports: list[RoundReport] = []
        self.best_sum = 0.0
        self.ended = ""

    def _given_poses(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(rows)
        return self.given.rotations[index], self.given.shifts_px[index]

    def judge(self, calibrated: CalibratedFSC) -> bool:
        """Whether to refine against maps; ends the course where not, or where this was the last round."""
        fsc_sum = _fsc_sum(calibrated)
        n = len(self.reports)
        done = "1 round" if n == 1 else f"{n} rounds"
        if n > 0 and fsc_sum < self.best_sum:
            # The maps of the round before were better: so were the poses that they were made with.
            self.states = self.before
            self.ended = f"after {done}, as the last did not gain; its poses are not used"
        elif n > 0 and fsc_sum < (1 + LEAST_GAIN) * self.best_sum:
            self.ended = f"after {done}, as the last gained next to nothing"
        elif n == self.settings.rounds:
            self.ended = f"after {done} (--rounds)"
        elif _last_shell(calibrated) < FEWEST_SHELLS:
            self.ended = "nothing refined, as the half maps do not agree"
            warn(
                "the half maps hold nothing that particles could be refined against: poses are left as they are"
            )
        self.best_sum = max(self.best_sum, fsc_sum)
        self._resolution_A = calibrated.claim.resolution_A or calibrated.claim.estimate_A
        return self.ended == ""

    def refine(self, found: HalfMaps, reporter: Reporter) -> None:
        """One round of both halves, one after the other."""
        number, begun_s = len(self.reports) + 1, time.perf_counter()
        last = _last_shell(found.calibrated)
        weight = torch.from_numpy(found.calibrated.regression_weight[: last + 1]).float()
        pixel_size_A = self.given.pixel_size_A
        self.before, comparisons = self.states, 0
        states = []
        for half in (0, 1):
            with reporter.stage(f"round {number}, refine half {half + 1}", "images") as report:
                rows = self.rows[half]
                images = ImagesOfHalf(
                    self.given, rows, torch.from_numpy(found.maps[half]), weight, found.noise_power[half]
                )
                state, n = refine_half(
                    images,
                    self.states[half],
                    self.given.images.particles.micrograph_index[rows].astype(np.int64),
                    self.settings,
                    np.random.default_rng([self.seed, half + 1, number]),
                    first=number == 1,
                    pixel_size_A=pixel_size_A,
                    report=report,
                )
                states.append(state)
                comparisons += n
        self.states = tuple(states)
        moved = torch.cat(
            [new.estimates.distance_from(old.estimates) for new, old in zip(states, self.before, strict=True)]
        )
        self.reports.append(
            RoundReport(
                number,
                self._resolution_A,
                self.best_sum,
                last,
                math.degrees(moved[:, :3].square().sum(1).mean().sqrt()),
                float(moved[:, 3:5].square().sum(1).mean().sqrt() * pixel_size_A),
                (_widths(states[0], pixel_size_A), _widths(states[1], pixel_size_A)),
                float(torch.cat([state.gain for state in states]).mean()),
                comparisons,
                round(time.perf_counter() - begun_s, 2),
            )
        )
        reporter.log.write(f"round {number}: {asdict(self.reports[-1])}")

    def observations_now(self) -> Observations:
        """The observations at the present estimates."""
        particles = self.particles_now()
        coefficients = ctf_coefficients(particles)
        if self.settings.weigh_by_width:
            coefficients[:, 5] += self._per_particle("blur")
        return replace(
            self.given,
            ctf_coefficients=torch.from_numpy(coefficients),
            rotations=torch.from_numpy(particles.rotations),
            shifts_px=torch.from_numpy(particles.shifts_A / particles.pixel_size_A),
        )

    def particles_now(self) -> Particles:
        """The particles at the present estimates."""
        particles = self.given.images.particles
        rotations, shifts_A = particles.rotations.copy(), particles.shifts_A.copy()
        defocus_A, contrast = particles.defocus_A.copy(), particles.contrast.copy()
        for rows, state in zip(self.rows, self.states, strict=True):
            estimates = state.estimates
            rotations[rows] = estimates.rotations.numpy()
            shifts_A[rows] = estimates.shifts_px.numpy() * self.given.pixel_size_A
            defocus_A[rows] += estimates.defocus_A.numpy()[:, None]
            contrast[rows] *= estimates.contrasts.numpy()
        return replace(
            particles, rotations=rotations, shifts_A=shifts_A, defocus_A=defocus_A, contrast=contrast
        )

    def _per_particle(self, name: str) -> NDArray[np.float64]:
        """Values of the halves' states in the order of the particle file."""
        parts = [getattr(self, f"_{name}")(state) for state in self.states]
        result = np.zeros((sum(map(len, parts)), *parts[0].shape[1:]))
        for rows, part in zip(self.rows, parts, strict=True):
            result[rows] = part
        return result

    def _gain(self, state: HalfState) -> NDArray[np.float64]:
        return state.gain.numpy()

    def _width(self, state: HalfState) -> NDArray[np.float64]:
        units = np.array([np.rad2deg(1.0), self.given.pixel_size_A, 1.0, 1.0])
        width: NDArray[np.float64] = state.width.numpy() * units
        return width

    def _blur(self, state: HalfState) -> NDArray[np.float64]:
        """A quarter of the B factor of what the pose's uncertainty blurs: B = 8 pi^2 u^2, u along each axis."""
        turn, shift = state.width[:, 0].numpy(), state.width[:, 1].numpy() * self.given.pixel_size_A
        # A point at the radius r moves by r times the turn about the two axes that move it; of all points of a ball
        # of the particle's size, 3/5 of the squared radius on average.
        radius_A = self.given.particle_radius_px * self.given.pixel_size_A / 2
        square_A2 = shift**2 / 2 + (turn**2 / 3) * 0.6 * radius_A**2 * 2 / 3
        blur: NDArray[np.float64] = 2 * np.pi**2 * square_A2
        return blur

    def result(self) -> Refinement:
        return Refinement(
            self.particles_now(),
            self.observations_now(),
            self._per_particle("gain"),
            self._per_particle("width"),
            tuple(self.reports),
            self.ended,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name: what a checkpoint holds."""
        return {
            f"{which}{half}/{name}": value.clone()  # a file must not hold one tensor under two names
            for which, states in (("now", self.states), ("before", self.before))
            for half, state in enumerate(states)
            for name, value in state.tensors().items()
        }

    def numbers(self) -> dict[str, Any]:
        """Everything else."""
        reports = [asdict(report) for report in self.reports]
        return {"reports": reports, "best_sum": self.best_sum, "ended": self.ended}

    def restore(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what `tensors` and `numbers` gave."""

        def state(prefix: str) -> HalfState:
            return HalfState.of_tensors(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )

        self.states = tuple(state(f"now{half}/") for half in (0, 1))
        self.before = tuple(state(f"before{half}/") for half in (0, 1))
        self.reports = [RoundReport(**report) for report in numbers["reports"]]
        self.best_sum, self.ended = numbers["best_sum"], numbers["ended"]


def _fsc_sum(calibrated: CalibratedFSC) -> float:
    valid = calibrated.valid_up_to_shell
    return 0.0 if valid is None else float(calibrated.smoothed[1 : valid + 1].sum())


def _last_shell(calibrated: CalibratedFSC) -> int:
    """Last shell of which the half maps know something."""
    return int(np.flatnonzero(calibrated.regression_weight > LEAST_WEIGHT).max(initial=0))


def _widths(state: HalfState, pixel_size_A: float) -> tuple[float, ...]:
    widths = state.precision.rsqrt()
    return tuple(
        round(float(widths[i]) * unit, 4)
        for i, unit in ((0, np.rad2deg(1.0)), (3, pixel_size_A), (5, 1.0), (6, 1.0))
    )

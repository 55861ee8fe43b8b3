"""Rounds of local refinement: maps of the halves, then poses of each half against its own map, until nothing gains.

What the halves share is the frequencies that the calibrated FSC of a round supports, one weight a shell: all else
(map, noise, poses, widths of the prior, random numbers) is of one half alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d import ranks
from gem3d.assess import CalibratedFSC
from gem3d.assess.shells import FloatVolume
from gem3d.errors import warn
from gem3d.fit.checkpoint import Checkpoint
from gem3d.fit.observations import Observations
from gem3d.optics import BLUR
from gem3d.particles import Particles, file_order
from gem3d.progress import Reporter
from gem3d.refine.estimates import DEFOCUS, Estimates
from gem3d.refine.half import HalfState, leaves_defocus, refine_half
from gem3d.refine.images import ImagesOfHalf
from gem3d.refine.result import HalfMaps, Refinement, RoundReport
from gem3d.settings import RefineSettings

# A round must raise the sum of the calibrated FSC over its shells by this share for another to follow.
LEAST_GAIN = 0.005
# Shells whose weight is below this have nothing to say.
LEAST_WEIGHT = 0.02
FEWEST_SHELLS = 4


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
    if checkpoint is not None and going_on:
        checkpoint.restore(course.restore)
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
        self.best_states = self.states
        self.reports: list[RoundReport] = []
        self.best_sum = 0.0
        self.ended = ""

    def _given_poses(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(rows)
        return torch.from_numpy(self.given.images.particles.rotations[rows]), self.given.shifts_px[index]

    def judge(self, calibrated: CalibratedFSC) -> bool:
        """Whether to refine against maps; ends the course where not, or where this was the last round."""
        fsc_sum, before = _fsc_sum(calibrated), self.best_sum
        if fsc_sum >= before:
            self.best_states, self.best_sum = self.states, fsc_sum
        n = len(self.reports)
        done = "1 round" if n == 1 else f"{n} rounds"
        # Poses that are good must not keep the defocus from its turn.
        defocus_to_come = n == 1 and leaves_defocus(self.settings, first=True)
        if n == self.settings.rounds:
            self.ended = f"after {done} (--rounds)"
        elif n > 0 and fsc_sum < (1 + LEAST_GAIN) * before and not defocus_to_come:
            self.ended = f"after {done}, as the last gained next to nothing"
        elif _last_shell(calibrated) < FEWEST_SHELLS:
            self.ended = "nothing refined, as the half maps do not agree" if n == 0 else f"after {done}"
            warn("the half maps hold too few shells to refine particles against, which are left as they are")
        if self.ended and fsc_sum < self.best_sum:
            self.states = self.best_states
            self.ended += "; the particles are those of the round with the best maps, not of the last"
        self._resolution_A = calibrated.claim.resolution_A or calibrated.claim.estimate_A
        return self.ended == ""

    def refine(self, found: HalfMaps, reporter: Reporter) -> None:
        """One round of both halves, one after the other."""
        number, begun_s = len(self.reports) + 1, time.perf_counter()
        last = _last_shell(found.calibrated)
        weight = torch.from_numpy(found.calibrated.regression_weight[: last + 1]).float()
        pixel_size_A = self.given.pixel_size_A
        before = self.states
        tasks = [
            (
                self.given,
                self.rows[half],
                found.maps[half],
                weight,
                found.noise_power[half],
                self.states[half],
                self.settings,
                (self.seed, half + 1, number),
            )
            for half in (0, 1)
        ]
        if ranks.n_ranks() > 1:
            with reporter.stage(f"round {number}, refine halves", "images") as report:
                refined = ranks.each(_refine_half, tasks, {"report": report})
        else:
            refined = []
            for half in (0, 1):
                with reporter.stage(f"round {number}, refine half {half + 1}", "images") as report:
                    refined.append(_refine_half(*tasks[half], report=report))
        states = [state for state, _ in refined]
        comparisons = sum(n for _, n in refined)
        self.states = tuple(states)
        moved = torch.cat(
            [new.estimates.distance_from(old.estimates) for new, old in zip(states, before, strict=True)]
        )
        self.reports.append(
            RoundReport(
                number,
                self._resolution_A,
                _fsc_sum(found.calibrated),
                last,
                math.degrees(moved[:, :3].square().sum(1).mean().sqrt()),
                float(moved[:, 3:5].square().sum(1).mean().sqrt() * pixel_size_A),
                (self._widths(states[0], number), self._widths(states[1], number)),
                float(torch.cat([state.gain for state in states]).mean()),
                comparisons,
                round(time.perf_counter() - begun_s, 2),
            )
        )
        reporter.log.write(f"round {number}: {asdict(self.reports[-1])}")

    def observations_now(self) -> Observations:
        """The observations at the present estimates."""
        observations = self.given.at(self.particles_now())
        if self.settings.weigh_by_width:
            observations.ctf_coefficients[:, BLUR] += torch.from_numpy(self._per_particle(self._blur))
        return observations

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

    def _per_particle(self, values_of: Callable[[HalfState], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Values of the halves' states in the order of the particle file."""
        parts = [values_of(state) for state in self.states]
        result = np.zeros((sum(map(len, parts)), *parts[0].shape[1:]))
        for rows, part in zip(self.rows, parts, strict=True):
            result[rows] = part
        return result

    def _widths(self, state: HalfState, number: int) -> tuple[float, ...]:
        """Of the prior that a round was done with: angle (degrees), shift (A), defocus (A), contrast."""
        widths = state.precision.rsqrt()
        if leaves_defocus(self.settings, first=number == 1):
            widths[DEFOCUS] = 0
        units = ((0, math.degrees(1)), (3, self.given.pixel_size_A), (5, 1.0), (6, 1.0))
        return tuple(round(float(widths[i]) * unit, 4) for i, unit in units)

    def _width(self, state: HalfState) -> NDArray[np.float64]:
        units = np.array([math.degrees(1), self.given.pixel_size_A, 1.0, 1.0])
        width: NDArray[np.float64] = state.width.numpy() * units
        return width

    def _blur(self, state: HalfState) -> NDArray[np.float64]:
        """A quarter of the B factor of what the pose's uncertainty blurs: B = 8 pi^2 u^2, u along each axis."""
        turn, shift = state.width[:, 0].numpy(), state.width[:, 1].numpy() * self.given.pixel_size_A
        # The circle outside which there is background is drawn wide: a particle reaches about half as far. A point at
        # the radius r moves by r times the turn about the two axes that move it; of all points of a ball
        # of the particle's size, 3/5 of the squared radius on average.
        radius_A = self.given.particle_radius_px * self.given.pixel_size_A / 2
        square_A2 = shift**2 / 2 + (turn**2 / 3) * 0.6 * radius_A**2 * 2 / 3
        blur: NDArray[np.float64] = 2 * np.pi**2 * square_A2
        return blur

    def result(self) -> Refinement:
        return Refinement(
            self.particles_now(),
            self.observations_now(),
            self._per_particle(lambda state: state.gain.numpy()),
            self._per_particle(self._width),
            self.settings,
            tuple(self.reports),
            self.ended,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name: what a checkpoint holds."""
        return {
            f"{which}{half}/{name}": value.clone()  # a file must not hold one tensor under two names
            for which, states in (("now", self.states), ("best", self.best_states))
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
        self.best_states = tuple(state(f"best{half}/") for half in (0, 1))
        self.reports = [RoundReport(**report) for report in numbers["reports"]]
        self.best_sum, self.ended = numbers["best_sum"], numbers["ended"]


def _refine_half(
    observations: Observations,
    rows: NDArray[np.int64],
    density: FloatVolume,
    weight: torch.Tensor,
    noise_power: torch.Tensor,
    state: HalfState,
    settings: RefineSettings,
    stream: tuple[int, ...],
    report: Callable[[int, int, str], None] | None = None,
) -> tuple[HalfState, int]:
    """One round of one half, which seed, half and round give random numbers of its own."""
    return refine_half(
        ImagesOfHalf(observations, rows, torch.from_numpy(density), weight, noise_power),
        state,
        observations.images.particles.micrograph_index[rows].astype(np.int64),
        settings,
        np.random.default_rng(stream),
        first=stream[-1] == 1,
        pixel_size_A=observations.pixel_size_A,
        report=report,
    )


def _fsc_sum(calibrated: CalibratedFSC) -> float:
    valid = calibrated.valid_up_to_shell
    return 0.0 if valid is None else float(calibrated.smoothed[1 : valid + 1].sum())


def _last_shell(calibrated: CalibratedFSC) -> int:
    """Last shell of which the half maps know something."""
    return int(np.flatnonzero(calibrated.regression_weight > LEAST_WEIGHT).max(initial=0))

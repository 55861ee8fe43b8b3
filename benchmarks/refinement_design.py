"""Why the refinement is as it is: what a particle's own noise in the map costs, and what weighted shells gain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from context import Context
from gem3d import ReconstructSettings, RefineSettings
from gem3d.fit.observations import Observations
from gem3d.half_maps import Job, maps_of_round
from gem3d.inputs import BACKGROUND_DIAMETER_BOXES, find_images
from gem3d.progress import Reporter
from gem3d.refine.estimates import Estimates
from gem3d.refine.half import HalfState, refine_half
from gem3d.refine.images import ImagesOfHalf
from gem3d.refine.rounds import LEAST_WEIGHT
from gem3d.threads import set_threads
from quality import cases, perturbed_set
from refinement import true_particles
from registry import Measurement, benchmark

TABLE = "Half 1 after one round, rms pose error in degrees"
PLAIN_SHELLS = 40


@benchmark(
    "refine_own_noise", "half 1 refined against its own map and, which must not be done, against the other"
)
def refine_own_noise(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, perturbed_set, seeds=context.seeds[:1]):
        folder = context.particle_set(spec)
        set_threads(context.threads)
        settings = ReconstructSettings(quiet=True, gaussians=context.size("auto", 300))
        images, halves = find_images(folder / "particles.star", settings)
        diameter_A = BACKGROUND_DIAMETER_BOXES * spec.box_px * spec.pixel_A
        observations = Observations.of(images, diameter_A / spec.pixel_A / 2)
        job = Job(settings, Reporter(quiet=True), halves, (spec.box_px - 1) // 2, diameter_A, None)
        found = maps_of_round(job, observations, "round 1", lambda: None)
        weight = torch.from_numpy(found.calibrated.regression_weight).float()
        known = int(np.flatnonzero(weight > LEAST_WEIGHT).max(initial=4))
        rows = np.flatnonzero(halves == 1)
        index = torch.from_numpy(rows)
        rotations = torch.from_numpy(observations.images.particles.rotations)
        start = Estimates.start(rotations[index], observations.shifts_px[index])
        true = true_particles(context, spec)
        exact = Estimates.start(
            torch.from_numpy(true.rotations[rows]), torch.from_numpy(true.shifts_A[rows] / spec.pixel_A)
        )
        yield Measurement(TABLE, case, "before", _rms_deg(start, exact))
        plain = torch.ones(context.size(PLAIN_SHELLS, 10) + 1)
        for which, number in (("own", 0), ("other", 1)):
            for name, shells in (
                ("weighted", weight[: known + 1]),
                (f"{len(plain) - 1} shells as they are", plain),
            ):
                half = ImagesOfHalf(
                    observations, rows, torch.from_numpy(found.maps[number]), shells, found.noise_power[0]
                )
                refinement = RefineSettings(defocus="fixed", contrast="fixed")
                state, _ = refine_half(
                    half,
                    HalfState.begin(start, refinement, spec.pixel_A),
                    np.zeros(len(rows), np.int64),
                    refinement,
                    np.random.default_rng(0),
                    first=True,
                    pixel_size_A=spec.pixel_A,
                )
                yield Measurement(TABLE, case, f"{which} map, {name}", _rms_deg(state.estimates, exact))


def _rms_deg(found: Estimates, exact: Estimates) -> float:
    turns = found.distance_from(exact)[:, :3]
    return float(torch.rad2deg(turns.square().sum(1).mean().sqrt()))

"""Local refinement: poses and maps against the truth, before and after, beside relion_refine's local searches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import relion
from context import Context, Gem3dRun, SetSpec
from gem3d import ReconstructSettings, RefineSettings, read_particles
from gem3d.assess import ResolutionClaim, resolution_at
from gem3d.assess.fsc import FSC_THRESHOLD
from gem3d.fit.observations import Observations
from gem3d.half_maps import Job, maps_of_round
from gem3d.inputs import BACKGROUND_DIAMETER_BOXES, find_images
from gem3d.maps import read_map
from gem3d.particles import Particles, angles_between_deg
from gem3d.progress import Reporter
from gem3d.refine.estimates import Estimates
from gem3d.refine.images import ImagesOfHalf
from gem3d.refine.result import HalfMaps
from gem3d.refine.rounds import refine_particles
from gem3d.refine.step import refine_batch
from gem3d.summary import describe_claim
from gem3d.threads import set_threads
from honesty import NOISE_SNR
from quality import cases, low_snr_set, perturbed_set
from registry import Measurement, Skipped, Target, benchmark
from score import actual_calibration, agreement, finer_percent, read_truth

REFINED = "Refinement of perturbed poses"
BRIGHT = "Refinement at SNR 0.05"
EXACT = "Refinement of exact poses"
NOISE = "Refinement of pure noise"
PEER = "Refinement beside relion_refine"
RATE = "Gauss-Newton steps"
STAR = "particles_refined.star"
RATE_RADIUS = 40
PEER_LIMIT_S = 900.0


@benchmark("refine", "low_snr with wrong poses, shifts and defoci: maps before and after gem3d refine")
def refine(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, perturbed_set, seeds=context.seeds[:1]):
        yield from _before_and_after(context, REFINED, case, spec)


def _before_and_after(context: Context, table: str, case: str, spec: SetSpec) -> Iterator[Measurement]:
    folder = context.particle_set(spec)
    before, after = context.gem3d(folder), context.gem3d(folder, "--refine")
    yield from _maps(table, case, before, after, folder, spec, Target(low=25))
    seconds = after.summary["seconds"]
    first = sum(s for name, s in seconds.items() if name.startswith("round 1") and "refine" not in name)
    target = Target(high=240)
    yield Measurement(table, case, "from the second map on, s", sum(seconds.values()) - first, target)
    yield from _claim(table, case, after, folder, spec)
    yield from _poses(
        table, case, read_particles(folder / "particles.star"), true_particles(context, spec), "before"
    )
    yield from _poses(table, case, read_particles(after.out / STAR), true_particles(context, spec), "after")


def _maps(
    table: str, case: str, before: Gem3dRun, after: Gem3dRun, folder: Path, spec: SetSpec, target: Target
) -> Iterator[Measurement]:
    truth, mask = read_truth(folder)
    found = {
        name: agreement(read_map(run.out / "map_unfiltered.mrc").values, truth, mask, spec.pixel_A)
        for name, run in (("before", before), ("after", after))
    }
    for name, one in found.items():
        yield Measurement(table, case, f"FSC 0.5 {name}, A", one.resolution_A, note=one.note)
    finer = finer_percent(found["after"].resolution_A, found["before"].resolution_A)
    yield Measurement(table, case, "finer by, %", finer, target, after.summary["refinement"]["ended"])


def true_particles(context: Context, spec: SetSpec) -> Particles:
    """Poses, shifts and defoci that the images were made with: errors leave the images as they are."""
    exact = replace(spec, angle_error_deg=0.0, shift_error_px=0.0, defocus_error_A=0.0)
    return read_particles(context.particle_set(exact) / "particles.star")


def errors(found: Particles, true: Particles) -> dict[str, float]:
    """Root mean square errors, by a title with its unit."""
    angles_deg = angles_between_deg(found.rotations, true.rotations)
    return {
        "pose error, degrees": float(np.sqrt(np.square(angles_deg).mean())),
        "shift error, A": float(np.sqrt(np.square(found.shifts_A - true.shifts_A).mean())),
        "defocus error, A": float(np.sqrt(np.square(found.defocus_A - true.defocus_A).mean())),
    }


def _poses(
    table: str, case: str, found: Particles, true: Particles, when: str, target: Target | None = None
) -> Iterator[Measurement]:
    for name, value in errors(found, true).items():
        mine = target if name.startswith("pose") else None
        yield Measurement(table, case, name.replace(",", f" {when},"), value, mine)


@benchmark("refine_bright", "the same at SNR 0.05: pose error, and the map beside that of the exact poses")
def refine_bright(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, perturbed_set, seeds=context.seeds[:1]):
        spec = replace(spec, snr=context.size(0.05, 0.3))
        exact = replace(spec, angle_error_deg=0.0, shift_error_px=0.0, defocus_error_A=0.0)
        folder = context.particle_set(spec)
        after = context.gem3d(folder, "--refine")
        given, best = context.gem3d(folder), context.gem3d(context.particle_set(exact))
        truth, mask = read_truth(folder)
        found = [
            agreement(read_map(run.out / "map_unfiltered.mrc").values, truth, mask, spec.pixel_A)
            for run in (given, after, best)
        ]
        for name, one in zip(("before", "after", "of exact poses"), found, strict=True):
            yield Measurement(BRIGHT, case, f"FSC 0.5 {name}, A", one.resolution_A, note=one.note)
        coarser = -finer_percent(found[1].resolution_A, found[2].resolution_A)
        yield Measurement(BRIGHT, case, "coarser than exact poses by, %", coarser, Target(high=5))
        yield from _poses(
            BRIGHT,
            case,
            read_particles(after.out / STAR),
            true_particles(context, spec),
            "after",
            Target(high=0.7),
        )


@benchmark(
    "refine_exact",
    "low_snr, whose poses are exact: nothing may be lost, and nothing claimed that is not there",
)
def refine_exact(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, low_snr_set, seeds=context.seeds[:1]):
        folder = context.particle_set(spec)
        before, after = context.gem3d(folder), context.gem3d(folder, "--refine")
        yield from _maps(EXACT, case, before, after, folder, spec, Target(low=-2))
        yield from _poses(
            EXACT, case, read_particles(after.out / STAR), true_particles(context, spec), "after"
        )
        yield from _claim(EXACT, case, after, folder, spec)


def _claim(table: str, case: str, run: Gem3dRun, folder: Path, spec: SetSpec) -> Iterator[Measurement]:
    """What is claimed beside what is true: where FSC(G1, truth) FSC(G2, truth) falls below 0.143."""
    truth, mask = read_truth(folder)
    one, two = (read_map(run.out / f"half{number}.mrc").values for number in (1, 2))
    real_A = resolution_at(
        actual_calibration((one, two), truth, mask), FSC_THRESHOLD, spec.pixel_A, spec.box_px
    ).resolution_A
    claimed_A = run.summary["resolution"]["calibrated"]["estimate_A"]
    yield Measurement(table, case, "claimed, A", claimed_A)
    yield Measurement(table, case, "true 0.143 crossing, A", real_A)
    if real_A is not None:
        finer = finer_percent(claimed_A, real_A)
        yield Measurement(table, case, "claim finer than the truth by, %", finer, Target(high=3))


@benchmark(
    "refine_noise",
    "pure noise, refined five rounds against whatever the maps hold: no resolution may be claimed",
)
def refine_noise(context: Context) -> Iterator[Measurement]:
    """As it is, a refinement of noise ends before its first step. It is also shown what happens if it did not."""
    sets, particles, box = context.size((5, 2_000, 64), (1, 200, 32))
    refined, claims, forced = 0, [], []
    for seed in range(1, sets + 1):
        spec = SetSpec(context.structures[0], particles, box, 204.8 / box, NOISE_SNR, seed)
        folder = context.particle_set(spec)
        run = context.gem3d(folder, "--refine")
        refined += bool(run.summary["refinement"]["rounds"])
        if run.summary["resolution"]["calibrated"]["kind"] != "none":
            claims.append(f"seed {seed}: {run.summary['resolution']['claim']}")
        forced += [f"seed {seed}: {claim}" for claim in _forced(context, folder)]
    case = f"{sets} sets of {particles:,} x {box} px"
    yield Measurement(NOISE, case, "sets with a claim", len(claims), Target(0, 0), "; ".join(claims))
    yield Measurement(NOISE, case, "sets in which a particle was moved", refined)
    measure = "sets with a claim if every shell is followed for five rounds"
    yield Measurement(NOISE, case, measure, len(forced), note="; ".join(forced))


def _forced(context: Context, folder: Path) -> list[str]:
    """What is claimed for the maps after five rounds against every shell of them, if anything."""
    set_threads(context.threads)
    settings = ReconstructSettings(quiet=True, gaussians=context.size("auto", 300))
    images, halves = find_images(folder / "particles.star", settings)
    box = images.box_size_px
    diameter_A = BACKGROUND_DIAMETER_BOXES * box * images.pixel_size_A
    reporter = Reporter(quiet=True)
    job = Job(settings, reporter, halves, (box - 1) // 2, diameter_A, None)
    claims: list[ResolutionClaim] = []

    def every_shell(observations: Observations, name: str) -> HalfMaps:
        found = maps_of_round(job, observations, name, lambda: None)
        claims.append(found.calibrated.claim)
        n = len(found.calibrated.smoothed)
        # A sum that rises every round, so that none is the last.
        risen = np.full(n, 0.1 * len(claims))
        calibrated = replace(
            found.calibrated, regression_weight=np.ones(n), smoothed=risen, valid_up_to_shell=n - 1
        )
        return replace(found, calibrated=calibrated)

    observations = Observations.of(images, diameter_A / images.pixel_size_A / 2)
    refine_particles(observations, halves, RefineSettings(rounds=5), every_shell, reporter, seed=0)
    assert len(claims) == 6
    return [] if claims[-1].kind == "none" else [describe_claim(claims[-1])]


@benchmark(
    "refine_peer",
    f"perturbed low_snr by relion_refine's local searches, at most {PEER_LIMIT_S / 60:g} minutes",
)
def refine_peer(context: Context) -> Iterator[Measurement]:
    if not relion.refine_available():
        raise Skipped(relion.MISSING)
    for case, spec in cases(context, perturbed_set, seeds=context.seeds[:1]):
        folder = context.particle_set(spec)
        truth, mask = read_truth(folder)
        ours = context.gem3d(folder, "--refine")
        theirs = relion.refine_locally(
            folder,
            folder / "relion_refine",
            sigma_deg=2.0,
            diameter_px=round(0.85 * spec.box_px),
            pixel_A=spec.pixel_A,
            limit_s=context.size(PEER_LIMIT_S, 60.0),
        )
        pairs = {"gem3d": (ours.out / "half1.mrc", ours.out / "half2.mrc")}
        if theirs is not None:
            pairs["RELION"] = theirs.half_maps
        for name, pair in pairs.items():
            one, two = (read_map(path).values for path in pair)
            both = agreement(np.asarray((one + two) / 2, np.float32), truth, mask, spec.pixel_A)
            yield Measurement(
                PEER, case, f"{name}, mean of the half maps, FSC 0.5, A", both.resolution_A, note=both.note
            )
        yield Measurement(PEER, case, "gem3d, s", ours.usage.wall_s, note="the whole run")
        true = true_particles(context, spec)
        yield from _poses(PEER, case, read_particles(ours.out / STAR), true, "gem3d")
        if theirs is None:
            yield Measurement(PEER, case, "RELION, s", None, note="no iteration within the limit")
            continue
        note = f"after iteration {theirs.iteration}"
        yield Measurement(PEER, case, "RELION, s", theirs.seconds, note=note)
        yield from _poses(PEER, case, _in_order_of(read_particles(theirs.star), true), true, "RELION")


def _in_order_of(found: Particles, true: Particles) -> Particles:
    """RELION sorts its particles by half; `image_index` tells them apart in a single stack."""
    order = np.argsort(found.image_index)
    assert (found.image_index[order] == np.sort(true.image_index)).all()
    return found.subset(order)


@benchmark(
    "refine_rate", f"particles a second and Gauss-Newton step, 128 px up to {RATE_RADIUS} Fourier pixels"
)
def refine_rate(context: Context) -> Iterator[Measurement]:
    spec = perturbed_set(context, context.structures[0], context.seeds[0])
    folder = context.particle_set(spec)
    set_threads(context.threads)
    images, _ = find_images(folder / "particles.star", ReconstructSettings())
    observations = Observations.of(images, BACKGROUND_DIAMETER_BOXES * spec.box_px / 2)
    radius = context.size(RATE_RADIUS, 10)
    n = min(len(images), 4096)
    rows = np.arange(n)
    truth, _ = read_truth(folder)
    power = torch.full((1, radius + 1), float(spec.box_px**2))
    half = ImagesOfHalf(observations, rows, torch.from_numpy(np.array(truth)), torch.ones(radius + 1), power)
    index = torch.from_numpy(rows)
    rotations = torch.from_numpy(observations.images.particles.rotations)
    start = Estimates.start(rotations[index], observations.shifts_px[index])
    # In units of which a bright truth is to make steps that are taken, not only tried.
    precision = torch.tensor([1e3] * 3 + [1.0] * 2 + [1e-5, 25.0], dtype=torch.float64)
    for name in ("first, to compile", "measured"):
        begun_s, comparisons = time.perf_counter(), 0
        for batch in half.batches(rows):
            begin = start.select(batch.where)
            comparisons += refine_batch(batch.compare, begin, begin, precision).comparisons
        seconds = time.perf_counter() - begun_s
        if name == "measured":
            case = f"{spec.box_px} px, radius {radius}, {context.threads} threads"
            note = f"{comparisons / n:.1f} steps a particle; reading and FFT included"
            yield Measurement(RATE, case, "particles/s a step", comparisons / seconds, Target(low=1500), note)

"""Does the program claim what is not there? Pure noise, and a signal that ends at a known resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from context import Context, SetSpec
from quality import high_snr_set
from registry import Measurement, Target, benchmark

NOISE_SNR = 1e-10
"""So little signal that the images are the noise to the last digit of single precision."""

LOW_PASS_A = 8.0


@benchmark("noise", "20 sets of pure noise, 2,000 x 64 px: no resolution may be claimed in any")
def noise(context: Context) -> Iterator[Measurement]:
    yield from _noise(context, *context.size((20, 2_000, 64), (2, 200, 32)))


@benchmark("noise_full", "the same with 10,000 x 128 px", in_all=False)
def noise_full(context: Context) -> Iterator[Measurement]:
    yield from _noise(context, *context.size((20, 10_000, 128), (2, 200, 32)))


def _noise(context: Context, sets: int, particles: int, box: int) -> Iterator[Measurement]:
    table, claims = "Pure noise", []
    for seed in range(1, sets + 1):
        spec = SetSpec(context.structures[0], particles, box, 204.8 / box, NOISE_SNR, seed)
        claim = context.gem3d(context.particle_set(spec)).summary["resolution"]["calibrated"]
        if claim["kind"] != "none":
            claims.append(f"seed {seed}: {claim['resolution_A']} A, interval {claim['interval_A']}")
    case = f"{sets} sets of {particles:,} x {box} px"
    yield Measurement(table, case, "sets with a claim", len(claims), Target(0, 0), "; ".join(claims))


@benchmark("low_passed", "a signal low-passed at 8 A: 7.4 to 8.6 A must be claimed")
def low_passed(context: Context) -> Iterator[Measurement]:
    for structure in context.structures:
        for seed in context.seeds:
            plain = high_snr_set(context, structure, seed)
            cut_A = context.size(LOW_PASS_A, 16.0)
            spec = dataclasses.replace(
                plain, particles=plain.particles // 2, kind="low-passed", low_pass_A=cut_A
            )
            resolution = context.gem3d(context.particle_set(spec)).summary["resolution"]
            target = Target(cut_A * 7.4 / 8, cut_A * 8.6 / 8)
            row = f"{Path(structure).stem}, seed {seed}"
            table, claim = f"Signal low-passed at {cut_A:g} A", resolution["calibrated"]
            note = resolution["claim"]
            yield Measurement(table, row, "claimed, A", claim["resolution_A"], target, note)
            for name, end in zip(("coarse", "fine"), claim["interval_A"], strict=True):
                yield Measurement(table, row, f"{name} end of the 90 % interval, A", end)
            for name in ("masked", "corrected"):
                found = resolution[name]
                measure = f"{name} FSC of the Gaussian half maps, 0.143, A"
                yield Measurement(table, row, measure, found["resolution_A"], note=found["reason"] or "")

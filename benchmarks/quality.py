"""Maps against the truth, beside relion_reconstruct on the same images; and what the calibrated FSC says of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import relion
from context import Context, Gem3dRun, SetSpec
from gem3d.assess import resolution_at
from gem3d.maps import read_map
from registry import Measurement, Skipped, Target, benchmark
from score import (
    COMPARE_ABOVE,
    Agreement,
    Curve,
    Volume,
    actual_calibration,
    agreement,
    calibrated_in,
    calibration_error,
    finer_percent,
    mean_difference,
    plain_calibration,
    read_truth,
    worst_difference,
)

HALVES = "Half maps against the truth"
FINAL = "Final map against the truth"
CALIBRATED = "Calibrated FSC against FSC(G1, truth) FSC(G2, truth)"
START = "Half maps from two kinds of start"

FINER = "gem3d finer by, %"
WORST_ABOVE = f"worst shell where RELION > {COMPARE_ABOVE:g}, difference in FSC"
WORST = "worst shell, difference in FSC"
MEAN = "mean over shells, difference in FSC"

LOW_SNR_TARGETS = {FINER: Target(low=8), WORST_ABOVE: Target(low=-0.005)}
HIGH_SNR_TARGETS = {WORST: Target(low=-0.005), MEAN: Target(low=0)}
PERTURBED_TARGETS = {FINER: Target(low=0)}
CALIBRATION_TARGETS = (Target(high=0.03), Target(high=0.08))


def low_snr_set(context: Context, structure: str, seed: int) -> SetSpec:
    """The set of the first case, which the time is measured on too."""
    n, box = context.size((10_000, 128), (400, 48))
    snr, envelope = context.size((0.01, 60.0), (0.1, 60.0))
    return SetSpec(structure, n, box, 204.8 / box, snr, seed, envelope_A2=envelope)


def high_snr_set(context: Context, structure: str, seed: int) -> SetSpec:
    n, box = context.size((20_000, 128), (800, 48))
    return SetSpec(structure, n, box, 204.8 / box, context.size(0.05, 0.3), seed)


def voxel_set(context: Context, structure: str, seed: int) -> SetSpec:
    return replace(low_snr_set(context, structure, seed), kind="voxel")


def perturbed_set(context: Context, structure: str, seed: int) -> SetSpec:
    return replace(
        low_snr_set(context, structure, seed), angle_error_deg=2.0, shift_error_px=0.5, defocus_error_A=300.0
    )


@benchmark("low_snr", "10,000 particles, SNR 0.01, envelope B 60: maps against the truth, beside RELION's")
def low_snr(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, low_snr_set):
        yield from compare(context, case, spec, LOW_SNR_TARGETS, LOW_SNR_TARGETS, calibration=True)


@benchmark("high_snr", "20,000 particles, SNR 0.05, no envelope: maps against the truth, beside RELION's")
def high_snr(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, high_snr_set):
        yield from compare(context, case, spec, HIGH_SNR_TARGETS, HIGH_SNR_TARGETS, calibration=True)


@benchmark("voxel_truth", "a truth that is no sum of Gaussians, images by relion_project, as low_snr")
def voxel_truth(context: Context) -> Iterator[Measurement]:
    if not relion.available():
        raise Skipped(relion.MISSING)
    for case, spec in cases(context, voxel_set):
        yield from compare(context, case, spec, LOW_SNR_TARGETS, {}, calibration=True)


@benchmark(
    "perturbed", "low_snr with errors of 2 degrees, 0.5 px and 300 A in the poses, shifts and defoci given"
)
def perturbed(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, perturbed_set):
        # What all halves share cannot be seen by comparing halves: the error is recorded, not judged.
        yield from compare(context, case, spec, PERTURBED_TARGETS, {}, calibration=False)


@benchmark(
    "random_start", "low_snr from Gaussians at random: half maps beside those started from the linear map"
)
def random_start(context: Context) -> Iterator[Measurement]:
    for case, spec in cases(context, low_snr_set, seeds=context.seeds[:1]):
        folder = context.particle_set(spec)
        truth, mask = read_truth(folder)
        for start in ("map", "random"):
            run = context.gem3d(folder, "--init", start)
            for number in (1, 2):
                row = f"{case}, half {number}"
                found = agreement(read_map(run.out / f"half{number}.mrc").values, truth, mask, spec.pixel_A)
                yield Measurement(START, row, f"FSC 0.5 from {start}, A", found.resolution_A, note=found.note)
                seconds = run.summary["seconds"][f"fit half {number}"]
                yield Measurement(START, row, f"fit from {start}, s", seconds)


def cases(
    context: Context, make: object, seeds: tuple[int, ...] | None = None
) -> Iterator[tuple[str, SetSpec]]:
    """Every structure and seed asked for, or the given seeds."""
    assert callable(make)
    for structure in context.structures:
        for seed in context.seeds if seeds is None else seeds:
            yield f"{Path(structure).stem}, seed {seed}", make(context, structure, seed)


def compare(
    context: Context,
    case: str,
    spec: SetSpec,
    half_targets: dict[str, Target],
    final_targets: dict[str, Target],
    *,
    calibration: bool,
) -> Iterator[Measurement]:
    """Reconstruct one set with both programs and score every map in the one mask made from the truth."""
    folder = context.particle_set(spec)
    run = context.gem3d(folder)
    truth, mask = read_truth(folder)
    files = {"half1": "half1.mrc", "half2": "half2.mrc", "all": "map_unfiltered.mrc"}
    shown = {FINER, MEAN, *half_targets, *final_targets}
    curves: dict[str, Curve] = {}
    for subset in relion.SUBSETS:
        ours = agreement(read_map(run.out / files[subset]).values, truth, mask, spec.pixel_A)
        theirs = None
        if relion.available():
            relion_map, _ = context.relion(folder, subset)
            theirs = agreement(read_map(relion_map).values, truth, mask, spec.pixel_A)
            curves[f"relion {subset}"] = theirs.curve
        curves[f"gem3d {subset}"] = ours.curve
        if subset == "all":
            yield from _measurements(FINAL, case, ours, theirs, final_targets, shown)
        else:
            row = f"{case}, half {subset[-1]}"
            yield from _measurements(HALVES, row, ours, theirs, half_targets, shown)
    curves |= yield from _calibration(case, spec, run, truth, mask, judge=calibration)
    _write_curves(folder / "curves.csv", curves, spec)


def _measurements(
    table: str,
    case: str,
    ours: Agreement,
    theirs: Agreement | None,
    targets: dict[str, Target],
    shown: set[str],
) -> Iterator[Measurement]:
    yield Measurement(table, case, "gem3d FSC 0.5, A", ours.resolution_A, note=ours.note)
    if theirs is None:
        yield Measurement(table, case, FINER, None, note=relion.MISSING)
        return
    yield Measurement(table, case, "RELION FSC 0.5, A", theirs.resolution_A, note=theirs.note)
    found = {
        FINER: (finer_percent(ours.resolution_A, theirs.resolution_A), None),
        WORST_ABOVE: worst_difference(ours.curve, theirs.curve, COMPARE_ABOVE),
        WORST: worst_difference(ours.curve, theirs.curve),
        MEAN: (mean_difference(ours.curve, theirs.curve), None),
    }
    for measure in [measure for measure in found if measure in shown]:
        value, shell = found[measure]
        note = "" if shell is None else f"shell {shell}, RELION's {theirs.curve[shell]:.3f}"
        yield Measurement(table, case, measure, value, targets.get(measure), note)


def _calibration(case: str, spec: SetSpec, run: Gem3dRun, truth: Volume, mask: Volume, *, judge: bool):  # type: ignore[no-untyped-def]
    """Yield the errors of the calibrated FSC; return its curves.

    Judged in the mask that the run measured in: the estimate and what it estimates then see the same part of the map.
    """
    halves = (read_map(run.out / "half1.mrc").values, read_map(run.out / "half2.mrc").values)
    linear = (read_map(run.out / "linear_half1.mrc").values, read_map(run.out / "linear_half2.mrc").values)
    own_mask = read_map(run.out / "mask.mrc").values
    calibrated = read_calibrated(run.out / "fsc.csv")
    actual = actual_calibration(halves, truth, own_mask)
    pairs = {
        "": (calibrated, actual),
        " (mask made from the truth)": (
            calibrated_in(halves, linear, mask, spec.pixel_A),
            actual_calibration(halves, truth, mask),
        ),
        " (truth's FSC masked before the transform)": (
            calibrated,
            plain_calibration(halves, truth, own_mask),
        ),
    }
    for which, (estimate, reference) in pairs.items():
        error = calibration_error(estimate, reference, spec.pixel_A, spec.box_px)
        mean_target, largest_target = CALIBRATION_TARGETS if judge and not which else (None, None)
        note = f"{error.shells} shells" + (f", {error.beyond} more beyond validity" if error.beyond else "")
        yield Measurement(CALIBRATED, case, f"mean absolute error{which}", error.mean, mean_target, note)
        yield Measurement(CALIBRATED, case, f"largest error{which}", error.largest, largest_target, note)
    crossing = resolution_at(actual, 0.143, spec.pixel_A, spec.box_px)
    claim = run.summary["resolution"]["calibrated"]
    yield Measurement(
        CALIBRATED, case, "claimed, A", claim["resolution_A"], note=run.summary["resolution"]["claim"]
    )
    yield Measurement(CALIBRATED, case, "actual 0.143, A", crossing.resolution_A, note=crossing.reason or "")
    return {"calibrated": calibrated, "actual": actual}


def read_calibrated(path: Path) -> Curve:
    """The column fsc_calibrated, NaN where it is empty."""
    with path.open(newline="") as file:
        return np.array([float(row["fsc_calibrated"] or "nan") for row in csv.DictReader(file)])


def _write_curves(path: Path, curves: dict[str, Curve], spec: SetSpec) -> None:
    """Every curve of a set, for whoever wants to see where a figure comes from."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["shell", "resolution_A", *curves])
        for shell, row in enumerate(zip(*curves.values(), strict=True)):
            resolution = "" if shell == 0 else f"{spec.box_px * spec.pixel_A / shell:.3f}"
            writer.writerow([shell, resolution, *(f"{value:.5f}" for value in row)])

"""What the assessment says, held against the truth and against RELION's programs; and what it costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

import relion
from context import Context, SetSpec, gem3d_program
from gem3d.assess import mask_corrected_fsc, resolution_at
from gem3d.assess.local_curves import LocalCurves, local_curves
from gem3d.assess.local_resolution import local_resolution, window_for
from gem3d.assess.shells import fourier_transform, frequency_radius, inverse_fourier_transform
from gem3d.maps import read_map, write_map
from measure import run_measured
from quality import CALIBRATION_TARGETS, cases, high_snr_set, low_snr_set
from registry import Measurement, Skipped, Target, benchmark
from score import Volume, actual_calibration, calibrated_in, calibration_error

COVERAGE_SETS = 40
# Those before had a part in choosing how curves are smoothed.
FIRST_COVERAGE_SEED = 101
# Signal-to-noise ratio and envelope B factor: where the half maps still correlate beyond the resolution, so that
# intervals close, and where fewer do.
COVERAGE_CONDITIONS = ((0.03, 150.0), (0.03, 300.0))
LEAST_COVERAGE = 85.0
# Of the mask made from the truth: Gaussian low-pass in pixels, threshold, edge in pixels. From loose to tight.
MASKS = {
    "loose": (4.0, 0.02, 2.0),
    "medium": (4.0, 0.08, 2.0),
    "close": (4.0, 0.4, 2.0),
    "tight": (2.0, 0.3, 0.7),
}
MISSING_CONE_DEG = 40.0


@benchmark("coverage", "the 90 % interval of the claim: how often it holds the resolution against the truth")
def coverage(context: Context) -> Iterator[Measurement]:
    sets, particles, box = context.size((COVERAGE_SETS, 4_000, 96), (2, 300, 32))
    for structure, (snr, envelope_A2) in product(context.structures, COVERAGE_CONDITIONS):
        outcomes = {"closed": 0, "held": 0, "open": 0, "open held": 0, "none": 0}
        errors = []
        for seed in range(FIRST_COVERAGE_SEED, FIRST_COVERAGE_SEED + sets):
            spec = SetSpec(structure, particles, box, 204.8 / box, snr, seed, envelope_A2=envelope_A2)
            folder = context.particle_set(spec)
            run = context.gem3d(folder)
            claim = run.summary["resolution"]["calibrated"]
            low_A, high_A = claim["interval_A"]
            if claim["kind"] == "none":
                outcomes["none"] += 1
                continue
            actual_A = _actual_resolution_A(folder, run.out, spec)
            if low_A is None or high_A is None:
                outcomes["open"] += 1
                outcomes["open held"] += (high_A or 0) <= actual_A <= (low_A or np.inf)
            else:
                outcomes["closed"] += 1
                outcomes["held"] += high_A <= actual_A <= low_A
            if claim["resolution_A"] is not None and claim["kind"] == "crossing":
                errors.append(100 * (claim["resolution_A"] / actual_A - 1))
        table, case = (
            "Coverage of the 90 % interval",
            f"{Path(structure).stem}, SNR {snr:g}, B {envelope_A2:g}, {sets} sets of {spec.size}",
        )
        held = 100 * outcomes["held"] / max(outcomes["closed"], 1)
        yield Measurement(table, case, "closed intervals", outcomes["closed"])
        yield Measurement(table, case, "of these hold the truth, %", held, Target(LEAST_COVERAGE))
        yield Measurement(table, case, "intervals with an open end", outcomes["open"])
        all_held = (
            100 * (outcomes["held"] + outcomes["open held"]) / max(outcomes["closed"] + outcomes["open"], 1)
        )
        yield Measurement(table, case, "of all intervals hold the truth, %", all_held, Target(LEAST_COVERAGE))
        yield Measurement(table, case, "nothing claimed", outcomes["none"])
        yield Measurement(table, case, "single numbers", len(errors))
        if errors:
            spread, bias = float(np.std(errors)), float(np.mean(errors))
            yield Measurement(table, case, "their mean error, % (+: coarser than the truth)", bias)
            yield Measurement(table, case, "their standard deviation, %", spread)


def _actual_resolution_A(folder: Path, out: Path, spec: SetSpec) -> float:
    """Where FSC(G1, truth) FSC(G2, truth) falls below 0.143 in the run's mask, at the latest where the data end."""
    halves = read_map(out / "half1.mrc").values, read_map(out / "half2.mrc").values
    curve = actual_calibration(
        halves, read_map(folder / "truth.mrc").values, read_map(out / "mask.mrc").values
    )
    found = resolution_at(curve[: (spec.box_px - 1) // 2 + 1], 0.143, spec.pixel_A, spec.box_px)
    if found.resolution_A is None and curve[1] < 0.143:
        return spec.box_px * spec.pixel_A  # from the first shell on
    return found.resolution_A or 2 * spec.pixel_A


@benchmark("calibration_masks", "the calibrated FSC with uneven views, and in masks from loose to tight")
def calibration_masks(context: Context) -> Iterator[Measurement]:
    table = "Calibrated FSC against FSC(G1, truth) FSC(G2, truth)"
    views = {"uniform views": "", "uneven views": str(_uneven_views())}
    for case, plain in cases(context, low_snr_set, seeds=context.seeds[:1]):
        for name, poses in views.items():
            spec = replace(plain, poses=poses)
            folder = context.particle_set(spec)
            run = context.gem3d(folder)
            halves = read_map(run.out / "half1.mrc").values, read_map(run.out / "half2.mrc").values
            linear = tuple(read_map(run.out / f"linear_half{n}.mrc").values for n in (1, 2))
            truth = read_map(folder / "truth.mrc").values
            masks = {"its own mask": read_map(run.out / "mask.mrc").values}
            masks |= {f"{mask} mask": _mask(truth, *shape) for mask, shape in MASKS.items()}
            for mask_name, mask in masks.items():
                row = f"{case}, {name}, {mask_name}"
                estimate = calibrated_in(halves, linear, mask, spec.pixel_A)
                error = calibration_error(
                    estimate, actual_calibration(halves, truth, mask), spec.pixel_A, spec.box_px
                )
                note = f"{error.shells} shells"
                mean, largest = CALIBRATION_TARGETS
                yield Measurement(table, row, "mean absolute error", error.mean, mean, note)
                yield Measurement(table, row, "largest error", error.largest, largest, note)
            directions, claim = run.summary["directions"], run.summary["resolution"]["claim"]
            yield Measurement("Views", f"{case}, {name}", "cFAR", directions["cfar"], note=claim)
            for measure in ("scf", "efficiency"):
                yield Measurement("Views", f"{case}, {name}", measure, run.summary["orientations"][measure])


def _mask(truth: Volume, low_pass_px: float, threshold: float, edge_px: float) -> Volume:
    smooth = gaussian_filter(truth, low_pass_px)
    mask: Volume = gaussian_filter((smooth > threshold * smooth.max()).astype(np.float32), edge_px)
    return mask


def _uneven_views() -> Path:
    """Orientations of a real refinement."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats" / "history_starfile.star"
    if not path.exists():
        raise Skipped(f"{path.name}, a STAR file of real orientations, is absent")
    return path


@benchmark("missing_cone", "views that leave a cone of 40 degrees unseen: cFAR, and what the page says")
def missing_cone(context: Context) -> Iterator[Measurement]:
    poses = context.work / "views" / f"missing-{MISSING_CONE_DEG:g}.star"
    _write_views_within(poses, 90 - MISSING_CONE_DEG)
    for case, plain in cases(context, low_snr_set, seeds=context.seeds[:1]):
        spec = replace(plain, poses=str(poses))
        run = context.gem3d(context.particle_set(spec))
        found = run.summary["directions"]
        page = (run.out / "report.html").read_text()
        said = re.search(r"What limits it:</b> preferred orientation", page) is not None
        table = f"Views that leave a cone of {MISSING_CONE_DEG:g} degrees half-angle unseen"
        yield Measurement(table, case, "cFAR", found["cfar"], Target(high=0.5))
        yield Measurement(table, case, "the page says so", float(said), Target(1, 1))
        yield Measurement(table, case, "sphericity", found["sphericity"])
        for measure in ("scf", "efficiency", "unseen"):
            yield Measurement(table, case, measure, run.summary["orientations"][measure])


def _write_views_within(path: Path, tilt_deg: float, n: int = 5_000) -> None:
    """Uniform views from within an angle of z: nearer to z than 90 degrees less that, Fourier space stays empty."""
    rng = np.random.default_rng(0)
    tilts = np.rad2deg(np.arccos(rng.uniform(np.cos(np.deg2rad(tilt_deg)), 1, n)))
    rots, psis = rng.uniform(-180, 180, (2, n))
    names = ("ImageName", "DetectorPixelSize", "Magnification", "AngleRot", "AngleTilt", "AnglePsi")
    columns = "\n".join(f"_rln{name}" for name in names)
    rows = "\n".join(
        f"{i}@none.mrcs 5 50000 {rot:.4f} {tilt:.4f} {psi:.4f}"
        for i, (rot, tilt, psi) in enumerate(zip(rots, tilts, psis, strict=True), start=1)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"data_particles\n\nloop_\n{columns}\n{rows}\n")


@benchmark("assess_peer", "linear half maps judged by gem3d and by relion_postprocess, in the same mask")
def assess_peer(context: Context) -> Iterator[Measurement]:
    if not relion.postprocess_available():
        raise Skipped(relion.MISSING)
    for make, name in ((low_snr_set, "SNR 0.01"), (high_snr_set, "SNR 0.05")):
        for case, spec in cases(context, make, seeds=context.seeds[:1]):
            folder = context.particle_set(spec)
            out = context.gem3d(folder).out
            yield from _beside_postprocess(context, f"{case}, {name}", folder, out, spec)


def _beside_postprocess(
    context: Context, case: str, folder: Path, out: Path, spec: SetSpec
) -> Iterator[Measurement]:
    halves = read_map(out / "linear_half1.mrc").values, read_map(out / "linear_half2.mrc").values
    mask = read_map(out / "mask.mrc").values
    context.say(f"relion_postprocess of {folder.name}")
    theirs = relion.postprocess(out, spec.pixel_A)
    last = (spec.box_px - 1) // 2
    ours = mask_corrected_fsc(*halves, mask, spec.pixel_A)
    table = "FSC corrected for the mask, beside relion_postprocess"
    difference = float(np.abs(ours.corrected[1 : last + 1] - theirs.corrected[1 : last + 1]).mean())
    yield Measurement(table, case, "mean absolute difference", difference, Target(high=0.01))
    yield Measurement(
        table, case, "gem3d, A", ours.resolution.resolution_A, note=ours.resolution.reason or ""
    )
    read_alike = resolution_at(theirs.corrected[: last + 1], 0.143, spec.pixel_A, spec.box_px)
    note = read_alike.reason or ""
    yield Measurement(table, case, "RELION's curve, A", read_alike.resolution_A, note=note)
    yield Measurement(table, case, "as RELION states it (last shell above), A", theirs.resolution_A)
    shells = [last if found.shell is None else found.shell for found in (ours.resolution, read_alike)]
    yield Measurement(table, case, "apart, shells", abs(shells[0] - shells[1]), Target(high=1))

    table = "Local resolution of linear half maps, median in the mask, A"
    truth = read_map(folder / "truth.mrc").values
    inside = mask > 0.5
    claim_A = ours.resolution.resolution_A or 2 * spec.pixel_A
    window_A = window_for(claim_A, 0.143, spec.pixel_A, spec.box_px)
    of = {"window_A": window_A, "last_shell": last}
    found = local_curves(*halves, mask, spec.pixel_A, **of)
    in_solvent = local_curves(*halves, np.ones_like(mask), spec.pixel_A, **of)
    known = _against_truth(halves, truth, mask, spec.pixel_A, of)
    ours_A = local_resolution(found, mask, spec.pixel_A)
    in_solvent_A = local_resolution(in_solvent, mask, spec.pixel_A).values_A
    theirs_A = relion.local_resolution(out, spec.pixel_A)
    truth_A = local_resolution(known, mask, spec.pixel_A).median_A
    yield Measurement(table, case, "gem3d", ours_A.median_A)
    yield Measurement(table, case, "against the truth", truth_A)
    yield Measurement(table, case, "apart", abs(ours_A.median_A - truth_A))
    yield Measurement(table, case, "gem3d, window not masked", float(np.median(in_solvent_A[inside])))
    yield Measurement(table, case, "RELION (locres.mrc)", float(np.median(theirs_A.map_A[inside])))

    table = "At RELION's sampling points in the mask, median, A"
    z, y, x = theirs_A.points.T
    here = np.all((theirs_A.points >= 0) & (theirs_A.points < spec.box_px), axis=1)
    here[here] = inside[z[here], y[here], x[here]]
    read = [
        resolution_at(curve[: last + 1], 0.143, spec.pixel_A, spec.box_px).resolution_A or 2 * spec.pixel_A
        for curve in theirs_A.corrected[here]
    ]
    at_points = float(np.median(ours_A.values_A[z[here], y[here], x[here]]))
    yield Measurement(table, case, "gem3d", at_points)
    yield Measurement(table, case, "RELION's local curves", float(np.median(read)))
    apart = abs(at_points - float(np.median(read)))
    yield Measurement(table, case, "apart", apart, Target(high=0.3))
    yield Measurement(table, case, "points", float(here.sum()))


def _against_truth(
    halves: tuple[Volume, Volume], truth: Volume, mask: Volume, pixel_A: float, of: dict[str, float]
) -> LocalCurves:
    """Curves of FSC(B1, truth) FSC(B2, truth), which the FSC of the half maps estimates."""
    first, second = (local_curves(half, truth, mask, pixel_A, **of) for half in halves)
    return replace(first, calibrated=first.calibrated * second.calibrated)


@benchmark(
    "local_resolution", "a map whose two halves end at 4 and at 8 A, and the calibrated one of real fits"
)
def local(context: Context) -> Iterator[Measurement]:
    table = "A map that ends at 4 A on one side and at 8 A on the other: local resolution, median, A"
    pixel_A, box = 1.6, context.size(128, 96)
    for noise in (0.3, 0.4, 0.6):
        halves, mask, x = _two_sides(box, pixel_A, noise)
        window_A = window_for(4.0, 0.143, pixel_A, box)
        curves = local_curves(*halves, mask, pixel_A, window_A=window_A, last_shell=box // 2 - 1)
        values_A = local_resolution(curves, mask, pixel_A).values_A
        reach = 0.8 * window_A / pixel_A
        for side, where, expected_A in (("4 A", x < -reach, 4.0), ("8 A", x > reach, 8.0)):
            found_A = float(np.median(values_A[(mask > 0.9) & where]))
            target = Target(0.85 * expected_A, 1.15 * expected_A)
            yield Measurement(
                table, f"noise {noise:g} of the signal", f"side that ends at {side}", found_A, target
            )

    table = "Local resolution of the Gaussian half maps, inside the mask, A"
    for case, spec in cases(context, low_snr_set, seeds=context.seeds[:1]):
        folder = context.particle_set(spec)
        run = context.gem3d(folder)
        maps = {
            n: read_map(run.out / f"{n}.mrc").values for n in ("half1", "half2", "mask", "local_resolution")
        }
        summary = run.summary["local_resolution"]
        of = {
            "window_A": summary["window_A"],
            "last_shell": round(spec.box_px * spec.pixel_A / summary["finest_A"]),
        }
        truth, mask = read_map(folder / "truth.mrc").values, maps["mask"]
        known = local_resolution(
            _against_truth((maps["half1"], maps["half2"]), truth, mask, spec.pixel_A, of), mask, spec.pixel_A
        )
        ratio = (maps["local_resolution"] / known.values_A)[mask > 0.5]
        yield Measurement(table, case, "median", summary["median_A"])
        yield Measurement(table, case, "median against the truth", known.median_A)
        yield Measurement(
            table, case, "root mean square error, %", float(100 * np.sqrt(np.mean((ratio - 1) ** 2)))
        )
        yield Measurement(table, case, "window, A", summary["window_A"])


def _two_sides(box: int, pixel_A: float, noise: float) -> tuple[tuple[Volume, Volume], Volume, Volume]:
    """Noisy half maps of a fading density that ends at 4 A where x < 0 and at 8 A where x > 0."""
    rng = np.random.default_rng(3)
    axis = np.arange(box) - box // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = np.clip((0.33 * box - radius) / 5 + 0.5, 0, 1).astype(np.float32)
    x = axis * np.ones((box, box, 1))
    k_per_A = frequency_radius(box) / (box * pixel_A)
    spectrum = fourier_transform(rng.standard_normal((box,) * 3, dtype=np.float32))
    spectrum *= np.exp(-15 * k_per_A**2) * (1 + 10 * np.exp(-((20 * k_per_A) ** 2)))
    whole = inverse_fourier_transform(spectrum, box)
    fine, coarse = (
        inverse_fourier_transform(spectrum * (k_per_A <= 1 / end_A), box) / whole.std()
        for end_A in (4.0, 8.0)
    )
    left = np.clip(0.5 - x / 4, 0, 1).astype(np.float32)
    truth = (fine * left + coarse * (1 - left)) * mask
    halves = [truth + noise * rng.standard_normal(truth.shape, dtype=np.float32) for _ in range(2)]
    return (halves[0].astype(np.float32), halves[1].astype(np.float32)), mask, x


@benchmark("assess_cost", "time and memory of gem3d assess at box 256, and what it adds to a reconstruction")
def assess_cost(context: Context) -> Iterator[Measurement]:
    structure, box = context.structures[0], context.size(256, 64)
    folder = context.work / "assess_cost"
    linear, halves, final = _maps_with_a_prior(context, structure, box, folder)
    table = f"gem3d assess, box {box}"
    for case, files in (("half maps alone", linear), ("with linear half maps and the final map", halves)):
        extra = [] if files is linear else ["--linear", *linear, "--map", final]
        words = ["assess", *files, *extra, "--out", folder / "out", "--overwrite", "--quiet"]
        usage = run_measured([*gem3d_program(), *map(str, words), "--threads", str(context.threads)])
        yield Measurement(table, case, "seconds", usage.wall_s, Target(high=60))
        yield Measurement(table, case, "processor seconds", usage.cpu_s)
        yield Measurement(table, case, "peak memory, GB", usage.peak_GB, Target(high=3))
        megabytes = (folder / "out" / "report.html").stat().st_size / 1e6
        yield Measurement(table, case, "report.html, MB", megabytes, Target(high=15))
    spec = low_snr_set(context, structure, context.seeds[0])
    seconds = context.gem3d(context.particle_set(spec)).summary["seconds"]
    table, case = f"Reconstruction of {spec.size}", "stages, seconds"
    yield Measurement(table, case, "report", seconds["report"], Target(high=15))
    for stage in ("assess", "local resolution", "directions"):
        yield Measurement(table, case, stage, seconds.get(stage))
    yield Measurement(table, case, "all", sum(seconds.values()))


def _maps_with_a_prior(
    context: Context, structure: str, box: int, folder: Path
) -> tuple[list[Path], list[Path], Path]:
    """Noisy half maps of a structure, the same low-passed as a prior would, and their mean."""
    spec = SetSpec(structure, 2, box, 204.8 / box, 1.0, 0)
    truth = read_map(context.particle_set(spec) / "truth.mrc").values
    rng = np.random.default_rng(0)
    k = frequency_radius(box) / box
    folder.mkdir(parents=True, exist_ok=True)
    linear, halves = ([folder / f"{name}{number}.mrc" for number in (1, 2)] for name in ("linear", "half"))
    mean = np.zeros_like(truth)
    for noisy, smooth in zip(linear, halves, strict=True):
        values = truth + 0.5 * truth.std() * rng.standard_normal(truth.shape, dtype=np.float32)
        write_map(noisy, values, spec.pixel_A)
        denoised = inverse_fourier_transform(fourier_transform(values) * np.exp(-((k / 0.25) ** 2)), box)
        write_map(smooth, denoised, spec.pixel_A)
        mean += denoised / 2
    write_map(folder / "final.mrc", mean, spec.pixel_A)
    return linear, halves, folder / "final.mrc"

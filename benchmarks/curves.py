"""Held-out likelihood and agreement with the truth against seconds: both fits, and cryoDRGN, on one plot."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import cryodrgn
from context import Context, SetSpec
from gem3d.fit.descent import Shapes
from gem3d.gaussians import Gaussians
from gem3d.maps import read_map
from half_fit import HalfOne
from quality import low_snr_set
from registry import Measurement, benchmark
from score import Volume, agreement, read_truth

TABLE = "Half 1 against the truth; seconds with reading, cryoDRGN's with its start"
PLOT = Path(__file__).parents[1] / "docs" / "images" / "curves.png"
# Seconds for cryoDRGN's own network, which is slow on a few cores, and for a smaller one that ends an epoch in time.
NETWORKS = {"its defaults": ((), 150.0), "--dim 128 --layers 2": (("--dim", "128", "--layers", "2"), 330.0)}


@dataclass(frozen=True)
class Point:
    """A moment of a fit. `held_out_loss` is None where the program has no such thing."""

    seconds: float
    held_out_loss: float | None
    resolution_A: float
    mean_fsc: float


@benchmark(
    "curves", "held-out likelihood and FSC against seconds: both fits and cryoDRGN's train_nn, as a plot"
)
def curves(context: Context) -> Iterator[Measurement]:
    spec = low_snr_set(context, context.structures[0], context.seeds[0])
    folder = context.particle_set(spec)
    truth, mask = read_truth(folder)
    found: dict[str, list[Point]] = {}
    half = HalfOne(context, folder)
    for how, init in (("volume", "map"), ("volume", "random"), ("images", "random")):
        name = f"--fit {how} --init {init}"
        context.say(name)
        found[name] = _watched(context, half, how, init, spec, truth, mask)
    if context.cryodrgn is None:
        context.say(cryodrgn.MISSING)
    else:
        for what, (network, limit_s) in NETWORKS.items():
            name = f"cryoDRGN train_nn, {what}"
            points, rate = _cryodrgn(
                context, context.cryodrgn, folder, spec, truth, mask, network, context.size(limit_s, 60.0)
            )
            found[name] = points
            note = f"stopped after {limit_s:.0f} s, with {len(points)} epochs done"
            yield Measurement(TABLE, name, "images/s", rate, note=note)
            yield Measurement(TABLE, name, "epochs done", len(points))
    for name, points in found.items():
        if not points:
            continue
        best = min(points, key=lambda p: p.resolution_A)
        yield Measurement(TABLE, name, "last judged after, s", points[-1].seconds)
        yield Measurement(TABLE, name, "held-out loss then", points[-1].held_out_loss)
        yield Measurement(TABLE, name, "FSC 0.5 then, A", points[-1].resolution_A)
        yield Measurement(TABLE, name, "mean FSC then", points[-1].mean_fsc)
        yield Measurement(TABLE, name, "finest FSC 0.5, A", best.resolution_A)
    if not context.quick:
        draw(found, PLOT)


def _watched(
    context: Context,
    half: HalfOne,
    how: Literal["volume", "images"],
    init: Literal["map", "random"],
    spec: SetSpec,
    truth: Volume,
    mask: Volume,
) -> list[Point]:
    """Reading both halves counts, as a run does it, but only the first is fitted."""
    seen: list[tuple[float, Gaussians, float]] = []
    begun_s = time.perf_counter() - half.accumulate_s

    def watch(gaussians: Gaussians, loss: float) -> None:
        seen.append((time.perf_counter() - begun_s, gaussians.detached(), loss))

    half.fit(how, init, context.size("auto", 500), Shapes(), watch)
    points: list[Point] = []
    for seconds, gaussians, loss in seen:
        if points and seconds < 1.05 * points[-1].seconds and seconds < seen[-1][0]:
            continue  # the volume fit is judged at every step: too many for a plot
        density = gaussians.density(spec.box_px, spec.pixel_A).numpy()
        points.append(_point(seconds, loss, density, truth, mask, spec.pixel_A))
    return points


def _cryodrgn(
    context: Context,
    program: Path,
    folder: Path,
    spec: SetSpec,
    truth: Volume,
    mask: Volume,
    network: Sequence[str],
    limit_s: float,
) -> tuple[list[Point], float | None]:
    context.say(f"cryodrgn train_nn {' '.join(network)} for {limit_s:.0f} s")
    with tempfile.TemporaryDirectory() as scratch:
        run = cryodrgn.train(
            program, folder, Path(scratch), spec.box_px, spec.pixel_A, network, limit_s=limit_s
        )
        points = [
            _point(seconds, None, read_map(path).values, truth, mask, spec.pixel_A)
            for seconds, path in run.maps
        ]
    return points, run.images_per_second


def _point(
    seconds: float, loss: float | None, values: Volume, truth: Volume, mask: Volume, pixel_size_A: float
) -> Point:
    found = agreement(values, truth, mask, pixel_size_A)
    return Point(seconds, loss, found.resolution_A, float(np.mean(found.curve[1:-1])))


def draw(found: dict[str, list[Point]], path: Path) -> None:
    """Two panels over one axis of seconds: held-out likelihood, and the mean FSC with the truth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, points in found.items():
        if not points:
            continue
        seconds = [p.seconds for p in points]
        marker = "." if len(points) < 40 else None
        if points[0].held_out_loss is not None:
            axes[0].plot(seconds, [-float(p.held_out_loss or 0) for p in points], marker=marker, label=name)
        axes[1].plot(seconds, [p.mean_fsc for p in points], marker=marker, label=name)
    axes[0].set(ylabel="held-out likelihood gained, per particle", ylim=(200, None))
    axes[1].set(ylabel="mean FSC with the truth")
    for axis in axes:
        axis.set(xscale="log", xlabel="seconds, reading included")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=150)

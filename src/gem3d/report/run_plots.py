"""Curves about the amplitudes of the map and about the course of its fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gem3d.assess.overfit import FIRST_SHELL
from gem3d.assess.shells import Curve
from gem3d.assessment import Assessment
from gem3d.fit.result import Round
from gem3d.report.parts import Plot
from gem3d.report.style import (
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    SHADE,
    VERMILION,
    float32,
    frequencies,
    new_figure,
    plain,
    resolution_axis,
)

FIT_COLOURS = (BLUE, ORANGE, PURPLE)
# Losses are shown up to so many times what they rose to before a fit was stopped.
EXCESS_SHOWN = 3.0
SHAPE_A = 18.0
# The axis of the likelihood is linear up to the gain of the fine shells, within these shares of the largest.
LEAST_LINEAR, MOST_LINEAR = 1e-6, 1e-2


def guinier_plot(a: Assessment) -> Plot:
    """ln(mean amplitude) against 1/d^2, with the line whose slope is -B/4."""
    x = frequencies(len(a.amplitude), a.pixel_size_A, a.box_size_px) ** 2
    weighted = a.amplitude.copy()
    n = min(len(a.weight), len(weighted))
    weighted[:n] *= a.weight[:n]
    weighted[n:] = 0
    figure = new_figure()
    for name, amplitude, style in (
        ("map_unfiltered", a.amplitude, {"color": GREY, "size": 5, "symbol": "circle-open"}),
        ("weighted", weighted, {"color": BLUE, "size": 6}),
    ):
        shown = np.flatnonzero(amplitude[1:] > 0) + 1
        figure.add_scatter(
            x=x[shown],
            y=float32(np.log(amplitude[shown])),
            customdata=float32(1 / np.sqrt(x[shown])),
            mode="markers",
            marker=style,
            name=name,
            hovertemplate="%{customdata:.2f} Å: %{y:.2f}",
        )
    guinier = a.guinier
    if guinier is not None and guinier.bfactor_A2 is not None and guinier.intercept is not None:
        ends = np.array([guinier.low_A**-2, guinier.high_A**-2])
        figure.add_vrect(x0=ends[0], x1=ends[1], fillcolor=SHADE, line_width=0, layer="below")
        figure.add_scatter(
            x=ends,
            y=guinier.intercept - guinier.bfactor_A2 * ends / 4,
            mode="lines",
            line={"color": VERMILION, "width": 2.5},
            name=f"B = {guinier.bfactor_A2:.0f} Å²",
            hoverinfo="skip",
        )
    figure.update_xaxes(**resolution_axis(math.sqrt(x[-1]), power=2, title="resolution (Å), linear in 1/d²"))
    figure.update_yaxes(title_text="ln(mean amplitude)", range=_guinier_range(a, weighted))
    return Plot("guinier", figure, 400, 440)


def weight_plot(a: Assessment) -> Plot:
    """What each shell of the map is multiplied by, and how well it is estimated to correlate with the truth."""
    figure = new_figure()
    last = a.calibrated.valid_up_to_shell or 0
    x = frequencies(len(a.weight), a.pixel_size_A, a.box_size_px)
    for name, curve, colour, end in (
        ("weight", a.weight, BLUE, len(a.weight)),
        ("correlation with the truth, estimated", a.calibrated.final_map_correlation, ORANGE, last + 1),
    ):
        shown = slice(1, end)
        figure.add_scatter(
            x=x[shown],
            y=float32(curve[shown]),
            customdata=float32(1 / x[shown]),
            mode="lines",
            line={"color": colour, "width": 2},
            name=name,
            hovertemplate="%{customdata:.2f} Å: %{y:.3f}",
        )
    figure.update_xaxes(**resolution_axis(float(x[-1])))
    figure.update_yaxes(title_text="of each shell", rangemode="tozero")
    return Plot("weight", figure, 400, 440)


def _guinier_range(a: Assessment, weighted: Curve) -> list[float] | None:
    """The amplitudes of the shape, which lie far above the others, are left beyond the frame."""
    shells = np.arange(len(weighted)) >= a.box_size_px * a.pixel_size_A / SHAPE_A
    shown = np.concatenate([a.amplitude[shells & (a.amplitude > 0)], weighted[shells & (weighted > 0)]])
    if shown.size == 0:
        return None
    low, high = np.log(shown.min()), np.log(shown.max())
    margin = 0.08 * (high - low)
    return [low - margin, high + margin]


def likelihood_plot(a: Assessment) -> Plot:
    """Log-likelihood gained per shell, of seen and unseen particles of both halves, on an axis of arsinh."""
    assert a.likelihood is not None
    gains = np.abs(np.concatenate([gain.unseen[FIRST_SHELL:] for gain in a.likelihood]))
    largest = float(gains.max()) or 1.0
    fine = np.concatenate([np.abs(gain.unseen[len(gain.unseen) // 2 :]) for gain in a.likelihood])
    unit = float(np.clip(np.median(fine), LEAST_LINEAR * largest, MOST_LINEAR * largest))
    figure = new_figure()
    for number, (gain, colour) in enumerate(zip(a.likelihood, FIT_COLOURS, strict=False), start=1):
        kinds: list[tuple[str, Curve | None, int, str]] = [
            ("unseen", gain.unseen, gain.n_unseen, "solid"),
            ("seen", gain.seen, gain.n_seen, "dot"),
        ]
        for kind, curve, n_particles, dash in kinds:
            if curve is None:
                continue
            x = frequencies(len(curve), a.pixel_size_A, a.box_size_px)[FIRST_SHELL:]
            figure.add_scatter(
                x=x,
                y=float32(np.arcsinh(curve[FIRST_SHELL:] / unit)),
                customdata=np.stack([float32(1 / x), float32(curve[FIRST_SHELL:])], axis=1),
                mode="lines",
                line={"color": colour, "dash": dash, "width": 2},
                name=f"half {number}, {kind} ({n_particles:,})",
                hovertemplate="%{customdata[0]:.2f} Å: %{customdata[1]:.2e}",
            )
    powers = [10.0**p for p in range(math.ceil(math.log10(unit)), math.floor(math.log10(largest)) + 1)]
    ticks = [*(-p for p in reversed(powers)), 0.0, *powers]
    figure.update_yaxes(
        title_text="gain per particle and pixel",
        tickvals=[math.asinh(tick / unit) for tick in ticks],
        ticktext=[f"{tick:.0e}" if tick else "0" for tick in ticks],
        zeroline=True,
        zerolinecolor=GREY,
        zerolinewidth=1.5,
    )
    n = max(len(gain.unseen) for gain in a.likelihood)
    figure.update_xaxes(**resolution_axis(float(frequencies(n, a.pixel_size_A, a.box_size_px)[-1])))
    return Plot("likelihood", figure, 400, 440)


def loss_plot(rounds: Mapping[str, tuple[Round, ...]]) -> Plot:
    """Held-out loss against step, above the best of each fit, in percent of what the map explains."""
    figure = new_figure(hovermode="closest")
    highest = last = 0.0
    for (name, of_fit), colour in zip(rounds.items(), FIT_COLOURS, strict=False):
        best = min((min(r.held_out_loss) for r in of_fit if r.held_out_loss and r.kept), default=None)
        if best is None:
            continue
        first_step = 0
        for number, found in enumerate(of_fit):
            n = len(found.held_out_loss)
            excess = 100 * (np.array(found.held_out_loss) - best) / (abs(best) or 1.0)
            # Evaluations are spread evenly over the steps of a round.
            steps = first_step + np.linspace(0, found.steps, n, endpoint=False)
            first_step += found.steps
            figure.add_scatter(
                x=float32(steps),
                y=float32(excess),
                mode="lines+markers",
                marker_size=4,
                line={"color": colour, "width": 2, "dash": "solid" if found.kept else "dot"},
                name=plain(name),
                legendgroup=name,
                showlegend=number == 0,
                hovertemplate=f"{found.n_gaussians:,} Gaussians{'' if found.kept else ', not kept'}"
                "<br>step %{x:.0f}: %{y:.2f} %",
            )
            if n > 0:
                highest, last = max(highest, float(excess.max())), max(last, float(excess[-1]))
    top = min(highest, EXCESS_SHOWN * last) or highest or 1.0
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(title_text="held-out loss above its best (%)", range=[-0.08 * top, 1.04 * top])
    return Plot("loss", figure, 400, 440)

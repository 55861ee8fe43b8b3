"""The sections of the page in their order: which pictures, and what is said of them."""

from __future__ import annotations

import math

from gem3d.assess import FSC_THRESHOLD
from gem3d.assess.local_resolution import WINDOW_LIMITS_A
from gem3d.assessment import PREFERRED_ORIENTATION_CFAR, Assessment
from gem3d.report import density_plots, direction_plots, fsc_plots, run_plots
from gem3d.report.chimerax import shown_map
from gem3d.report.facts import RunFacts
from gem3d.report.local_plots import colour_range_A, local_plot
from gem3d.report.parts import Figure, Part, Section, Sentence, Table
from gem3d.report.surface import contour_level, enclosed_kDa, isosurface
from gem3d.report.tables import run_parts


def sections(a: Assessment, facts: RunFacts) -> tuple[Section, ...]:
    """Everything below the verdict."""
    return (
        Section("resolution", "Resolution", _resolution(a)),
        Section("map", "Map", _map(a)),
        Section("local-resolution", "Local resolution", _local(a)),
        Section("directions", "Directions", _directions(a)),
        Section("sharpening", "Sharpening", _sharpening(a)),
        Section("overfitting", "Over-fitting", _overfitting(a, facts)),
        Section("model", "Gaussians", _gaussians(facts)),
        Section("deposit", "What to deposit", _deposit(a, facts)),
        Section("run", "The run", run_parts(a, facts)),
    )


def _resolution(a: Assessment) -> tuple[Part, ...]:
    if a.has_linear:
        which = (
            "The resolution is read from the calibrated FSC: half maps with a prior are held against the linear "
            "reconstructions of the other half, which carry no prior, and the mask acts after the shell filter."
        )
        caption = (
            f"The calibrated FSC (blue, with its 90 % band) is the one to quote, where it crosses {FSC_THRESHOLD:g}; "
            "it ends where the linear half maps no longer correlate significantly. The ordinary masked FSC of half "
            "maps with a prior may lie above it: they agree more than they are right. A click on a name in the "
            "legend hides or shows its curve."
        )
    else:
        which = (
            "No linear half maps were given, so the resolution is read from the ordinary FSC of the half maps, with "
            "the mask after the shell filter. It is right only if the half maps were made without a prior."
        )
        caption = (
            f"The FSC with the mask after the shell filter (blue, with its 90 % band) is read at {FSC_THRESHOLD:g}; "
            "it ends where the half maps no longer correlate significantly. Masking first lets strong shells leak "
            "into weak ones, of which the corrected curve (orange), that of other programs, takes back a part. A "
            "click on a name in the legend hides or shows its curve."
        )
    if a.reference is not None:
        caption += " Against the reference the threshold is 0.5."
    parts: list[Part] = [
        Sentence(which),
        Figure("Fourier shell correlation", (fsc_plots.fsc_plot(a),), caption),
    ]
    if a.reference is not None:
        found = a.reference.crossing
        rows: list[tuple[str, str]] = [
            ("reference", a.reference.name),
            ("FSC 0.5, masked", found.words),
            (
                f"correlation inside the mask at {a.reference.low_pass_A:.1f} A",
                f"{a.reference.correlation:.3f}",
            ),
        ]
        parts.append(Table(tuple(rows)))
    return tuple(parts)


def _map(a: Assessment) -> tuple[Part, ...]:
    name, density = shown_map(a)
    level = contour_level(density, a.mask)
    surface = isosurface(density, a.mask, level, a.pixel_size_A)
    parts: list[Part] = []
    if surface is None:
        parts.append(Sentence("Nothing of the map inside the mask stands out, so no surface is drawn."))
    else:
        range_A = None if a.local is None else colour_range_A(a.local, a.mask)
        inside = density[a.mask > 0.5]
        sigmas = (level - float(density.mean())) / (float(density.std()) or 1.0)
        above = f"{100 * float((inside > level).mean()):.0f} % of the mask"
        colours = "" if a.local is None else " Its colours are local resolution, as in view.cxc."
        caption = (
            f"Surface of {name} at the level {level:g} ({sigmas:.1f} standard deviations above the mean; Otsu's "
            f"threshold inside the mask).{colours} It encloses {above}, as much as "
            f"{enclosed_kDa(density, a.mask, level, a.pixel_size_A):.0f} kDa of protein fill: if that is far from "
            "your molecule, so is the level. Drag to turn, scroll to zoom. "
            f"It is drawn on a grid of {surface.grid_A:.2g} A and shows no finer detail than that."
        )
        plot = density_plots.surface_plot(surface, a.local, range_A, a.pixel_size_A)
        parts.append(Figure("Surface", (plot,), caption))
    caption = (
        "Sections of map.mrc (weighted per shell and sharpened) through the centre of the box, bright for density, "
        "in one grey scale; the edge of the mask is drawn in orange. Density that the mask cuts, or much solvent "
        "inside it, falsifies every masked figure on this page."
    )
    plots = density_plots.slice_plots(a.map, a.mask, a.pixel_size_A)
    parts.append(Figure("Sections and mask", plots, caption))
    return tuple(parts)


def _local(a: Assessment) -> tuple[Part, ...]:
    if a.local is None:
        return (
            _without(
                a,
                "look for in parts of the map",
                f"Local resolution was not computed: the valid range ends at shell {a.calibrated.valid_up_to_shell}, "
                f"and a window of {WINDOW_LIMITS_A[1]:.0f} A and a quarter of the box at most is too narrow to tell "
                "so few shells apart.",
            ),
        )
    local = a.local
    low, high = local.quartiles_A
    caption = (
        f"Local resolution of the voxels inside the mask: median {local.median_A:.2f} A, mean {local.mean_A:.2f} A, "
        f"half of them between {low:.2f} and {high:.2f} A (shaded). Each value is an FSC within a soft window "
        f"{local.window_A:.0f} A wide, computed every {local.step_A:.1f} A: details smaller than the window are "
        f"blurred, and no value is finer than {local.finest_A:.2f} or coarser than {local.coarsest_A:.1f} A."
    )
    plot = local_plot(local, a.mask, colour_range_A(local, a.mask), a.claim.estimate_A)
    return (Figure("Distribution", (plot,), caption),)


def _directions(a: Assessment) -> tuple[Part, ...]:
    parts: list[Part] = []
    views = a.orientations
    if views is None:
        parts.append(Sentence("No particle file was given, so the distribution of views is not known."))
    else:
        caption = (
            "Rectangle: particles per viewing direction, in bins of equal solid angle; white bins are empty "
            f"({100 * views.empty_bins:.0f} %, where as many uniform views would leave "
            f"{100 * views.expected_empty_bins:.0f} %). Disc: how often Fourier space is sampled along each "
            "direction of half a sphere, seen from +z in equal areas; 1 is what uniform views give. A view fills a "
            "whole plane of Fourier space, so that uneven views may still sample evenly. "
            f"Sampling compensation factor {views.scf:.2f}, efficiency {views.efficiency:.2f} (1 is uniform); "
            f"{100 * views.unseen:.1f} % of the directions are seen by no image."
        )
        plots = (direction_plots.views_plot(views), direction_plots.sampling_plot(views))
        parts.append(Figure("Views and sampling", plots, caption))
    directional = a.directional
    if directional is None:
        parts.append(_without(a, "compare between directions", "Directions were not compared."))
    else:
        round_as = (
            "" if directional.sphericity is None else f"; the sphericity is {directional.sphericity:.2f}"
        )
        ratio = (
            "Nothing is resolved, so that directions cannot be compared."
            if math.isnan(directional.cfar)
            else "The smallest area under a curve over the largest, without the spread that noise gives, cFAR, is "
            f"{directional.cfar:.2f}{round_as} (1 is alike in all directions). A cFAR below "
            f"{PREFERRED_ORIENTATION_CFAR:g} means that views are missing."
        )
        caption = (
            f"FSC within cones of {directional.half_angle_deg:.0f} degrees half-angle. Disc: the resolution along "
            "each direction of half a sphere, seen from +z in equal areas; grey where the curve does not cross "
            f"{FSC_THRESHOLD:g}. Curves: all of them as a fan. {ratio} Narrow cones hold few voxels, so that some "
            "spread is noise."
        )
        plots = (direction_plots.directional_plot(directional), fsc_plots.cones_plot(a))
        parts.append(Figure("Resolution by direction", plots, caption))
    if a.slices is not None:
        slices = a.slices
        last_A = a.box_size_px * a.pixel_size_A / max(slices.last_shell, 1)
        caption = (
            f"Correlation of matching central slices of the two half maps, over the direction of their normal, up to "
            f"{last_A:.2f} A: mean {slices.mean:.3f}, standard deviation {slices.standard_deviation:.3f} over the "
            "sphere. Dark are planes of Fourier space that the views fill badly. Every value counts by its power, so "
            "that low frequencies decide; the top and bottom rows are a few directions stretched wide."
        )
        parts.append(Figure("Central slices", (direction_plots.slices_plot(slices),), caption))
    elif directional is not None:
        parts.append(Sentence("Central slices of the half maps were not compared."))
    return tuple(parts)


def _sharpening(a: Assessment) -> tuple[Part, ...]:
    if a.guinier is None:
        return (_without(a, "sharpen to: map.mrc is map_unfiltered.mrc", "No B factor was measured."),)
    guinier = a.guinier
    if guinier.bfactor_A2 is None:
        fit = f"No line was fitted ({guinier.reason}), and the map was not sharpened by one."
    else:
        fit = (
            f"The line over {guinier.n_shells} shells from {guinier.low_A:.1f} to {guinier.high_A:.2f} A (shaded) "
            f"has the slope -B/4 with B = {guinier.bfactor_A2:.0f} A^2, which sharpening undoes."
        )
    caption = (
        f"Guinier plot: logarithm of the mean amplitude in each shell against 1/d^2. {fit} Amplitudes that bend "
        "away from the line within the range are no exponential decay, and one B then sharpens some shells too much. "
        "Beside it: the weight of each shell, the regression of the truth on the map, which the amplitudes are "
        "multiplied by before the fit and map.mrc is filtered by."
    )
    plots = (run_plots.guinier_plot(a), run_plots.weight_plot(a))
    return (Figure("Guinier plot and weights", plots, caption),)


def _overfitting(a: Assessment, facts: RunFacts) -> tuple[Part, ...]:
    parts: list[Part] = []
    if a.likelihood is None:
        text = "The maps were not made here, so there are no held-out particles to judge them by."
        parts.append(Sentence(text))
    else:
        caption = (
            "Log-likelihood that each half map gains over an empty map, per particle and Fourier pixel of a shell, "
            "for particles it was fitted to (dotted, where they were kept) and particles it has never seen (full), "
            "as the fit was stopped. Below zero, the map is worse than none there. The axis is linear near zero and "
            "logarithmic beyond; with few held-out particles the full lines scatter. The first shells, which the fit "
            "cannot tell apart, are left out."
        )
        parts.append(Figure("Particles seen and unseen", (run_plots.likelihood_plot(a),), caption))
    if not facts.rounds or not any(r.held_out_loss for rounds in facts.rounds.values() for r in rounds):
        if a.likelihood is not None:
            parts.append(
                Sentence("The course of the fits was not kept, or nothing was held out to judge it.")
            )
    else:
        caption = (
            "Loss of the held-out particles while the Gaussians were fitted, above the best value of each fit, in "
            "percent of what the map explains. A fit is stopped and taken at its minimum; rising afterwards is "
            "over-fitting, and is thrown away. Dotted rounds, with more Gaussians, did not pay and were not kept."
        )
        parts.append(Figure("Course of the fits", (run_plots.loss_plot(facts.rounds),), caption))
    return tuple(parts)


def _gaussians(facts: RunFacts) -> tuple[Part, ...]:
    if facts.gaussians is None:
        return (Sentence("The map was given as it is, so there are no Gaussians to show."),)
    n = len(facts.gaussians)
    most = density_plots.MOST_GAUSSIANS
    which = f"{most:,} of the {n:,} Gaussians, drawn at random" if n > most else f"All {n:,} Gaussians"
    caption = (
        f"{which}, as points at their centres; the larger the point, the larger the mass; colours are the geometric "
        "mean of the three standard deviations. The points are a model of the density, not atoms, and a single one "
        "means nothing."
    )
    return (Figure("Gaussians of the final map", (density_plots.gaussians_plot(facts.gaussians),), caption),)


def _deposit(a: Assessment, facts: RunFacts) -> tuple[Part, ...]:
    if a.has_linear:
        halves = " and ".join(facts.linear_names)
        why = (
            "Deposit the linear half maps, not those with a prior. The EMDB computes the FSC again from the half "
            "maps that are deposited, and half maps with a prior agree more than they are right: the archive would "
            "show a resolution that the data do not support."
        )
    else:
        halves = "the half maps, as they came from the reconstruction"
        why = (
            "The EMDB computes the FSC again from the half maps that are deposited. If yours were made with a prior "
            "(Gaussians, a network, a denoiser), deposit reconstructions of the same halves without any instead."
        )
    rows: list[tuple[str, str]] = [
        ("primary map", "map.mrc (sharpened)"),
        ("half maps", f"{halves}: unmasked, unfiltered, unsharpened, on the grid of the primary map"),
        ("contour level", f"{contour_level(a.map, a.mask):g} of map.mrc"),
        ("additional map", "map_unfiltered.mrc, and the mask, mask.mrc"),
    ]
    if a.calibrated.valid_up_to_shell is None:
        rows.append(("FSC curve", "none: no shell of it is valid"))
    else:
        curve = (
            "the calibrated FSC"
            if a.has_linear
            else "the FSC of the half maps, masked after the shell filter,"
        )
        rows.append(("FSC curve", f"fsc.xml: {curve} up to its last valid shell"))
    return (Sentence(why), Table(tuple(rows)))


def _without(a: Assessment, use: str, otherwise: str) -> Sentence:
    """Why something is absent that follows from the claimed resolution."""
    if a.claim.kind == "none":
        return Sentence(f"No resolution can be claimed, so there is none to {use}.")
    return Sentence(otherwise)

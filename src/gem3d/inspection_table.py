"""What `gem3d inspect` prints."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from gem3d.forecast import Forecast
from gem3d.inspection import Inspection, Range, SampleSummary, StacksSummary

SIGNS = {1: "bright, as it should be", -1: "dark", 0: "cannot be told from these images"}


def as_json(found: Inspection) -> str:
    """One JSON object: the fields of `Inspection`, null where something cannot be told."""
    return json.dumps(asdict(found), indent=2)


def print_inspection(found: Inspection) -> None:
    """To standard output, for the eye."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(found.particle_file, style="bold", markup=False)
    if found.optics:
        console.print(_optics_table(found))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(found):
        table.add_row(name, value)
    console.print(table)
    for title, style, messages in (
        ("Warnings", "yellow", found.warnings),
        ("Problems", "red", found.problems),
    ):
        if messages:
            console.print(f"\n{title}", style=f"bold {style}")
            for message in messages:
                console.print(f"- {message}", markup=False)
    verdict = (
        "a reconstruction would refuse this set" if found.problems else "a reconstruction would take this set"
    )
    console.print(f"\n{verdict}", style="bold")


def _optics_table(found: Inspection) -> Table:
    table = Table(title="optics", title_justify="left")
    for name in ("group", "particles", "A/px", "box px", "kV", "Cs mm", "amplitude contrast"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group in found.optics:
        table.add_row(
            group.name,
            str(group.n_particles),
            f"{group.pixel_size_A:g}",
            str(group.box_size_px or "?"),
            *(
                "?" if value is None else f"{value:g}"
                for value in (group.voltage_kV, group.spherical_aberration_mm, group.amplitude_contrast)
            ),
        )
    return table


def _rows(found: Inspection) -> list[tuple[str, str]]:
    rows = []
    if found.n_particles is not None:
        n = found.n_micrographs
        of = "" if n is None or n == 1 else f" of {n} micrographs"
        rows.append(("particles", f"{found.n_particles}{of}"))
    if found.grid is not None:
        grid, n = found.grid, found.grid.n_resampled
        resampled = f", to which {n} images are resampled" if n else ""
        rows.append(("images come as", f"box {grid.box_size_px} px, {grid.pixel_size_A:g} A/px{resampled}"))
    if found.half1 is not None:
        drawn = ", drawn at random" if found.halves_drawn else ""
        rows.append(("half sets", f"{found.half1} and {found.half2}{drawn}"))
    if found.defocus_A is not None:
        rows.append(("defocus", _of_range(found.defocus_A, "A")))
    if found.shift_A is not None:
        rows.append(("shifts", _of_range(found.shift_A, "A")))
    if found.orientations is not None:
        seen = found.orientations
        rows.append(
            (
                "orientations",
                f"efficiency {seen.efficiency:.2f}, {100 * seen.unseen_share:.0f} % of Fourier space not reached, "
                f"{100 * seen.empty_bins_share:.0f} % of view bins empty "
                f"({100 * seen.expected_empty_bins_share:.0f} % if even)",
            )
        )
    if found.stacks is not None:
        rows.append(("stacks", _of_stacks(found.stacks)))
    if found.sample is not None:
        rows += _of_sample(found.sample)
    elif found.n_particles is not None:
        rows.append(("images", "none looked at"))
    if found.forecast is not None:
        rows.append(("forecast", _of_forecast(found.forecast)))
    return rows


def _of_range(values: Range, unit: str) -> str:
    return f"{values.smallest:.4g} to {values.largest:.4g} {unit}, median {values.median:.4g}"


def _of_stacks(stacks: StacksSummary) -> str:
    if stacks.n_missing == 0:
        return f"{stacks.n_stacks}, all there"
    there = (
        ""
        if stacks.suggested_datadir is None
        else f"; {stacks.n_found_there} under {stacks.suggested_datadir}"
    )
    return f"{stacks.n_stacks}, {stacks.n_missing} missing{there}"


def _of_sample(sample: SampleSummary) -> list[tuple[str, str]]:
    bad = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in sample.excluded.items())
    rows = [("images", f"{sample.n_images} looked at, {bad or 'all of them usable'}")]
    if sample.background_mean is not None and sample.background_sd is not None:
        rows.append(
            (
                "background",
                f"mean {sample.background_mean:.3g}, standard deviation {sample.background_sd:.3g} (medians)",
            )
        )
    rows.append(
        (
            "particles are",
            f"{SIGNS[sample.contrast_sign]} (correlation with a bright blob "
            f"{sample.contrast_correlation:.3f} +- {sample.contrast_standard_error:.3f})",
        )
    )
    return rows


def _of_forecast(forecast: Forecast) -> str:
    minutes = forecast.seconds / 60
    if minutes < 2:
        how_long = f"{forecast.seconds:.0f} s"
    elif minutes < 120:
        how_long = f"{minutes:.0f} min"
    else:
        how_long = f"{minutes / 60:.1f} h"
    cores = "1 core" if forecast.threads == 1 else f"{forecast.threads} cores"
    return f"about {how_long} and {forecast.memory_GB:.2g} GB of memory on {cores}, at the defaults of reconstruct"

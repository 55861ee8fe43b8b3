"""A ChimeraX script that shows the map as the report does."""

from __future__ import annotations

import numpy as np

from gem3d.assess.shells import FloatVolume
from gem3d.assessment import Assessment
from gem3d.report.local_plots import colour_range_A
from gem3d.report.style import SEQUENCE
from gem3d.report.surface import INSIDE, contour_level

MAP, LOCAL_MAP, MASK, LOCAL_RESOLUTION = "map.mrc", "map_local.mrc", "mask.mrc", "local_resolution.mrc"


def chimerax_script(assessment: Assessment) -> str:
    """Commands for `open view.cxc`: the map, coloured by local resolution, at the level of the report.

    Files are named without a folder: ChimeraX changes to the folder of a script while it runs, so that the script
    works from anywhere and the folder may be moved.
    """
    local = assessment.local
    name, density = shown_map(assessment)
    level = contour_level(density, assessment.mask)
    lines = [
        "# gem3d: open this file in ChimeraX (File > Open, or: open view.cxc). The maps lie beside it.",
        f"open {name} id 1",
        f"open {MASK} id 2",
        f"# The contour level of {name}, the same as in report.html.",
        f"volume #1 style surface step 1 level {level:g}",
        f"volume #2 style mesh step 1 level {INSIDE:g} color gray",
        "hide #2 models",
    ]
    if local is None:
        lines.append("volume #1 color light steel blue")
    else:
        low_A, high_A = colour_range_A(local, assessment.mask)
        at_A = np.linspace(low_A, high_A, len(SEQUENCE))
        stops = ":".join(f"{at:.3f},{colour}" for at, colour in zip(at_A, SEQUENCE, strict=True))
        labelled = {0, len(SEQUENCE) // 2, len(SEQUENCE) - 1}
        key = " ".join(
            f"{colour}:" + (f"{at_A[i]:.1f}Å" if i in labelled else "") for i, colour in enumerate(SEQUENCE)
        )
        lines += [
            f"open {LOCAL_RESOLUTION} id 3",
            "hide #3 models",
            f"# Local resolution in A, {low_A:g} to {high_A:g} as in report.html.",
            f"color sample #1 map #3 palette {stops}",
            f"key {key} pos 0.70,0.06 size 0.25,0.025",
        ]
    lines += ["set bgColor white", "lighting soft", "view #1"]
    return "\n".join(lines) + "\n"


def shown_map(assessment: Assessment) -> tuple[str, FloatVolume]:
    """File name and values of the map that surfaces are drawn of: the locally filtered one, where there is one."""
    if assessment.map_local is not None:
        return LOCAL_MAP, assessment.map_local
    return MAP, assessment.map

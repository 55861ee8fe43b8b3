"""The FSC curve as the EMDB takes it with a deposition."""

from __future__ import annotations

from xml.etree import ElementTree

from gem3d.assessment import Assessment


def fsc_xml(assessment: Assessment) -> str | None:
    """The curve that the claim is read from, up to its validity; None where no shell is valid.

    An `fsc` element with a `coordinate` a shell, `x` in 1/A, as other programs write it for the EMDB. Shell 0 holds
    only the mean of the map and is left out; what noise lifts beyond 1 is cut, as it is a correlation.
    """
    last = assessment.calibrated.valid_up_to_shell
    if last is None:
        return None
    name = "gem3d calibrated FSC" if assessment.has_linear else "gem3d FSC, masked after the shell filter"
    root = ElementTree.Element(
        "fsc", {"title": name, "xaxis": "Resolution (A-1)", "yaxis": "Correlation Coefficient"}
    )
    box_A = assessment.box_size_px * assessment.pixel_size_A
    for shell, value in enumerate(assessment.calibrated.smoothed[1 : last + 1], start=1):
        coordinate = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(coordinate, "x").text = f"{shell / box_A:.6f}"
        ElementTree.SubElement(coordinate, "y").text = f"{min(value, 1.0):.6f}"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"

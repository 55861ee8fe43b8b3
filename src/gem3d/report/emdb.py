"""The FSC curve as the EMDB takes it with a deposition."""

from __future__ import annotations

from xml.etree import ElementTree

from gem3d.assessment import Assessment
from gem3d.report.style import frequencies


def fsc_xml(assessment: Assessment) -> str | None:
    """The curve that the claim is read from, up to its validity; None where no shell is valid.

    An `fsc` element with a `coordinate` a shell, `x` in 1/A, as other programs write it for the EMDB. Shell 0 holds
    only the mean of the map and is left out; what noise lifts beyond 1 is cut, as it is a correlation.
    """
    last = assessment.calibrated.valid_up_to_shell
    if last is None:
        return None
    name = "gem3d calibrated FSC" if assessment.has_linear else "gem3d FSC, corrected for the mask"
    root = ElementTree.Element(
        "fsc", {"title": name, "xaxis": "Resolution (A-1)", "yaxis": "Correlation Coefficient"}
    )
    x = frequencies(last + 1, assessment.pixel_size_A, assessment.box_size_px)
    for frequency, value in zip(x[1:], assessment.claimed_curve[1 : last + 1], strict=True):
        coordinate = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(coordinate, "x").text = f"{frequency:.6f}"
        ElementTree.SubElement(coordinate, "y").text = f"{min(value, 1.0):.6f}"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"

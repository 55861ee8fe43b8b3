"""The files of a report."""

from __future__ import annotations

from pathlib import Path

from gem3d.assessment import Assessment
from gem3d.report.emdb import fsc_xml
from gem3d.report.facts import RunFacts
from gem3d.run_directory import remove_results, write_text

PAGE, SCRIPT, CURVE = REPORT_FILES = ("report.html", "view.cxc", "fsc.xml")


def write_report(out: Path, assessment: Assessment, facts: RunFacts | None = None) -> None:
    """Write report.html, view.cxc and, where any shell is valid, fsc.xml into the folder of the maps.

    Raises
    ------
    RunDirectoryError: the folder cannot be written.
    """
    # Plotting libraries, which no command needs before.
    from gem3d.report.chimerax import chimerax_script
    from gem3d.report.page import report_page

    write_text(out / PAGE, report_page(assessment, facts or RunFacts()))
    write_text(out / SCRIPT, chimerax_script(assessment))
    curve = fsc_xml(assessment)
    if curve is None:
        # One of an earlier assessment would pass for this one's.
        remove_results(out, (CURVE,))
    else:
        write_text(out / CURVE, curve)

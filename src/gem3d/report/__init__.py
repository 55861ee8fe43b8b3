"""The report: an assessment as a page to read, a script for ChimeraX and a curve for the EMDB."""

from gem3d.report.chimerax import chimerax_script
from gem3d.report.emdb import fsc_xml
from gem3d.report.facts import RunFacts
from gem3d.report.page import report_page
from gem3d.report.verdict import Finding, verdict
from gem3d.report.write import REPORT_FILES, write_report

__all__ = [
    "REPORT_FILES",
    "Finding",
    "RunFacts",
    "chimerax_script",
    "fsc_xml",
    "report_page",
    "verdict",
    "write_report",
]

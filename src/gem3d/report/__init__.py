"""The report: an assessment as a page to read, a script for ChimeraX and a curve for the EMDB."""

from gem3d.report.facts import RunFacts
from gem3d.report.write import REPORT_FILES, write_report

__all__ = ["REPORT_FILES", "RunFacts", "write_report"]

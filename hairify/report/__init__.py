"""`hairify report`: what a trained restorer is and does, on one HTML page that opens offline.

`collect` finds out all that the page shows, `write_report` draws it.
"""

from hairify.report._collecting import collect
from hairify.report._findings import Baseline, Curves, Example, Findings, GIVFindings, Projection
from hairify.report._settings import ReportSettings
from hairify.report._writing import render, write_report

__all__ = [
    "Baseline",
    "Curves",
    "Example",
    "Findings",
    "GIVFindings",
    "Projection",
    "ReportSettings",
    "collect",
    "render",
    "write_report",
]

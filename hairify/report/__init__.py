"""`hairify report`: what a trained restorer is and does, on one HTML page that opens offline.

`collect` finds out all that the page shows, `write_report` draws it.
"""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.report._collecting import collect
    from hairify.report._findings import Baseline, Curves, Example, Findings, GIVFindings, Projection
    from hairify.report._settings import ReportSettings
    from hairify.report._writing import render, write_report
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_collecting": ("collect",),
            "_findings": ("Baseline", "Curves", "Example", "Findings", "GIVFindings", "Projection"),
            "_settings": ("ReportSettings",),
            "_writing": ("render", "write_report"),
        },
    )

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

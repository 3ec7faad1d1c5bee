"""Restoring photographs of any size with any network, in tiles, from file to file."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.restoring._processes import ALONE, Processes, together
    from hairify.restoring._restored_files import Job, Outcome, planned, restore_files
    from hairify.restoring._settings import RestoringSettings, TilingSettings
    from hairify.restoring._tiling import giv_of, restore_tiled, restore_whole
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_processes": ("ALONE", "Processes", "together"),
            "_restored_files": ("Job", "Outcome", "planned", "restore_files"),
            "_settings": ("RestoringSettings", "TilingSettings"),
            "_tiling": ("giv_of", "restore_tiled", "restore_whole"),
        },
    )

__all__ = [
    "ALONE",
    "Job",
    "Outcome",
    "Processes",
    "RestoringSettings",
    "TilingSettings",
    "giv_of",
    "planned",
    "restore_files",
    "restore_tiled",
    "restore_whole",
    "together",
]

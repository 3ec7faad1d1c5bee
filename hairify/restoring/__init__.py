"""Restoring photographs of any size with any network, in tiles, from file to file."""

from hairify.restoring._processes import ALONE, Processes, together
from hairify.restoring._restored_files import Job, Outcome, RestoringSettings, planned, restore_files
from hairify.restoring._tiling import TilingSettings, giv_of, restore_tiled, restore_whole

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

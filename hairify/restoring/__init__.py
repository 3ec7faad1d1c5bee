"""Restoring photographs of any size with any network, in tiles, from file to file."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.restoring._guidance import Guidance
    from hairify.restoring._known_givs import CLEAN, KnownGIV, KnownGIVs, Sight, known_givs
    from hairify.restoring._processes import ALONE, Processes, together
    from hairify.restoring._restored_files import Job, Outcome, planned, restore_files
    from hairify.restoring._settings import GuidanceSettings, RestoringSettings, TilingSettings, VideoSettings
    from hairify.restoring._tiling import giv_of, restore_tiled, restore_whole
    from hairify.restoring._videos import SteadyGIV, restore_video
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_guidance": ("Guidance",),
            "_known_givs": ("CLEAN", "KnownGIV", "KnownGIVs", "Sight", "known_givs"),
            "_processes": ("ALONE", "Processes", "together"),
            "_restored_files": ("Job", "Outcome", "planned", "restore_files"),
            "_settings": ("GuidanceSettings", "RestoringSettings", "TilingSettings", "VideoSettings"),
            "_tiling": ("giv_of", "restore_tiled", "restore_whole"),
            "_videos": ("SteadyGIV", "restore_video"),
        },
    )

__all__ = [
    "ALONE",
    "CLEAN",
    "Guidance",
    "GuidanceSettings",
    "Job",
    "KnownGIV",
    "KnownGIVs",
    "Outcome",
    "Processes",
    "RestoringSettings",
    "Sight",
    "SteadyGIV",
    "TilingSettings",
    "VideoSettings",
    "giv_of",
    "known_givs",
    "planned",
    "restore_files",
    "restore_tiled",
    "restore_video",
    "restore_whole",
    "together",
]

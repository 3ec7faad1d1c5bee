"""Restoring photographs of any size with any network."""

from hairify.restoring._tiling import TilingSettings, giv_of, restore_tiled, restore_whole

__all__ = ["TilingSettings", "giv_of", "restore_tiled", "restore_whole"]

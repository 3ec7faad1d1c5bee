"""What was `hairify.tiling` in version 0.1 stands in `hairify.restoring`; this name goes with version 0.3."""

import warnings

from hairify.restoring import TilingSettings, giv_of, restore_tiled, restore_whole

__all__ = ["TilingSettings", "giv_of", "restore_tiled", "restore_whole"]

warnings.warn(
    "`hairify.tiling` is now `hairify.restoring`; the old name goes with 0.3.", DeprecationWarning, stacklevel=2
)

"""What was `hairify.exporting` in version 0.1 stands in `hairify.sharing`; this name goes with version 0.3."""

import warnings

from hairify.sharing import ENDINGS, Format, export

__all__ = ["ENDINGS", "Format", "export"]

warnings.warn(
    "`hairify.exporting` is now `hairify.sharing`; the old name goes with 0.3.", DeprecationWarning, stacklevel=2
)

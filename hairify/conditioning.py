"""What was `hairify.conditioning` in version 0.1 stands in `hairify.evaluation`; this name goes with version 0.3."""

import warnings

from hairify.evaluation import Conditioning, Fidelity, measure_conditioning, psnr

__all__ = ["Conditioning", "Fidelity", "measure_conditioning", "psnr"]

warnings.warn(
    "`hairify.conditioning` is now `hairify.evaluation`; the old name goes with 0.3.", DeprecationWarning, stacklevel=2
)

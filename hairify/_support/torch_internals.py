"""All that hairify uses of PyTorch and is not documented there, each use with a name."""

from __future__ import annotations

from torch import Tensor


def version(tensor: Tensor) -> int:
    """How often a tensor was written to; not counted in those made in inference mode."""
    return 0 if tensor.is_inference() else tensor._version

"""Sizes that are not fixed while a compiler or exporter traces."""

from __future__ import annotations

import torch


def is_symbolic(size: int) -> bool:
    """Whether a compiler or exporter traces for any value of `size`, so that Python cannot decide by it."""
    if not torch.compiler.is_compiling():
        return not isinstance(size, int)
    # Dynamo shows every size as an int. Slow to import, and needed here alone.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return not has_static_value(size)

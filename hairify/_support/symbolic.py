"""Sizes that are not fixed while a compiler or exporter traces."""

from __future__ import annotations

import torch

from hairify._support.torch_internals import has_one_value


def is_symbolic(size: int) -> bool:
    """Whether a compiler or exporter traces for any value of `size`, so that Python cannot decide by it."""
    if not torch.compiler.is_compiling():
        return not isinstance(size, int)
    return not has_one_value(size)

"""Images on which a network is tried."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Size: TypeAlias = tuple[int, int]

USUAL = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of which networks need sides to be multiples; powers of two, mostly."""

_LEAST_SIDE = 48  # windows and a few downsamplings fit into it


def trial_size(multiple: int, least: int = _LEAST_SIDE) -> Size:
    """(H, W) of an image whose sides have `multiple` as their greatest common divisor.

    Args:
        multiple: from 1 up.
        least: of the height in pixels, about; a multiple larger than that is the height.
    """
    count = max(least // multiple, 1) | 1  # odd, so that it and the next odd number have no divisor in common
    return count * multiple, (count + 2) * multiple


def trial_image(size: Size, count: int = 1) -> Tensor:
    """Images (count, 3, H, W) in [0, 1] that are not alike, on the CPU."""
    height, width = size
    ramp = torch.linspace(0, 1, height * width).expand(3, -1).reshape(1, 3, height, width)
    return torch.cat([ramp ** (i + 1) for i in range(count)])

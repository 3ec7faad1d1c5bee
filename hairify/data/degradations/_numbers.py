"""What degradations share: numbers for each image of a batch, 8 bits, places in kernels."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def to_8_bits(images: Tensor) -> Tensor:
    """Clip to [0, 1] and round to multiples of 1/255, in place."""
    return images.mul_(255).round_().clamp_(0, 255).div_(255)


def uniform(count: int, low: float, high: float, generator: Generator, like: Tensor) -> Tensor:
    """(count,) numbers drawn evenly between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=generator, device=like.device, dtype=like.dtype)


def per_image(numbers: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1), to go with images."""
    return numbers[:, None, None, None]


def offsets(side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """How far each pixel of a kernel lies below and to the right of its centre: (1, side, 1) and (1, 1, side)."""
    offset = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
    return offset[None, :, None], offset[None, None, :]

"""Raindrops on the glass in front of a lens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hairify.data.degradations._blur import blur, convolve, disc_kernels
from hairify.data.degradations._numbers import offsets, per_image, uniform

DROP_KERNEL = 25
"""Side in pixels of the square in which one drop is drawn."""


def add_raindrops(clean: Tensor, generator: Generator) -> Tensor:
    """Drops on a window: I = (1 - M) B + M R, of the background B, the drops' mask M and what is seen through them R.

    This is the model of Qian et al. ("Attentive Generative Adversarial Network for Raindrop Removal", 2018). A drop is
    a lens: what is seen through it is turned around its middle, and out of focus. Each image gets large and small drops
    of its own radii (up to 11 pixels), number and strength. Drops add no light of their own.

    Returns: (B, 3, H, W) in [0, 1], equal to `clean` between drops.
    """
    batch = clean.shape[0]
    bending = uniform(batch, 1.5, 3.0, generator, clean)
    large = uniform(batch, 6, 11, generator, clean)
    mask = torch.zeros_like(clean[:, :1])
    down, right = torch.zeros_like(mask), torch.zeros_like(mask)
    for radius, densities in ((large, (0.0003, 0.001)), (large / 2, (0.0005, 0.002))):
        density = uniform(batch, *densities, generator, clean)
        domes = drops(clean, generator, radius, density)
        # The slope of a dome 1 - d²/r² is -2d/r²: so the way is proportional to the distance d to its middle.
        way = per_image(bending * radius**2 / 4)
        down += way * (domes[..., 2:, 1:-1] - domes[..., :-2, 1:-1])
        right += way * (domes[..., 1:-1, 2:] - domes[..., 1:-1, :-2])
        mask = mask.maximum((4 * domes[..., 1:-1, 1:-1]).clamp_(0, 1))
    blurred = blur(clean, disc_kernels(uniform(batch, 1.5, 4, generator, clean)))
    return torch.lerp(clean, moved(blurred, down, right), mask).clamp_(0, 1)


def drops(like: Tensor, generator: Generator, radius: Tensor, density: Tensor) -> Tensor:
    """Drops by their height, with a margin of one pixel all around, in which slopes can be found.

    Args:
        like: (B, 3, H, W).
        generator: the only source of randomness.
        radius: (B,) in pixels, less than half of `DROP_KERNEL`.
        density: (B,) the share of pixels in which the middle of a drop lies.

    Returns:
        (B, 1, H + 2, W + 2) in [0, 1]: of a drop 1 - d²/r², at a distance d to its middle; 0 between drops.
    """
    batch, _, height, width = like.shape
    shape = (batch, 1, height + 1 + DROP_KERNEL, width + 1 + DROP_KERNEL)
    middles = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype) < per_image(density)
    down, right = offsets(DROP_KERNEL, like)
    dome = (1 - (down**2 + right**2) / radius[:, None, None] ** 2).clamp(min=0)
    heights = convolve(middles.to(like.dtype), dome)
    return torch.where(heights < 1e-4, torch.zeros_like(heights), heights).clamp_(max=1)  # rounding is no drop


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images of which each pixel shows another place; beyond the edges, an image goes on as its reflection.

    Args:
        images: (B, C, H, W).
        down: (B, 1, H, W), how far below itself a pixel looks, in pixels.
        right: (B, 1, H, W), how far to the right.

    Returns:
        (B, C, H, W), interpolated linearly.
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] + down[:, 0]
    columns = torch.arange(width, device=images.device, dtype=images.dtype) + right[:, 0]
    place = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=3)
    return F.grid_sample(images, place, mode="bilinear", padding_mode="reflection", align_corners=False)

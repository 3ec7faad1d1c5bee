"""Falling snow."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from hairify.data.degradations._blur import convolve
from hairify.data.degradations._numbers import offsets, per_image, uniform

FLAKE_KERNEL = 25
"""Side in pixels of the square in which one flake is drawn."""

# Far, middle and near flakes: radius in pixels, share of the pixels in which one lies, and how little shows through.
_LAYERS = (((0.6, 1.0), (0.004, 0.012), 0.7), ((1.2, 2.0), (0.0008, 0.002), 0.85), ((2.5, 4.0), (0.0001, 0.0004), 0.95))


def add_snow(clean: Tensor, generator: Generator) -> Tensor:
    """Flakes before the image, small and many to large and few: I = J (1 - z) + A z, of flakes A and their opacity z.

    This is the model of Liu et al. ("DesnowNet", 2018), with drawn flakes in place of their masks. Each image gets its
    own wind, density and sizes; flakes drift along the wind and are up to three times as long as they are wide. A flake
    is never darker than what is behind it.

    Returns: (B, 3, H, W) in [0, 1], nowhere darker than `clean`.
    """
    batch, _, height, width = clean.shape
    wind = uniform(batch, -60, 60, generator, clean) * (math.pi / 180)
    whiteness = uniform(batch, 0.85, 1.0, generator, clean)
    margin = FLAKE_KERNEL - 1  # flakes whose middle lies outside reach in
    let_through = torch.ones((batch, 1, height, width), device=clean.device, dtype=clean.dtype)
    for radii, densities, opacity in _LAYERS:
        radius = uniform(batch, *radii, generator, clean)
        length = radius * uniform(batch, 0, 4, generator, clean)
        density = uniform(batch, *densities, generator, clean)
        shape = (batch, 1, height + margin, width + margin)
        fallen = torch.rand(shape, generator=generator, device=clean.device, dtype=clean.dtype) < per_image(density)
        flakes = convolve(fallen.to(clean.dtype), flake_kernels(radius, length, wind)).clamp_(0, 1)
        let_through.mul_(flakes.mul_(-opacity).add_(1))
    return torch.lerp(clean.maximum(per_image(whiteness)), clean, let_through).clamp_(0, 1)


def flake_kernels(radius: Tensor, length: Tensor, wind: Tensor) -> Tensor:
    """The shape of one flake, for each image: a disc with a soft rim, drawn along the wind.

    Args:
        radius: (B,) radii in pixels.
        length: (B,) by how much a flake is longer than wide, in pixels.
        wind: (B,) angles to the vertical, in radians.

    Returns:
        (B, K, K) with K = `FLAKE_KERNEL`, values in [0, 1].
    """
    down, right = offsets(FLAKE_KERNEL, radius)
    sine, cosine = wind.sin()[:, None, None], wind.cos()[:, None, None]
    along, across = down * cosine + right * sine, right * cosine - down * sine
    beyond = (along.abs() - length[:, None, None] / 2).clamp(min=0)
    return torch.sigmoid(3 * (radius[:, None, None] - torch.hypot(beyond, across)))

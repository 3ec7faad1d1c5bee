"""Rain and haze."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hairify.data.degradations._blur import convolve
from hairify.data.degradations._numbers import offsets, per_image, uniform

STREAK_KERNEL = 25
"""Side in pixels of the square in which one rain streak is drawn; odd, as of all kernels, so that it has a centre."""

HILL = 96
"""Distance in pixels between the hills of a depth map."""


def add_rain(clean: Tensor, generator: Generator) -> Tensor:
    """Bright oriented streaks, added to the image: rain only brightens.

    Each image gets its own rain: slant within 35 degrees of the vertical, streaks 9 to 23 pixels long, of its own
    density and brightness. A streak is a random speck blurred along the direction of fall.

    Returns: (B, 3, H, W) in [0, 1], nowhere darker than `clean`.
    """
    batch, _, height, width = clean.shape
    slant = uniform(batch, -35, 35, generator, clean) * (math.pi / 180)
    length = uniform(batch, 9, 23, generator, clean)
    density = uniform(batch, 0.001, 0.005, generator, clean)
    brightness = uniform(batch, 0.3, 0.6, generator, clean)

    # Specks fill a margin around the image too: streaks that begin outside reach in, as in the rest.
    margin = STREAK_KERNEL - 1
    speck_shape = (batch, 1, height + margin, width + margin)
    fallen = torch.rand(speck_shape, generator=generator, device=clean.device, dtype=clean.dtype)
    strength = torch.rand(speck_shape, generator=generator, device=clean.device, dtype=clean.dtype)
    specks = strength.mul_(0.6).add_(0.4).mul_(fallen < per_image(density))
    streaks = convolve(specks, streak_kernels(slant, length)).clamp_(0, 1)
    return (clean + streaks.mul_(per_image(brightness))).clamp_(max=1)


def streak_kernels(slant: Tensor, length: Tensor) -> Tensor:
    """The shape of one streak, for each image.

    Args:
        slant: (B,) angles to the vertical, in radians.
        length: (B,) lengths in pixels.

    Returns:
        (B, K, K) with K = `STREAK_KERNEL`, values in [0, 1]; 1 along the middle of the streak.
    """
    down, right = offsets(STREAK_KERNEL, slant)
    sine, cosine = slant.sin()[:, None, None], slant.cos()[:, None, None]
    along, across = down * cosine + right * sine, right * cosine - down * sine
    profile = torch.exp(-((across / 0.7) ** 2) / 2)
    ends = torch.sigmoid(2 * (length[:, None, None] / 2 - along.abs()))
    return profile * ends


def add_haze(clean: Tensor, generator: Generator) -> Tensor:
    """Haze by atmospheric scattering, over a smooth random depth.

    Each image gets its own depth map d in [0.2, 1], airlight A in [0.7, 1] and scattering coefficient β in [0.6, 1.8]
    (the ranges of the RESIDE dataset); the transmission is t = exp(-β d).

    Returns: (B, 3, H, W) in [0, 1].
    """
    batch, _, height, width = clean.shape
    airlight = uniform(batch, 0.7, 1.0, generator, clean)
    scattering = uniform(batch, 0.6, 1.8, generator, clean)
    depth = smooth_depth(batch, height, width, generator).to(clean)
    return scatter(clean, depth.mul_(-per_image(scattering)).exp_(), per_image(airlight))


def scatter(clean: Tensor, transmission: Tensor, airlight: Tensor) -> Tensor:
    """The atmospheric scattering model, I = J t + A (1 - t).

    Args:
        clean: J, (B, 3, H, W) in [0, 1].
        transmission: t in [0, 1], broadcastable to J. t = 1 leaves the image as it is, t = 0 leaves only airlight.
        airlight: A in [0, 1], broadcastable to J.

    Returns:
        I, (B, 3, H, W) in [0, 1].
    """
    return torch.lerp(airlight, clean, transmission)


def smooth_depth(batch: int, height: int, width: int, generator: Generator) -> Tensor:
    """Smooth random depth maps: hills and valleys about `HILL` pixels apart, whatever the size of the map.

    So a small map looks like a piece of a large one, and a patch in haze like a piece of a photograph in haze.

    Returns: (B, 1, H, W) in [0.2, 1], float32; near is small.
    """
    rows, columns = (math.ceil(side / HILL) + 2 for side in (height, width))
    heights = torch.rand((batch, 1, rows, columns), generator=generator, device=generator.device)
    hills = F.interpolate(heights, size=((rows - 1) * HILL, (columns - 1) * HILL), mode="bicubic", align_corners=True)
    # Each map is cut out at a place of its own, or all would have a hill or a valley in the same corner.
    corners = torch.randint(HILL, (batch, 2), generator=generator, device=generator.device).tolist()
    cut = [one[:, top : top + height, left : left + width] for one, (top, left) in zip(hills, corners, strict=True)]
    # Bicubic interpolation overshoots a little.
    return torch.stack(cut).clamp_(0, 1).mul_(0.8).add_(0.2)

"""Synthetic noise, rain and haze, for batches of photographs.

Every function here takes and returns images of shape (B, 3, H, W) with values in [0, 1], works on each image of the
batch by itself, and draws all its randomness from the `torch.Generator` it is given: the same seed gives the same
result, and an image's degradation depends only on its place in the batch, never on what the other images show.
The generator and the images must be on the same device.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Degradation = Callable[[Tensor, Generator], Tensor]
"""Clean images (B, 3, H, W) in [0, 1] and a generator → degraded images of the same shape and range."""

STREAK_KERNEL = 25
"""Side in pixels of the square in which one rain streak is drawn; odd, so that the streak has a centre."""

HILL = 96
"""Distance in pixels between the hills of a depth map."""


def add_noise(clean: Tensor, generator: Generator, sigma: float = 25.0) -> Tensor:
    """White Gaussian noise as the denoising literature defines it.

    `sigma` is the standard deviation on the 0-255 scale of 8-bit images; the sum is rounded to 8 bits and clipped, as
    in a noisy photograph read from a file.

    Returns: (B, 3, H, W) in [0, 1].
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    return (clean * 255 + sigma * noise).round().clamp(0, 255) / 255


def add_rain(clean: Tensor, generator: Generator) -> Tensor:
    """Bright oriented streaks, added to the image: rain only brightens.

    Each image gets its own rain: slant within 35 degrees of the vertical, streaks 9 to 23 pixels long, of its own
    density and brightness. A streak is a random speck blurred along the direction of fall.

    Returns: (B, 3, H, W) in [0, 1], nowhere darker than `clean`.
    """
    batch, _, height, width = clean.shape
    slant = _uniform(batch, -35, 35, generator, clean) * (math.pi / 180)
    length = _uniform(batch, 9, 23, generator, clean)
    density = _uniform(batch, 0.001, 0.005, generator, clean)
    brightness = _uniform(batch, 0.3, 0.6, generator, clean)

    # Specks fill a margin around the image too: streaks that begin outside reach in, as in the rest.
    margin = STREAK_KERNEL - 1
    speck_shape = (batch, height + margin, width + margin)
    fallen = torch.rand(speck_shape, generator=generator, device=clean.device, dtype=clean.dtype)
    strength = torch.rand(speck_shape, generator=generator, device=clean.device, dtype=clean.dtype)
    specks = (fallen < density[:, None, None]) * (0.4 + 0.6 * strength)
    # One kernel for each image: the batch lies on the channel axis of a grouped convolution.
    streaks = F.conv2d(specks[None], streak_kernels(slant, length)[:, None], groups=batch)[0]
    return (clean + (brightness[:, None, None] * streaks.clamp(max=1))[:, None]).clamp(max=1)


def streak_kernels(slant: Tensor, length: Tensor) -> Tensor:
    """The shape of one streak, for each image.

    Args:
        slant: (B,) angles to the vertical, in radians.
        length: (B,) lengths in pixels.

    Returns:
        (B, K, K) with K = `STREAK_KERNEL`, values in [0, 1]; 1 along the middle of the streak.
    """
    offset = torch.arange(STREAK_KERNEL, device=slant.device, dtype=slant.dtype) - STREAK_KERNEL // 2
    down, right = offset[None, :, None], offset[None, None, :]
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
    airlight = _uniform(batch, 0.7, 1.0, generator, clean)[:, None, None, None]
    scattering = _uniform(batch, 0.6, 1.8, generator, clean)[:, None, None, None]
    depth = smooth_depth(batch, height, width, generator).to(clean)
    return scatter(clean, torch.exp(-scattering * depth), airlight)


def scatter(clean: Tensor, transmission: Tensor, airlight: Tensor) -> Tensor:
    """The atmospheric scattering model, I = J t + A (1 - t).

    Args:
        clean: J, (B, 3, H, W) in [0, 1].
        transmission: t in [0, 1], broadcastable to J. t = 1 leaves the image as it is, t = 0 leaves only airlight.
        airlight: A in [0, 1], broadcastable to J.

    Returns:
        I, (B, 3, H, W) in [0, 1].
    """
    return clean * transmission + airlight * (1 - transmission)


def smooth_depth(batch: int, height: int, width: int, generator: Generator) -> Tensor:
    """Smooth random depth maps: hills and valleys about `HILL` pixels apart, whatever the size of the map.

    So a small map looks like a piece of a large one, and a patch in haze like a piece of a photograph in haze.

    Returns: (B, 1, H, W) in [0.2, 1]; near is small.
    """
    rows, columns = (math.ceil(side / HILL) + 2 for side in (height, width))
    heights = torch.rand((batch, 1, rows, columns), generator=generator, device=generator.device)
    hills = F.interpolate(heights, size=((rows - 1) * HILL, (columns - 1) * HILL), mode="bicubic", align_corners=True)
    # Each map is cut out at a place of its own, or all would have a hill or a valley in the same corner.
    corners = torch.randint(HILL, (batch, 2), generator=generator, device=generator.device).tolist()
    cut = [one[:, top : top + height, left : left + width] for one, (top, left) in zip(hills, corners, strict=True)]
    # Bicubic interpolation overshoots a little.
    return 0.2 + 0.8 * torch.stack(cut).clamp(0, 1)


DEGRADATIONS: dict[str, Degradation] = {"noise": add_noise, "rain": add_rain, "haze": add_haze}
"""The degradations of the demo, by the names its tables and pictures use."""


def _uniform(count: int, low: float, high: float, generator: Generator, like: Tensor) -> Tensor:
    """(count,) numbers drawn evenly between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=generator, device=like.device, dtype=like.dtype)

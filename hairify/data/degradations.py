"""Synthetic degradations, for batches of photographs: noise, rain, haze, blur, low light, and compositions of them.

Every degradation takes and returns images of shape (B, 3, H, W), float32 or float64, with values in [0, 1]. It works
on each image of the batch by itself and draws all its randomness from the `torch.Generator` it is given: the same seed
gives the same result, and an image's degradation depends only on its place in the batch, never on what the other
images show. The generator and the images must be on the same device.

Where a degradation ends in a camera's 8 bits (noise and low light), values are rounded to them, not truncated.
Published code that truncates darkens every degraded image by half a level; rounding leaves the mean alone.

Memory is a few times that of the images whatever their size and the size of the kernels, so a whole photograph of 24
megapixels can be degraded as well as a batch of patches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hairify.errors import DataError

Degradation = Callable[[Tensor, Generator], Tensor]
"""Clean images (B, 3, H, W) in [0, 1] and a generator → degraded images of the same shape and range."""

STREAK_KERNEL = 25
"""Side in pixels of the square in which one rain streak is drawn; odd, as of all kernels, so that it has a centre."""

DISC_KERNEL = 13
"""Side in pixels of the square in which the disc of a defocused point is drawn."""

PATH_KERNEL = 27
"""Side in pixels of the square in which the path of a moving point is drawn."""

HILL = 96
"""Distance in pixels between the hills of a depth map."""


def add_noise(clean: Tensor, generator: Generator, sigma: float = 25.0) -> Tensor:
    """White Gaussian noise as the denoising literature defines it: on 8-bit values, clipped.

    Args:
        clean: (B, 3, H, W) in [0, 1].
        generator: the only source of randomness.
        sigma: the standard deviation on the 0-255 scale of 8-bit images.

    Returns:
        (B, 3, H, W), multiples of 1/255 in [0, 1]: the sum is clipped and rounded as in a noisy photograph read from
        a file.
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    return _to_8_bits(noise.mul_(sigma / 255).add_(clean))


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
    speck_shape = (batch, 1, height + margin, width + margin)
    fallen = torch.rand(speck_shape, generator=generator, device=clean.device, dtype=clean.dtype)
    strength = torch.rand(speck_shape, generator=generator, device=clean.device, dtype=clean.dtype)
    specks = strength.mul_(0.6).add_(0.4).mul_(fallen < _per_image(density))
    streaks = convolve(specks, streak_kernels(slant, length)).clamp_(0, 1)
    return (clean + streaks.mul_(_per_image(brightness))).clamp_(max=1)


def streak_kernels(slant: Tensor, length: Tensor) -> Tensor:
    """The shape of one streak, for each image.

    Args:
        slant: (B,) angles to the vertical, in radians.
        length: (B,) lengths in pixels.

    Returns:
        (B, K, K) with K = `STREAK_KERNEL`, values in [0, 1]; 1 along the middle of the streak.
    """
    down, right = _offsets(STREAK_KERNEL, slant)
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
    airlight = _uniform(batch, 0.7, 1.0, generator, clean)
    scattering = _uniform(batch, 0.6, 1.8, generator, clean)
    depth = smooth_depth(batch, height, width, generator).to(clean)
    return scatter(clean, depth.mul_(-_per_image(scattering)).exp_(), _per_image(airlight))


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


def defocus_blur(clean: Tensor, generator: Generator) -> Tensor:
    """A lens out of focus: every point becomes a disc. Each image gets its own radius, 1 to 5 pixels.

    Returns: (B, 3, H, W) in [0, 1].
    """
    radius = _uniform(clean.shape[0], 1, 5, generator, clean)
    return blur(clean, disc_kernels(radius))


def disc_kernels(radius: Tensor) -> Tensor:
    """Discs with a smooth rim: a pixel counts by about the share of it that the disc covers.

    Args:
        radius: (B,) radii in pixels, at most half of `DISC_KERNEL` less a half. A radius of 0 is a single pixel.

    Returns:
        (B, K, K) with K = `DISC_KERNEL`, not negative, each of sum 1.
    """
    down, right = _offsets(DISC_KERNEL, radius)
    covered = (radius[:, None, None] + 0.5 - torch.hypot(down, right)).clamp(0, 1)
    return covered / covered.sum(dim=(1, 2), keepdim=True)


def motion_blur(clean: Tensor, generator: Generator) -> Tensor:
    """A camera that moves while it exposes: every point becomes a path, the arc of a circle.

    Each image gets its own path: 5 to 25 pixels long, in any direction, turning by at most 90 degrees on its way.

    Returns: (B, 3, H, W) in [0, 1].
    """
    batch = clean.shape[0]
    length = _uniform(batch, 5, 25, generator, clean)
    direction = _uniform(batch, 0, 2 * math.pi, generator, clean)
    turn = _uniform(batch, -math.pi / 2, math.pi / 2, generator, clean)
    return blur(clean, path_kernels(length, direction, turn))


def path_kernels(length: Tensor, direction: Tensor, turn: Tensor) -> Tensor:
    """Where a point that moves at constant speed along an arc spends its time.

    Args:
        length: (B,) lengths of the paths in pixels, less than `PATH_KERNEL` - 1. A length of 0 is a single pixel.
        direction: (B,) headings in the middle of the paths, in radians from the right towards the bottom.
        turn: (B,) by how much the heading changes from the path's beginning to its end, in radians; 0 is a straight
            line.

    Returns:
        (B, K, K) with K = `PATH_KERNEL`, not negative, each of sum 1, its centre of mass in the middle: the image
        is blurred but not displaced.
    """
    moments = 4 * PATH_KERNEL  # several for each pixel of the longest path
    time = (torch.arange(moments, device=length.device, dtype=length.dtype) + 0.5) / moments - 0.5
    heading = direction[:, None] + turn[:, None] * time
    step = length[:, None] / moments
    right, down = ((step * along).cumsum(dim=1) for along in (heading.cos(), heading.sin()))
    middle = PATH_KERNEL // 2
    pixel = torch.arange(-middle, middle + 1, device=length.device, dtype=length.dtype)
    # Each moment is shared out between its four nearest pixels.
    rows, columns = (
        (1 - ((path - path.mean(dim=1, keepdim=True))[..., None] - pixel).abs()).clamp(min=0) for path in (down, right)
    )
    return rows.mT @ columns / moments


def blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image with its own kernel; beyond its edges, an image goes on as its reflection.

    Args:
        images: (B, C, H, W) in [0, 1], of any size.
        kernels: (B, K, K) with K odd, not negative, each of sum 1.

    Returns:
        (B, C, H, W) in [0, 1].
    """
    margin = kernels.shape[-1] // 2
    rows, columns = (_reflected(side, margin, images.device) for side in images.shape[-2:])
    return convolve(images[..., rows, :][..., columns], kernels).clamp_(0, 1)


def convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image with its own kernel, where the kernel lies wholly inside.

    It goes by way of the Fourier transform: convolution layers either unfold the image into K² copies or work
    through all K² positions, too much for a whole photograph. The result is off by rounding, about 1e-6.

    Args:
        images: (B, C, H, W), both sides at least K.
        kernels: (B, K, K).

    Returns:
        (B, C, H - K + 1, W - K + 1).
    """
    reach = kernels.shape[-1] - 1
    height, width = images.shape[-2:]
    size = (_fast_length(height), _fast_length(width))
    spectrum = torch.fft.rfft2(images, s=size).mul_(torch.fft.rfft2(kernels, s=size)[:, None])
    # What has gone around the edges of the transform lies in the first `reach` rows and columns.
    return torch.fft.irfft2(spectrum, s=size)[..., reach:height, reach:width]


def darken(clean: Tensor, generator: Generator) -> Tensor:
    """Low light: a short exposure, a dark tone curve, and the sensor's noise in what little light there is.

    Each image gets its own exposure in [0.1, 0.4] and gamma in [1.5, 2.5], which bring the mean of a usual photograph
    to about 0.06, as in LOL's; and its own sensor, with shot noise in [0.0002, 0.002] and read noise in [0.002, 0.01].

    Returns: (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    batch = clean.shape[0]
    exposure = _uniform(batch, 0.1, 0.4, generator, clean)
    gamma = _uniform(batch, 1.5, 2.5, generator, clean)
    shot = _uniform(batch, 0.0002, 0.002, generator, clean)
    read = _uniform(batch, 0.002, 0.01, generator, clean)
    dark = clean.pow(_per_image(gamma)).mul_(_per_image(exposure))
    return _to_8_bits(add_sensor_noise(dark, generator, _per_image(shot), _per_image(read)))


def add_sensor_noise(images: Tensor, generator: Generator, shot: Tensor, read: Tensor) -> Tensor:
    """Gaussian noise whose variance grows with the light: shot · x + read², for a value x.

    This is the usual approximation of the Poisson noise of photons and the Gaussian noise of a sensor's electronics
    (Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", 2008).

    Args:
        images: x, (B, 3, H, W) in [0, 1].
        generator: the only source of randomness.
        shot: the variance for each unit of light, broadcastable to `images`.
        read: the standard deviation in the dark, broadcastable to `images`.

    Returns:
        (B, 3, H, W), not clipped.
    """
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return noise.mul_((images * shot).add_(read**2).sqrt_()).add_(images)


DEGRADATIONS: dict[str, Degradation] = {
    "noise15": partial(add_noise, sigma=15.0),
    "noise25": partial(add_noise, sigma=25.0),
    "noise50": partial(add_noise, sigma=50.0),
    "rain": add_rain,
    "haze": add_haze,
    "defocus": defocus_blur,
    "motion": motion_blur,
    "low_light": darken,
}
"""The degradations by name. `degradation` knows more: noise of any strength, and compositions."""


def compose(*degradations: Degradation) -> Degradation:
    """One degradation after another, from left to right: each degrades what the one before it gave."""
    return partial(_in_turn, degradations)  # not a closure: worker processes are sent degradations by pickling


def degradation(name: str) -> Degradation:
    """The degradation of a name.

    Args:
        name: one of `DEGRADATIONS`; "noise" and a standard deviation on the 0-255 scale, as in "noise37" or
            "noise2.5"; or several of these joined by "+", applied from left to right, as in "haze+noise25".

    Raises:
        DataError: the name, or a part of it, is not known.
    """
    parts = [_by_name(part, name) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else compose(*parts)


def _by_name(part: str, name: str) -> Degradation:
    """The degradation of one part of a name."""
    if part in DEGRADATIONS:
        return DEGRADATIONS[part]
    if strength := re.fullmatch(r"noise(\d+(?:\.\d+)?)", part):
        return partial(add_noise, sigma=float(strength[1]))
    of_name = "" if part == name else f" (in {name!r})"
    raise DataError(
        f"There is no degradation {part!r}{of_name}. Known are {', '.join(DEGRADATIONS)}; noise of any other strength "
        "by its standard deviation on the 0-255 scale, such as 'noise37'; and compositions, such as 'haze+noise25'."
    )


def _in_turn(degradations: tuple[Degradation, ...], clean: Tensor, generator: Generator) -> Tensor:
    """Degrade by each in turn."""
    return reduce(lambda images, degrade: degrade(images, generator), degradations, clean)


def _to_8_bits(images: Tensor) -> Tensor:
    """Clip to [0, 1] and round to multiples of 1/255, in place."""
    return images.mul_(255).round_().clamp_(0, 255).div_(255)


def _uniform(count: int, low: float, high: float, generator: Generator, like: Tensor) -> Tensor:
    """(count,) numbers drawn evenly between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=generator, device=like.device, dtype=like.dtype)


def _per_image(numbers: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1), to go with images."""
    return numbers[:, None, None, None]


def _offsets(side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """How far each pixel of a kernel lies below and to the right of its centre: (1, side, 1) and (1, 1, side)."""
    offset = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
    return offset[None, :, None], offset[None, None, :]


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """The indices, (length + 2 margin,), that extend an axis by its reflection at both ends.

    The pixel at the edge is not repeated. Where the margin is longer than the axis, it is reflected to and fro.
    """
    period = max(2 * (length - 1), 1)
    index = torch.arange(-margin, length + margin, device=device) % period
    return torch.minimum(index, period - index)


def _fast_length(length: int) -> int:
    """The next length with no prime factor over 5, for which Fourier transforms are fast."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1

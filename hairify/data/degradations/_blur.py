"""Blur: a lens out of focus, a moving camera, and the convolution with a kernel for each image."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from hairify.data.degradations._numbers import offsets, uniform

DISC_KERNEL = 13
"""Side in pixels of the square in which the disc of a defocused point is drawn."""

PATH_KERNEL = 27
"""Side in pixels of the square in which the path of a moving point is drawn."""


def defocus_blur(clean: Tensor, generator: Generator) -> Tensor:
    """A lens out of focus: every point becomes a disc. Each image gets its own radius, 1 to 5 pixels.

    Returns: (B, 3, H, W) in [0, 1].
    """
    radius = uniform(clean.shape[0], 1, 5, generator, clean)
    return blur(clean, disc_kernels(radius))


def disc_kernels(radius: Tensor) -> Tensor:
    """Discs with a smooth rim: a pixel counts by about the share of it that the disc covers.

    Args:
        radius: (B,) radii in pixels, at most half of `DISC_KERNEL` less a half. A radius of 0 is a single pixel.

    Returns:
        (B, K, K) with K = `DISC_KERNEL`, not negative, each of sum 1.
    """
    down, right = offsets(DISC_KERNEL, radius)
    covered = (radius[:, None, None] + 0.5 - torch.hypot(down, right)).clamp(0, 1)
    return covered / covered.sum(dim=(1, 2), keepdim=True)


def motion_blur(clean: Tensor, generator: Generator) -> Tensor:
    """A camera that moves while it exposes: every point becomes a path, the arc of a circle.

    Each image gets its own path: 5 to 25 pixels long, in any direction, turning by at most 90 degrees on its way.

    Returns: (B, 3, H, W) in [0, 1].
    """
    batch = clean.shape[0]
    length = uniform(batch, 5, 25, generator, clean)
    direction = uniform(batch, 0, 2 * math.pi, generator, clean)
    turn = uniform(batch, -math.pi / 2, math.pi / 2, generator, clean)
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

"""A random chain of blur, resizing, noise and JPEG, twice, for photographs with an unknown past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from hairify.data.degradations._blur import blur
from hairify.data.degradations._numbers import offsets, to_8_bits
from hairify.data.degradations._storage import compress, resize

CHAIN_KERNEL = 21
"""Side in pixels of the kernels of blur in the chain."""


@dataclass(frozen=True)
class _Stage:
    """The ranges of one round; shares are of the images to which something is done."""

    blurred: float
    deviation: tuple[float, float]  # of Gaussian kernels, in pixels
    larger: float
    smaller: float
    scale: tuple[float, float]
    noise: tuple[float, float]  # of Gaussian noise, on the 0-255 scale
    grains: tuple[float, float]  # of Poisson noise: how many times that of 255 photons


# As published for ×4 super-resolution (Real-ESRGAN's supplement), but for the size: there the smallest is 0.15.
_FIRST = _Stage(1.0, (0.2, 3.0), 0.2, 0.7, (0.3, 1.5), (1, 30), (0.05, 3.0))
_SECOND = _Stage(0.8, (0.2, 1.5), 0.3, 0.4, (0.3, 1.2), (1, 25), (0.05, 2.5))
_SINC = 0.1  # share of kernels that ring, in place of Gaussian ones
_GREY = 0.4  # share of noises that are alike in all colours
_LAST_SINC = 0.8
_QUALITY = (30, 95)
_MODES = ("area", "bilinear", "bicubic")


def second_order(clean: Tensor, generator: Generator) -> Tensor:
    """Two rounds of blur, resizing, noise and JPEG, after the second-order model of Wang et al. ("Real-ESRGAN", 2021).

    Each image gets its own chain, with the published probabilities. Blur is by Gaussian kernels, longer than wide and
    turned, or by kernels that ring (sinc); noise is Gaussian or Poisson, coloured or grey; at the end, the image is
    brought back to its size and, before or after JPEG, may ring once more. Of the paper's other kernels, round
    Gaussian, generalised Gaussian and plateau-shaped ones, there are none, and images are not made smaller in the end.

    Returns: (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    # Poisson noise draws as many numbers as the image wants: with a generator for each, no image moves another's.
    seeds = torch.randint(2**62, (clean.shape[0],), generator=generator, device=generator.device).tolist()
    chains = [Generator(generator.device).manual_seed(seed) for seed in seeds]
    return torch.cat([_chain(image, own) for image, own in zip(clean.split(1), chains, strict=True)])


def _chain(image: Tensor, generator: Generator) -> Tensor:
    """The chain of one image (1, 3, H, W)."""
    size = (image.shape[2], image.shape[3])
    image = _round(image, size, _FIRST, generator)
    image = compress(image, generator, round(_drawn(_QUALITY, generator)))
    image = _round(image, size, _SECOND, generator)
    rings, quality = _happens(_LAST_SINC, generator), round(_drawn(_QUALITY, generator))
    kernel = _sinc_kernel(_drawn((math.pi / 3, math.pi), generator), image) if rings else None
    mode = _one_of(_MODES, generator)
    compressed_first = _happens(0.5, generator)
    if compressed_first:
        image = compress(image, generator, quality)
    image = resize(image, size, mode)
    image = blur(image, kernel).clamp(0, 1) if kernel is not None else image.clamp(0, 1)
    return to_8_bits(image) if compressed_first else compress(image, generator, quality)


def _round(image: Tensor, size: tuple[int, int], stage: _Stage, generator: Generator) -> Tensor:
    """Blur, another resolution, and noise."""
    if _happens(stage.blurred, generator):
        image = blur(image, _kernel(stage, image, generator)).clamp(0, 1)
    where = _drawn((0, 1), generator)
    low, high = stage.scale
    scale = 1.0
    if where < stage.larger:
        scale = _drawn((1, high), generator)
    elif where < stage.larger + stage.smaller:
        scale = _drawn((low, 1), generator)
    target = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
    return _noisy(resize(image, target, _one_of(_MODES, generator)).clamp(0, 1), stage, generator)


def _noisy(image: Tensor, stage: _Stage, generator: Generator) -> Tensor:
    """Gaussian or Poisson noise, coloured or grey; clipped."""
    gaussian, grey = _happens(0.5, generator), _happens(_GREY, generator)
    like = image.mean(dim=1, keepdim=True) if grey else image
    if gaussian:
        noise = torch.randn(like.shape, generator=generator, device=image.device, dtype=image.dtype)
        return noise.mul_(_drawn(stage.noise, generator) / 255).add(image).clamp_(0, 1)
    strength = _drawn(stage.grains, generator)
    noise = torch.poisson(like * 255, generator=generator).div_(255).sub_(like)
    return noise.mul_(strength).add(image).clamp_(0, 1)


def _kernel(stage: _Stage, like: Tensor, generator: Generator) -> Tensor:
    """A kernel of the first kind of blur, (1, K, K)."""
    if _happens(_SINC, generator):
        return _sinc_kernel(_drawn((math.pi / 3, math.pi), generator), like)
    deviations = [_drawn(stage.deviation, generator) for _ in range(2)]
    return gaussian_kernels(*(like.new_tensor([value]) for value in (*deviations, _drawn((0, math.pi), generator))))


def gaussian_kernels(along: Tensor, across: Tensor, angle: Tensor) -> Tensor:
    """Gaussian kernels, longer in one direction.

    Args:
        along: (B,) standard deviations in a direction, in pixels.
        across: (B,) those across it.
        angle: (B,) of the direction, in radians from the right towards the bottom.

    Returns:
        (B, K, K) with K = `CHAIN_KERNEL`, positive, each of sum 1.
    """
    down, right = offsets(CHAIN_KERNEL, along)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    far, aside = right * cosine + down * sine, down * cosine - right * sine
    kernels = torch.exp(-((far / along[:, None, None]) ** 2 + (aside / across[:, None, None]) ** 2) / 2)
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _sinc_kernel(cutoff: float, like: Tensor) -> Tensor:
    return sinc_kernels(like.new_tensor([cutoff]))


def sinc_kernels(cutoff: Tensor) -> Tensor:
    """Ideal low passes, cut off at the edge of the kernel: sharp edges overshoot and ring, as sharpened ones do.

    Args:
        cutoff: (B,) the highest frequency that is let through, in radians for each pixel, at most π.

    Returns:
        (B, K, K) with K = `CHAIN_KERNEL`, each of sum 1, in part negative.
    """
    down, right = offsets(CHAIN_KERNEL, cutoff)
    distance, cutoff = torch.hypot(down, right), cutoff[:, None, None]
    middle = distance == 0
    distance = distance.masked_fill(middle, 1)
    kernels = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    kernels = torch.where(middle, cutoff**2 / (4 * math.pi), kernels)
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _drawn(limits: tuple[float, float], generator: Generator) -> float:
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def _happens(share: float, generator: Generator) -> bool:
    return _drawn((0, 1), generator) < share


def _one_of(choices: Sequence[str], generator: Generator) -> str:
    return choices[int(torch.randint(len(choices), (), generator=generator, device=generator.device))]

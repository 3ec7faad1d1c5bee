"""Noise of denoising, noise of sensors, and low light."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hairify.data.degradations._numbers import per_image, to_8_bits, uniform


def add_noise(clean: Tensor, generator: Generator, sigma: float | tuple[float, float] = 25.0) -> Tensor:
    """White Gaussian noise as the denoising literature defines it: on 8-bit values, clipped.

    Args:
        clean: (B, 3, H, W) in [0, 1].
        generator: the only source of randomness.
        sigma: the standard deviation on the 0-255 scale of 8-bit images; of two numbers, each image gets its own
            between them.

    Returns:
        (B, 3, H, W), multiples of 1/255 in [0, 1]: the sum is clipped and rounded as in a noisy photograph read from
        a file.
    """
    strength: float | Tensor
    if isinstance(sigma, tuple):
        strength = per_image(uniform(clean.shape[0], *sigma, generator, clean)) / 255
    else:
        strength = sigma / 255
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    return to_8_bits(noise.mul_(strength).add_(clean))


def darken(clean: Tensor, generator: Generator) -> Tensor:
    """Low light: a short exposure, a dark tone curve, and the sensor's noise in what little light there is.

    Each image gets its own exposure in [0.1, 0.4] and gamma in [1.5, 2.5], which bring the mean of a usual photograph
    to about 0.06, as in LOL's; and its own sensor, with shot noise in [0.0002, 0.002] and read noise in [0.002, 0.01].

    Returns: (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    batch = clean.shape[0]
    exposure = uniform(batch, 0.1, 0.4, generator, clean)
    gamma = uniform(batch, 1.5, 2.5, generator, clean)
    shot = uniform(batch, 0.0002, 0.002, generator, clean)
    read = uniform(batch, 0.002, 0.01, generator, clean)
    dark = clean.pow(per_image(gamma)).mul_(per_image(exposure))
    return to_8_bits(add_sensor_noise(dark, generator, per_image(shot), per_image(read)))


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


def add_resampled_noise(clean: Tensor, generator: Generator) -> Tensor:
    """A sensor's noise as it is in developed photographs: its grains are larger than pixels, and coloured.

    Each image gets its own sensor, 1 to 1.6 times as fine as the image, with shot noise in [0.002, 0.02] and read noise
    in [0.01, 0.04] (see `add_sensor_noise`). Each of its pixels measures one colour (Bayer's RGGB mosaic); the other
    two are interpolated linearly from its neighbours, and the whole made smaller. All of this is linear, so that it is
    done to the noise alone: what it would do to the image is no part of this degradation.

    Returns: (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    batch, _, height, width = clean.shape
    finer = uniform(batch, 1.0, 1.6, generator, clean).tolist()
    shot = uniform(batch, 0.002, 0.02, generator, clean)
    read = uniform(batch, 0.01, 0.04, generator, clean)
    noisy = []
    for i, image in enumerate(clean.split(1)):
        size = (math.ceil(height * finer[i]), math.ceil(width * finer[i]))
        light = (F.interpolate(image, size=size, mode="bilinear") * bayer_mosaic(*size, clean)).sum(dim=1, keepdim=True)
        noise = add_sensor_noise(light, generator, shot[i], read[i]).sub_(light)
        grains = F.interpolate(demosaic(noise), size=(height, width), mode="bicubic", antialias=True)
        noisy.append(grains.add_(image))
    return to_8_bits(torch.cat(noisy))


def bayer_mosaic(height: int, width: int, like: Tensor) -> Tensor:
    """Which colour each pixel of a sensor measures: (1, 3, H, W) of ones and zeros."""
    mosaic = torch.zeros((1, 3, height, width), device=like.device, dtype=like.dtype)
    mosaic[:, 0, 0::2, 0::2] = 1
    mosaic[:, 1, 0::2, 1::2] = 1
    mosaic[:, 1, 1::2, 0::2] = 1
    mosaic[:, 2, 1::2, 1::2] = 1
    return mosaic


def demosaic(measured: Tensor) -> Tensor:
    """All colours of a sensor's pixels: that which each measures, and the means of its neighbours'.

    Args:
        measured: (B, 1, H, W), one colour in each pixel, as `bayer_mosaic` has it.

    Returns:
        (B, 3, H, W). A colour that no pixel around measures is 0, as in images of a single pixel.
    """
    mosaic = bayer_mosaic(measured.shape[2], measured.shape[3], measured)
    near = measured.new_tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    crosswise = measured.new_tensor([[0, 1, 0], [1, 4, 1], [0, 1, 0]])
    weights = torch.stack([near, crosswise, near])[:, None]
    sums, counts = (F.conv2d(planes, weights, padding=1, groups=3) for planes in (measured * mosaic, mosaic))
    return sums / counts.clamp(min=1)

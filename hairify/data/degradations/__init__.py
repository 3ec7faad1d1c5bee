"""Synthetic degradations, for batches of photographs: by weather, lenses, sensors and storage, and compositions.

Every degradation takes and returns images of shape (B, 3, H, W), float32 or float64, with values in [0, 1]. It works
on each image of the batch by itself and draws all its randomness from the `torch.Generator` it is given: the same seed
gives the same result, and an image's degradation depends only on its place in the batch, never on what the other
images show. The generator and the images must be on the same device.

Where a degradation ends in 8 bits (noise, low light, JPEG and the like), values are rounded to them, not truncated.
Published code that truncates darkens every degraded image by half a level; rounding leaves the mean alone.

Memory is a few times that of the images whatever their size and the size of the kernels, so a whole photograph of 24
megapixels can be degraded as well as a batch of patches.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial, reduce

from torch import Generator, Tensor

from hairify.data.degradations._blur import (
    DISC_KERNEL,
    PATH_KERNEL,
    blur,
    convolve,
    defocus_blur,
    disc_kernels,
    motion_blur,
    path_kernels,
)
from hairify.data.degradations._chain import CHAIN_KERNEL, gaussian_kernels, second_order, sinc_kernels
from hairify.data.degradations._drops import DROP_KERNEL, add_raindrops, drops, moved
from hairify.data.degradations._noise import (
    add_noise,
    add_resampled_noise,
    add_sensor_noise,
    bayer_mosaic,
    darken,
    demosaic,
)
from hairify.data.degradations._snow import FLAKE_KERNEL, add_snow, flake_kernels
from hairify.data.degradations._storage import compress, downscale, resize
from hairify.data.degradations._weather import (
    HILL,
    STREAK_KERNEL,
    add_haze,
    add_rain,
    scatter,
    smooth_depth,
    streak_kernels,
)
from hairify.errors import DataError

__all__ = [
    "CHAIN_KERNEL",
    "DEGRADATIONS",
    "DISC_KERNEL",
    "DROP_KERNEL",
    "FLAKE_KERNEL",
    "HILL",
    "PATH_KERNEL",
    "STREAK_KERNEL",
    "Degradation",
    "add_haze",
    "add_noise",
    "add_rain",
    "add_raindrops",
    "add_resampled_noise",
    "add_sensor_noise",
    "add_snow",
    "bayer_mosaic",
    "blur",
    "compose",
    "compress",
    "convolve",
    "darken",
    "defocus_blur",
    "degradation",
    "demosaic",
    "disc_kernels",
    "downscale",
    "drops",
    "flake_kernels",
    "gaussian_kernels",
    "motion_blur",
    "moved",
    "path_kernels",
    "resize",
    "scatter",
    "second_order",
    "sinc_kernels",
    "smooth_depth",
    "streak_kernels",
]

Degradation = Callable[[Tensor, Generator], Tensor]
"""Clean images (B, 3, H, W) in [0, 1] and a generator → degraded images of the same shape and range."""

DEGRADATIONS: dict[str, Degradation] = {
    "noise15": partial(add_noise, sigma=15.0),
    "noise25": partial(add_noise, sigma=25.0),
    "noise50": partial(add_noise, sigma=50.0),
    "sensor_noise": add_resampled_noise,
    "rain": add_rain,
    "raindrops": add_raindrops,
    "snow": add_snow,
    "haze": add_haze,
    "defocus": defocus_blur,
    "motion": motion_blur,
    "low_light": darken,
    "jpeg": compress,
    "downscale": downscale,
    "second_order": second_order,
}
"""The degradations by name. `degradation` knows more: noise, JPEG and downscaling of any strength, and compositions."""


def compose(*degradations: Degradation) -> Degradation:
    """One degradation after another, from left to right: each degrades what the one before it gave."""
    return partial(_in_turn, degradations)  # not a closure: worker processes are sent degradations by pickling


def degradation(name: str) -> Degradation:
    """The degradation of a name.

    Args:
        name: one of `DEGRADATIONS`; "noise" and a standard deviation on the 0-255 scale, as in "noise37" or
            "noise2.5", or two between which each image has its own, as in "noise5-50"; "jpeg" and a quality from 1 to
            100, as in "jpeg20"; "downscale" and a factor from 1 on, as in "downscale3"; or several of these joined by
            "+", applied from left to right, as in "haze+noise25".

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
    between = re.fullmatch(r"noise(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", part)
    if between and float(between[1]) <= float(between[2]):
        return partial(add_noise, sigma=(float(between[1]), float(between[2])))
    if (strength := re.fullmatch(r"jpeg(\d+)", part)) and 1 <= int(strength[1]) <= 100:
        return partial(compress, quality=int(strength[1]))
    if (strength := re.fullmatch(r"downscale(\d+(?:\.\d+)?)", part)) and float(strength[1]) >= 1:
        return partial(downscale, factor=float(strength[1]))
    of_name = "" if part == name else f" (in {name!r})"
    raise DataError(
        f"There is no degradation {part!r}{of_name}. Known are {', '.join(DEGRADATIONS)}; noise of any other strength "
        "by its standard deviation on the 0-255 scale, such as 'noise37', or between two, such as 'noise5-50'; JPEG by "
        "its quality from 1 to 100, such as "
        "'jpeg20'; downscaling by a factor from 1 on, such as 'downscale3'; and compositions, such as 'haze+noise25'."
    )


def _in_turn(degradations: tuple[Degradation, ...], clean: Tensor, generator: Generator) -> Tensor:
    """Degrade by each in turn."""
    return reduce(lambda images, degrade: degrade(images, generator), degradations, clean)

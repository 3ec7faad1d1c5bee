"""An image in memory, and its pixels as files have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from hairify.errors import ImageError

Levels: TypeAlias = npt.NDArray[Any]
"""Pixels as files have them: (H, W, C) of grey, grey and alpha, RGB, or RGB and alpha.

They are uint8, uint16, or float32 in [0, 1].
"""


@dataclass(frozen=True, eq=False)
class Image:
    """A photograph, and what a file says about it that must survive restoring.

    Raises:
        ImageError: the tensors' shapes or `bits` are not as described.
    """

    pixels: Tensor
    """(3, H, W) float32 in [0, 1], RGB, upright. The three channels of a grey file are equal."""

    alpha: Tensor | None = None
    """(1, H, W) float32 in [0, 1], where the file has transparency. 0 is transparent."""

    grey: bool = False
    """Whether the file has a single channel of colour; it is written with one again."""

    bits: Literal[8, 16, 32] = 8
    """The file's bits for each channel: 32 are floating-point numbers. Files of fewer than 8 count as 8."""

    icc_profile: bytes | None = None
    """The colour profile that the pixels are to be read with, byte for byte. None for sRGB or not known."""

    exif: bytes | None = None
    """The EXIF block, from its byte order mark ("II" or "MM") on. Its orientation is 1: the pixels are upright."""

    resolution: tuple[float, float] | None = None
    """Pixels per metre, across and down, where the file says so."""

    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """What a PNG file says of its colours beside the profile, byte for byte: by kind, such as gAMA, cHRM and cICP."""

    frames: int = 1
    """How many pages or frames the file has, of which this is the first."""

    def __post_init__(self) -> None:
        shapes = {"pixels": (self.pixels, 3)} | ({} if self.alpha is None else {"alpha": (self.alpha, 1)})
        for name, (tensor, channels) in shapes.items():
            if tuple(tensor.shape) != (channels, *self.pixels.shape[-2:]):
                raise ImageError(f"`{name}` has shape {tuple(tensor.shape)}; it should be ({channels}, H, W).")
        if self.bits not in (8, 16, 32):
            raise ImageError(f"`bits` is {self.bits!r}; it should be 8, 16 or 32.")


def turned(levels: Levels, orientation: int) -> Levels:
    """Upright levels, of those that EXIF's `orientation` describes; a view."""
    if orientation >= 5:
        levels = rearrange(levels, "h w c -> w h c")
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    return levels


def white_of(kind: npt.DTypeLike) -> int:
    """The level of white."""
    return 1 if np.issubdtype(kind, np.floating) else int(np.iinfo(kind).max)


def to_tensor(levels: Levels) -> Tensor:
    """(C, H, W) in [0, 1]. Channel by channel, so that a large photograph is never there twice as float32."""
    height, width, channels = levels.shape
    white = white_of(levels.dtype)
    floats = np.empty((channels, height, width), np.float32)
    for channel, plane in enumerate(floats):
        np.divide(levels[..., channel], white, out=plane, dtype=np.float32)
    return torch.from_numpy(floats)


def to_pixels(levels: Levels) -> Tensor:
    """(3, H, W) in [0, 1], without alpha."""
    return to_tensor(levels[..., :3]) if levels.shape[2] > 2 else to_tensor(levels[..., :1]).repeat(3, 1, 1)


def to_integers(levels: Levels) -> Tensor:
    """The pixels (3, H, W) without alpha: uint8 where that is exact, as uint16 otherwise."""
    if levels.dtype != np.uint8:
        return _as_integers(to_pixels(levels))
    colours = levels[..., :3] if levels.shape[2] > 2 else levels[..., :1]
    planes = torch.from_numpy(np.ascontiguousarray(rearrange(colours, "h w c -> c h w")))
    return planes if len(planes) == 3 else planes.repeat(3, 1, 1)


def _as_integers(image: Tensor) -> Tensor:
    """(3, H, W) float32 in [0, 1] as uint8 where that is exact but for rounding, as uint16 otherwise."""
    integers = torch.empty(image.shape, dtype=torch.uint8)
    # In strips that stay in the processor's cache, which takes less than half as long.
    for strip, place in zip(image.flatten(0, 1).split(64), integers.flatten(0, 1).split(64), strict=True):
        levels = strip * 255
        rounded = levels.round()
        if levels.sub_(rounded).abs_().max() > 1e-3:
            return (image * 65535).round_().to(torch.uint16)
        place.copy_(rounded)
    return integers


def to_levels(image: Image, kind: type[np.uint8 | np.uint16 | np.float32], *, alpha: bool) -> Levels:
    """The levels to write, with the image's alpha if `alpha`."""
    pixels = image.pixels.detach().cpu()
    # In float64 the mean of three equal values is that value.
    planes = [pixels.mean(dim=0, dtype=torch.float64)] if image.grey else list(pixels)
    if alpha and image.alpha is not None:
        planes.append(image.alpha.detach().cpu()[0])
    white = white_of(kind)
    levels = np.empty((*pixels.shape[1:], len(planes)), kind)
    for channel, plane in enumerate(planes):
        if not plane.isfinite().all():
            raise ImageError("the image holds values that are not finite")
        plane = plane.clamp(0, 1)
        levels[..., channel] = plane.numpy() if kind is np.float32 else plane.mul_(white).round_().numpy()
    return levels

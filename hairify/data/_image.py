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
"""Pixels as files have them: (H, W, C) of uint8 or uint16, with grey, grey and alpha, RGB, or RGB and alpha."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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

    bits: Literal[8, 16] = 8
    """The file's bits for each channel. Files of fewer than 8 count as 8."""

    icc_profile: bytes | None = None
    """The colour profile that the pixels are to be read with, byte for byte. None for sRGB or not known."""

    exif: bytes | None = None
    """The EXIF block, from its byte order mark ("II" or "MM") on. Its orientation is 1: the pixels are upright."""

    def __post_init__(self) -> None:
        shapes = {"pixels": (self.pixels, 3)} | ({} if self.alpha is None else {"alpha": (self.alpha, 1)})
        for name, (tensor, channels) in shapes.items():
            if tuple(tensor.shape) != (channels, *self.pixels.shape[-2:]):
                raise ImageError(f"`{name}` has shape {tuple(tensor.shape)}; it should be ({channels}, H, W).")
        if self.bits not in (8, 16):
            raise ImageError(f"`bits` is {self.bits!r}; it should be 8 or 16.")


def turned(levels: Levels, orientation: int) -> Levels:
    """Upright levels, of those that EXIF's `orientation` describes; a view."""
    if orientation >= 5:
        levels = rearrange(levels, "h w c -> w h c")
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    return levels


def to_tensor(levels: Levels) -> Tensor:
    """(C, H, W) in [0, 1]. Channel by channel, so that a large photograph is never there twice as float32."""
    height, width, channels = levels.shape
    white = np.iinfo(levels.dtype).max
    floats = np.empty((channels, height, width), np.float32)
    for channel, plane in enumerate(floats):
        np.divide(levels[..., channel], white, out=plane, dtype=np.float32)
    return torch.from_numpy(floats)


def to_pixels(levels: Levels) -> Tensor:
    """(3, H, W) in [0, 1], without alpha."""
    return to_tensor(levels[..., :3]) if levels.shape[2] > 2 else to_tensor(levels[..., :1]).repeat(3, 1, 1)


def to_levels(image: Image, kind: type[np.uint8] | type[np.uint16], *, alpha: bool) -> Levels:
    """The levels to write, with the image's alpha if `alpha`."""
    pixels = image.pixels.detach().cpu()
    planes = [pixels.mean(dim=0)] if image.grey else list(pixels)
    if alpha and image.alpha is not None:
        planes.append(image.alpha.detach().cpu()[0])
    white = np.iinfo(kind).max
    levels = np.empty((*pixels.shape[1:], len(planes)), kind)
    for channel, plane in enumerate(planes):
        if not plane.isfinite().all():
            raise ImageError("the image holds values that are not finite")
        levels[..., channel] = plane.clamp(0, 1).mul_(white).round_().numpy()
    return levels

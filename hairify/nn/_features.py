"""What the split returns, and how the DAC reads it: F_g as a map (B, C, h, w) whatever its layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from hairify._support.nested import Size, tensors
from hairify._support.symbolic import is_symbolic

Layout: TypeAlias = Literal["map", "channels_last", "tokens", "vector"]

# Below this many positions a side, "the aspect ratio up to rounding" says nothing: 1×1 would match any image.
_LEAST_ROUNDED_SIDE = 4
# Networks without padding lose a border at each convolution, up to this part of a small image.
_MOST_BORDER = 1 / 3


@dataclass(frozen=True)
class Grid:
    """What tells how many rows and columns the positions of tokens have: the sides of a map, or of the image.

    Attributes:
        module: name of the module that returns the map; None for the image that the network is given.
        index: position of the map among the tensors of the flattened output of the module's first call.
        axis: that of the rows, which the columns follow: 2 in (B, C, h, w), 1 in (B, h, w, C).
        multiple: a side counts as so many times this.
        per: positions for each of these times.
        up: whether a part of a `multiple` counts as a whole one, as where the network pads; else it counts nothing.
    """

    module: str | None
    index: int = 0
    axis: int = 2
    multiple: int = 1
    per: int = 1
    up: bool = True

    def is_sound(self) -> bool:
        """Whether all fields have values that they can have, as may not be where they were read from a file."""
        numbers = (self.index, self.axis, self.multiple, self.per)
        return (
            all(type(n) is int for n in numbers)
            and isinstance(self.up, bool)
            and (self.module is None or isinstance(self.module, str))
            and self.axis in (1, 2)
            and self.index >= 0
            and min(self.multiple, self.per) >= 1
        )

    def of(self, size: Size) -> Size:
        """(rows, columns) of the grid, from those of the map or the image; symbolic where these are."""
        height, width = size
        if self.multiple > 1:  # of positive numbers alone, for ONNX divides towards zero
            more = self.multiple - 1 if self.up else 0
            height, width = (height + more) // self.multiple, (width + more) // self.multiple
        return height * self.per, width * self.per


def size_of_map(output: Any, index: int, axis: int) -> Size:
    """The rows and columns of the map in what a module returned; arguments as in `Grid`."""
    shape = tensors(output)[index].shape
    return shape[axis], shape[axis + 1]


@dataclass(frozen=True)
class Feature:
    """Which tensor of the split's output is F_g, and in which layout.

    Attributes:
        index: position among the tensors of the flattened output (0 where the output is one tensor).
        layout: "map" (B, C, h, w), "channels_last" (B, h, w, C), "tokens" (B, L, C) or "vector" (B, C).
        shape: (C, h, w) as the DAC saw it on the example inputs.
        grid: what tells the rows and columns of tokens; None where only the image's aspect ratio does.
    """

    index: int
    layout: Layout
    shape: tuple[int, int, int]
    grid: Grid | None = None

    @property
    def area(self) -> int:
        """Number of positions, the resolution by which features are compared."""
        return self.shape[1] * self.shape[2]

    @property
    def is_single(self) -> bool:
        """Whether it has a single position, whatever the image."""
        return self.layout == "vector"

    @property
    def channels(self) -> int:
        """Number of channels, the DAC's `in_channels`."""
        return self.shape[0]


def find_feature(
    shapes: Sequence[tuple[int, ...]], batch: int, image: Size | None, *, strict: bool, are_maps: bool = False
) -> Feature | None:
    """The lowest-resolution feature among the tensors of an output, the first of equals.

    Args:
        shapes: the shapes of the output's tensors.
        batch: number of images they were made from.
        image: (H, W) of the input images, None where the inputs are no images.
        strict: accept only what keeps the image's aspect ratio. Windows, attention maps and pooled vectors
            do not, so this tells features from the rest. Without it any layout a person may have chosen
            is accepted.
        are_maps: whether tensors of four dimensions are known to be maps (B, C, h, w); else their shapes tell.

    Returns:
        None where no tensor qualifies.
    """
    found = [_recognise(i, shape, batch, image, strict, are_maps) for i, shape in enumerate(shapes)]
    return min((f for f in found if f is not None), key=lambda f: f.area, default=None)


def _recognise(
    index: int, shape: tuple[int, ...], batch: int, image: Size | None, strict: bool, are_maps: bool
) -> Feature | None:
    """The feature that a tensor of this shape is, or None; arguments as for `find_feature`."""
    if not 2 <= len(shape) <= 4 or shape[0] != batch or 0 in shape:
        return None
    if strict and _is_pooled(shape):
        return None
    if len(shape) == 2:
        return Feature(index, "vector", (shape[1], 1, 1))
    if len(shape) == 3:
        return _as_tokens(index, shape, image, strict)
    return _as_map(index, shape, image, strict, are_maps)


def _is_pooled(shape: tuple[int, ...]) -> bool:
    """Whether there is a single position, which fits the aspect ratio of any image."""
    return sum(n > 1 for n in shape[1:]) <= 1


def _as_tokens(index: int, shape: tuple[int, ...], image: Size | None, strict: bool) -> Feature | None:
    """Tokens (B, L, C) as a feature. Strictly, positions must lie in the image's aspect ratio."""
    _, length, channels = shape
    feature = Feature(index, "tokens", (channels, *token_grid(length, image)))
    if not strict:
        return feature
    if image is None or _looks_like_attention(shape):
        return None
    h, w = feature.shape[1:]
    if min(h, w) < _LEAST_ROUNDED_SIDE and _looks_like_tokens_last(shape, image):
        return None
    fits = w > 1 and (_fits_exactly((h, w), image) or _fits_rounded((h, w), image))
    return feature if fits else None


def _as_map(index: int, shape: tuple[int, ...], image: Size | None, strict: bool, are_maps: bool) -> Feature | None:
    """A tensor of four dimensions as the feature, (B, C, h, w) or (B, h, w, C), that fits the image best."""
    channels_first = Feature(index, "map", (shape[1], shape[2], shape[3]))
    channels_last = Feature(index, "channels_last", (shape[3], shape[1], shape[2]))
    only_first = are_maps or (strict and _looks_like_attention(shape))
    layouts = [channels_first] if only_first else [channels_first, channels_last]
    if image is not None:
        for fits_image in (_fits_exactly, _fits_rounded, _fits_cropped):  # what fits better goes first
            for feature in layouts:
                if fits_image(feature.shape[1:], image):
                    return feature
    return None if strict else channels_first


def _looks_like_tokens_last(shape: tuple[int, ...], image: Size) -> bool:
    """Whether a shape looks like (B, C, L), few channels of many tokens."""
    return shape[2] > shape[1] and _fits_exactly(token_grid(shape[2], image), image)


def _looks_like_attention(shape: tuple[int, ...]) -> bool:
    """Whether a shape looks like an attention map, (..., n, n), whose other dimensions may have any ratio by chance."""
    return shape[-2] == shape[-1]


def _fits_exactly(size: Size, image: Size) -> bool:
    """Whether a map has the image's aspect ratio."""
    return size[0] * image[1] == size[1] * image[0]


def _fits_rounded(size: Size, image: Size) -> bool:
    """Whether a map has the image's aspect ratio up to the rounding of its sides."""
    difference = abs(size[0] * image[1] - size[1] * image[0])
    return min(size) >= _LEAST_ROUNDED_SIDE and difference <= max(image)


def _fits_cropped(size: Size, image: Size) -> bool:
    """Whether a map has the image's aspect ratio but for a border cut off or added on all sides.

    A border leaves width - height as it is.
    """
    (h, w), (height, width) = size, image
    if min(size) < _LEAST_ROUNDED_SIDE or (width - height) * (w - h) <= 0:
        return False
    scale = Fraction(width - height, w - h)
    return 1 in (scale.numerator, scale.denominator) and abs(h * scale - height) <= _MOST_BORDER * height


def token_grid(length: int, image: Size | None) -> Size:
    """(h, w) with h·w = `length`, as near to the image's aspect ratio as possible; (length, 1) without an image.

    Networks pad images to a multiple of their window or patch, so the ratios may differ a little.
    """
    if image is None:
        return length, 1
    if is_symbolic(length):  # no search over divisors: the ratio must fit up to rounding
        # By what exporters can follow, which is neither a true division of sizes nor `sqrt` or `round`.
        h = math.floor(torch.sym_float(length * image[0] // image[1]) ** 0.5 + 0.5)
        h = torch.sym_max(1, h)
        return h, length // h
    h = math.sqrt(length * image[0] / image[1])
    rounded = max(1, round(h))
    if length % rounded == 0:
        return rounded, length // rounded
    below, beside = _divisor_up_to(length, round(h)), length // _divisor_up_to(length, round(length / h))
    return min(((n, length // n) for n in (below, beside)), key=lambda size: abs(math.log(size[0] / h)))


def _divisor_up_to(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`, and at least 1."""
    return next((n for n in range(most, 1, -1) if number % n == 0), 1)


def read_feature(output: Any, index: int, layout: Layout, image: Size | None, grid: Size | None = None) -> Tensor:
    """F_g of shape (B, C, h, w), out of whatever the split returned.

    The feature is copied: the network may go on to change its own in place (`ReLU(inplace=True)`,
    `x += skip`), which neither the DAC nor its backward pass must see.

    Args:
        output: what the split returned: a tensor, or a list, tuple or dict of tensors.
        index: position of F_g among the tensors of `output`.
        layout: of F_g, as `Feature` names it.
        image: (H, W) of the input images; used for "tokens" alone.
        grid: (h, w) of "tokens", where it is known; else, or if there are not as many tokens, the image tells it.
    """
    feature = (output if isinstance(output, Tensor) else tensors(output)[index]).clone()
    if layout == "tokens":
        known = grid is not None and grid[0] * grid[1] == feature.shape[1]
        h, w = grid if grid is not None and known else token_grid(feature.shape[1], image)
        return rearrange(feature, "b (h w) c -> b c h w", h=h, w=w)
    if layout == "channels_last":
        return rearrange(feature, "b h w c -> b c h w")
    return feature if layout == "map" else rearrange(feature, "b c -> b c 1 1")

"""Linear layers and convolutions as values: an operation with its settings, apart from any weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from hairify.errors import OptionError

Ints: TypeAlias = int | Sequence[int]


@dataclass(frozen=True)
class Linear:
    """`F.linear`."""

    groups = 1
    is_matrix_product = True

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map (rows, *, in) to (rows, *, out) by one weight (out, in)."""
        return F.linear(input, weight, bias)

    def channel_dim(self, output: Tensor) -> int:
        """Where the channels of input and output are."""
        return output.ndim - 1

    def channels(self, weight: Sequence[int]) -> tuple[int, int]:
        """Channels in and out, by the shape of one weight."""
        return weight[1], weight[0]

    def uses(self, input: Sequence[int]) -> int:
        """How often each number of the weight is used, by the shape of the input."""
        return math.prod(input[:-1])

    def side_by_side(self, weights: Tensor) -> Tensor:
        """N weights as the weight of one operation, the outputs of which are ordered (N, out)."""
        return weights.flatten(0, 1)


@dataclass(unsafe_hash=True)  # not frozen: compilers before PyTorch 2.12 follow no call of an object of a frozen one
class Convolution:
    """`F.conv1d`, `F.conv2d` or `F.conv_transpose2d` with these settings.

    Attributes:
        stride: per dimension; its length says how many there are.
        padding: per dimension, numbers only.
        dilation: per dimension.
        groups: as in torch.
        transposed: whether it is the transposed one.
        output_padding: of the transposed one.
        kernel: size of the kernel.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel: tuple[int, ...]
    transposed: bool = False
    output_padding: tuple[int, ...] = (0, 0)

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None, images: int = 1) -> Tensor:
        """Map (rows, in, *size) to (rows, out, *size'), with `images` times the groups."""
        groups = images * self.groups
        if self.transposed:
            return F.conv_transpose2d(
                input, weight, bias, self.stride, self.padding, self.output_padding, groups, self.dilation
            )
        convolve: Callable[..., Tensor] = F.conv1d if len(self.stride) == 1 else F.conv2d
        return convolve(input, weight, bias, self.stride, self.padding, self.dilation, groups)

    def output_size(self, input: Sequence[int]) -> list[int]:
        """Sizes of the output's dimensions, by those of the input's."""
        sizes = zip(input, self.stride, self.padding, self.dilation, self.kernel, strict=True)
        if not self.transposed:
            return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, s, p, d, k in sizes]
        added = zip(sizes, self.output_padding, strict=True)
        return [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for (n, s, p, d, k), o in added]

    @property
    def is_matrix_product(self) -> bool:
        """Whether it is a matrix product at each position: with a 1×1 kernel and no more."""
        if self.groups != 1 or self.transposed:
            return False
        return all(n == 1 for n in (*self.kernel, *self.stride)) and not any(self.padding)

    def channel_dim(self, output: Tensor) -> int:
        """Where the channels of input and output are."""
        return 1

    def channels(self, weight: Sequence[int]) -> tuple[int, int]:
        """Channels in and out, by the shape of one weight."""
        if self.transposed:
            return weight[0], weight[1] * self.groups
        return weight[1] * self.groups, weight[0]

    def uses(self, input: Sequence[int]) -> int:
        """How often each number of the weight is used, by the shape of the input; about so often where it is padded."""
        positions = math.prod((input[0], *input[2:]))
        return positions if self.transposed else positions // math.prod(self.stride)

    def side_by_side(self, weights: Tensor) -> Tensor:
        """N weights as the weight of one operation, the outputs of which are ordered (groups, N, out per group)."""
        if self.transposed:
            return weights.transpose(0, 1).flatten(1, 2)
        return weights.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(0, 2)


Operation: TypeAlias = Linear | Convolution
Prepare: TypeAlias = Callable[..., tuple[Tensor, Operation]]
"""(input, size of the kernel, settings) → the input, padded where need be, and the operation to apply to it."""


def is_channels_last(features: Tensor) -> bool:
    """Whether the channels of maps (rows, C, H, W) are last in memory."""
    return features.ndim == 4 and not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()


def linear(input: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Linear]:
    """The operation that `F.linear` makes, and its input; there is no kernel."""
    return input, Linear()


def convolution(
    input: Tensor,
    kernel: Sequence[int],
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> tuple[Tensor, Convolution]:
    """The convolution that `F.conv1d` or `F.conv2d` makes with these settings, and its input.

    The padding `"same"` of a kernel of even span is not the same on both sides, so that the input is padded for it.

    Raises:
        OptionError: unknown padding, or "same" with a stride.
    """
    dims = len(kernel)
    stride, dilation = _tuple(stride, dims), _tuple(dilation, dims)
    if padding == "same" and set(stride) != {1}:
        raise OptionError(f"`padding` is 'same' with stride {stride}; give numbers, or stride 1.")
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(span % 2 for span in spans):
            input = F.pad(input, [side for span in reversed(spans) for side in (0, span % 2)])
        padding = [span // 2 for span in spans]
    elif isinstance(padding, str):
        if padding != "valid":
            raise OptionError(f"`padding` is {padding!r}; accepted are numbers, 'same' and 'valid'.")
        padding = 0
    return input, Convolution(stride, _tuple(padding, dims), dilation, groups, tuple(kernel))


def transposed_convolution(
    input: Tensor,
    kernel: Sequence[int],
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> tuple[Tensor, Convolution]:
    """The convolution that `F.conv_transpose2d` makes with these settings, and its input."""
    stride, padding, dilation, output_padding = (_tuple(v, 2) for v in (stride, padding, dilation, output_padding))
    return input, Convolution(stride, padding, dilation, groups, tuple(kernel), True, output_padding)


def _tuple(value: Ints, length: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * length
    return tuple(value) * (length if len(value) == 1 else 1)

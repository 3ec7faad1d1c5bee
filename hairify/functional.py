"""Per-image linear operations, and the distributive law that ties them to a Weight Box.

The four operations mirror `torch.nn.functional` with one difference: `weight` and `bias` have a leading
batch dimension B, and image b is processed with `weight[b]`. The input's first dimension may be k·B, when
a network folds k windows or patches of each image into the batch; the rows of image b are then
`input[b*k : (b+1)*k]`. With B = 1 the one set of weights serves any batch.

`mixture` holds both sides of the distributive law (paper, equations 6 and 7).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from hairify.errors import BatchMismatchError, OptionError, ShapeError
from hairify.symbolic import is_symbolic

Ints: TypeAlias = int | Sequence[int]
Strategy: TypeAlias = Literal["mix_weights", "mix_outputs"]

__all__ = ["hyper_conv1d", "hyper_conv2d", "hyper_conv_transpose2d", "hyper_linear", "mix", "mix_low_rank", "mixture"]


def mix(selecting: Tensor, rows: Tensor) -> Tensor:
    """Per-image parameters w = Σ_i V_s[i] W[i] (paper, equation 4).

    The sum is taken in the rows' own precision also under autocast: in bfloat16 it would lose the exact
    warm start.

    Args:
        selecting: selecting vectors, shape (B, N).
        rows: one tensor of a Weight Box, shape (N, *shape).

    Returns:
        Shape (B, *shape), dtype and device of `rows`.
    """
    with full_precision(rows.device):
        mixed = selecting.to(rows) @ rows.flatten(1)
    return mixed.reshape(-1, *rows.shape[1:])


def mix_low_rank(selecting: Tensor, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Per-image weights w = W + Σ_i V_s[i] A_i B_i, of which A_i B_i is a matrix of low rank.

    Precision is kept as in `mix`.

    Args:
        selecting: selecting vectors, shape (B, N).
        weight: W, shape (out, *shape), read as a matrix of `out` rows.
        left: the A_i, shape (N, out, rank).
        right: the B_i, shape (N, rank, columns), columns the product of `shape`.

    Returns:
        Shape (B, out, *shape), dtype and device of `weight`.
    """
    with full_precision(weight.device):
        scaled = selecting.to(left)[:, None, :, None] * left.transpose(0, 1)  # (B, out, N, rank)
        change = scaled.flatten(2) @ right.flatten(0, 1)
        return weight + change.unflatten(2, weight.shape[1:])


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Without autocast, on devices that have it."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def mixture(
    op: Callable[..., Tensor],
    input: Tensor,
    selecting: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strategy: Strategy = "mix_weights",
    **settings: Ints | str,
) -> Tensor:
    """Apply `op` with weights mixed from N rows, by either side of the distributive law.

    `"mix_weights"` computes x * Σ V_i W_i: one operation with per-image weights. `"mix_outputs"` computes
    Σ V_i (x * W_i): N ordinary operations, their outputs mixed. Both give the same result (paper,
    equation 7); the first does N times fewer multiplications on the input, the second never holds
    per-image weights.

    Args:
        op: one of the `hyper_*` operations of this module.
        input: shape (k·B, ...) as `op` takes it.
        selecting: selecting vectors, shape (B, N).
        weight: shape (N, *weight_shape), the rows of a Weight Box.
        bias: shape (N, out) or None.
        strategy: the side of the law.
        settings: `stride`, `padding`, ... handed to `op`.

    Raises:
        OptionError: unknown strategy.
        ShapeError: `selecting`, `weight` and `bias` differ in N.
        BatchMismatchError: the input's first dimension is not a multiple of B.
    """
    rows = weight.shape[0]
    if selecting.shape[1] != rows or (bias is not None and bias.shape[0] != rows):
        raise ShapeError(
            f"Selecting vectors of shape {tuple(selecting.shape)} do not fit {rows} rows of weights"
            + (f" and {bias.shape[0]} of biases" if bias is not None else "")
            + "; N must be the same in all."
        )
    if strategy == "mix_weights":
        return op(input, mix(selecting, weight), None if bias is None else mix(selecting, bias), **settings)
    if strategy == "mix_outputs":
        per_image = _rows_per_image(input, selecting)
        outputs = torch.stack(
            [
                op(input, weight[i : i + 1], None if bias is None else bias[i : i + 1], **settings)
                for i in range(weight.shape[0])
            ]
        )
        shares = selecting.to(outputs).repeat_interleave(per_image, dim=0)  # (k·B, N)
        return torch.einsum("bn,nb...->b...", shares, outputs)
    raise OptionError(f"`strategy` is {strategy!r}; accepted are 'mix_weights' and 'mix_outputs'.")


def hyper_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` with weights of its own for each image.

    Args:
        input: shape (k·B, *, in_features).
        weight: shape (B, out_features, in_features).
        bias: shape (B, out_features) or None.

    Returns:
        Shape (k·B, *, out_features).

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    _check_bias(bias, weight.shape[0], weight.shape[1])
    if weight.shape[0] == 1:
        return F.linear(input, weight[0], None if bias is None else bias[0])
    _rows_per_image(input, weight)
    images = input.reshape(weight.shape[0], -1, input.shape[-1])
    output = _bmm(images, weight.transpose(1, 2), None if bias is None else bias.unsqueeze(1))
    return output.reshape(*input.shape[:-1], weight.shape[1])


def hyper_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv1d` with weights of its own for each image.

    Args:
        input: shape (k·B, C, L).
        weight: shape (B, out, C/groups, kernel).
        bias: shape (B, out) or None.
        stride: as in `F.conv1d`.
        padding: likewise; a number or 'same' or 'valid'.
        dilation: likewise.
        groups: likewise.

    Returns:
        Shape (k·B, out, L').

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    return _conv(F.conv1d, input, weight, bias, stride, padding, dilation, groups)


def hyper_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv2d` with weights of its own for each image.

    Args:
        input: shape (k·B, C, H, W).
        weight: shape (B, out, C/groups, kernel_h, kernel_w).
        bias: shape (B, out) or None.
        stride: as in `F.conv2d`.
        padding: likewise; numbers or 'same' or 'valid'.
        dilation: likewise.
        groups: likewise.

    Returns:
        Shape (k·B, out, H', W').

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    return _conv(F.conv2d, input, weight, bias, stride, padding, dilation, groups)


def hyper_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """`F.conv_transpose2d` with weights of its own for each image.

    Args:
        input: shape (k·B, C, H, W).
        weight: shape (B, C, out/groups, kernel_h, kernel_w).
        bias: shape (B, out) or None.
        stride: as in `F.conv_transpose2d`.
        padding: likewise.
        output_padding: likewise.
        groups: likewise.
        dilation: likewise.

    Returns:
        Shape (k·B, out, H', W').

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    _check_bias(bias, weight.shape[0], weight.shape[2] * groups)

    if is_symbolic(weight.shape[0]):  # then `groups` cannot depend on it
        return _folded(input, weight, bias, stride, padding, output_padding, groups, dilation)

    def conv(x: Tensor, w: Tensor, b: Tensor | None, g: int) -> Tensor:
        return F.conv_transpose2d(x, w, b, stride, padding, output_padding, g, dilation)

    return _grouped(conv, input, weight, bias, groups)


def _conv(
    op: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
) -> Tensor:
    _check_bias(bias, weight.shape[0], weight.shape[1])
    if weight.shape[0] > 1 and _is_pointwise(weight, stride, padding, groups):
        return _pointwise(input, weight, bias)
    if is_symbolic(weight.shape[0]):  # then `groups` cannot depend on it
        return _unfolded(input, weight, bias, stride, padding, dilation, groups)

    def conv(x: Tensor, w: Tensor, b: Tensor | None, g: int) -> Tensor:
        return op(x, w, b, stride, padding, dilation, g)

    return _grouped(conv, input, weight, bias, groups)


def _is_pointwise(weight: Tensor, stride: Ints, padding: Ints | str, groups: int) -> bool:
    """Whether a convolution is a matrix product at each position."""
    unpadded = padding in ("same", "valid") if isinstance(padding, str) else _all(padding, 0)
    return groups == 1 and unpadded and _all(stride, 1) and all(size == 1 for size in weight.shape[3:])


def _pointwise(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution as one batched matrix product, several times faster than a grouped convolution."""
    batch, per_image = weight.shape[0], _rows_per_image(input, weight)
    # (k·B, C, ...) -> (B, C, k·positions): the parts of an image share its matrix
    images = input.unflatten(0, (batch, per_image)).transpose(1, 2).flatten(2)
    output = _bmm(weight.flatten(2), images, None if bias is None else bias.unsqueeze(2))
    parts: Tensor = output.unflatten(2, (per_image, -1)).transpose(1, 2)
    return _laid_out_like(input, parts.reshape(input.shape[0], weight.shape[1], *input.shape[2:]))


def _grouped(
    conv: Callable[[Tensor, Tensor, Tensor | None, int], Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
) -> Tensor:
    """Any convolution, per image: the images become groups of one convolution with B times the channels.

    The trick of conditionally parametrised convolutions (Yang et al., CondConv, NeurIPS 2019).
    """
    if weight.shape[0] == 1:
        return conv(input, weight[0], None if bias is None else bias[0], groups)
    per_image = _rows_per_image(input, weight)
    batch, channels = weight.shape[0], input.shape[1]
    # (k·B, C, ...) -> (k, B·C, ...); reshape, not view: inputs may be channels_last or otherwise strided
    folded = (
        input.unflatten(0, (batch, per_image)).transpose(0, 1).reshape(per_image, batch * channels, *input.shape[2:])
    )
    output = conv(folded, weight.flatten(0, 1), None if bias is None else bias.flatten(), batch * groups)
    # (k, B·out, ...) -> (k·B, out, ...)
    if torch.compiler.is_compiling():  # which may guess wrongly how a gradient lies in memory, and take it for a view
        return _laid_out_like(input, torch.cat(output.chunk(batch, dim=1)))
    return _laid_out_like(input, output.reshape(per_image, batch, -1, *output.shape[2:]).transpose(0, 1).flatten(0, 1))


def _laid_out_like(input: Tensor, output: Tensor) -> Tensor:
    """Channels last where the input is, as plain convolutions do: networks take views, dropout draws in that order."""
    if input.ndim != 4 or input.is_contiguous() or not input.permute(0, 2, 3, 1).is_contiguous():
        return output
    return output.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _unfolded(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
) -> Tensor:
    """A convolution over one or two dimensions as a matrix product with the patches under its kernel."""
    if weight.ndim == 4:  # one dimension: a map of height 1
        stride, dilation = (1, *_tuple(stride, 1)), (1, *_tuple(dilation, 1))
        padding = padding if isinstance(padding, str) else (0, *_tuple(padding, 1))
        return _unfolded(input.unsqueeze(2), weight.unsqueeze(3), bias, stride, padding, dilation, groups).squeeze(2)
    stride, dilation, kernel = _tuple(stride, 2), _tuple(dilation, 2), weight.shape[3:]
    if isinstance(padding, str):
        spans = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        input = F.pad(input, (spans[1] // 2, spans[1] - spans[1] // 2, spans[0] // 2, spans[0] - spans[0] // 2))
        padding = 0
    padding = _tuple(padding, 2)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(input.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    patches = F.unfold(input, kernel, dilation, padding, stride)  # (k·B, C·kernel, positions)
    output = _grouped_product(weight.flatten(2).unflatten(1, (groups, -1)), patches)
    return _with_bias(output.unflatten(2, size), bias)


def _folded(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Tensor:
    """A transposed convolution: a matrix product at each position, the resulting patches added up."""
    stride, padding, output_padding, dilation = (_tuple(v, 2) for v in (stride, padding, output_padding, dilation))
    kernel = weight.shape[3:]
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(input.shape[2:], stride, padding, dilation, kernel, output_padding, strict=True)
    ]
    patches = _grouped_product(weight.unflatten(1, (groups, -1)).flatten(3).transpose(2, 3), input.flatten(2))
    return _with_bias(F.fold(patches, tuple(size), kernel, dilation, padding, stride), bias)


def _grouped_product(weight: Tensor, columns: Tensor) -> Tensor:
    """Multiply (B, groups, out/groups, n) with the columns (k·B, groups·n, positions) to (k·B, out, positions)."""
    batch, groups, _, n = weight.shape
    per_image = _rows_per_image(columns, weight)
    parts = columns.unflatten(1, (groups, n)).unflatten(0, (batch, per_image)).permute(0, 2, 3, 1, 4).flatten(3)
    product = torch.bmm(weight.flatten(0, 1), parts.flatten(0, 1)).unflatten(0, (batch, groups))
    product = product.unflatten(3, (per_image, -1)).permute(0, 3, 1, 2, 4)
    return product.flatten(0, 1).flatten(1, 2)


def _with_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return output
    per_image = output.unflatten(0, (bias.shape[0], -1))
    return (per_image + bias[:, None, :, None, None]).flatten(0, 1)


def _tuple(value: Ints, length: int) -> tuple[int, ...]:
    return (value,) * length if isinstance(value, int) else tuple(value)


def _check_bias(bias: Tensor | None, batch: int, out: int) -> None:
    if bias is not None and bias.shape != (batch, out):
        raise ShapeError(f"The bias has shape {tuple(bias.shape)}; with this weight it is ({batch}, {out}).")


def _bmm(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(a, b) if bias is None else torch.baddbmm(bias, a, b)


def _rows_per_image(input: Tensor, per_image: Tensor) -> int:
    """k, where `input` has k·B rows and `per_image` has B."""
    rows, batch = input.shape[0], per_image.shape[0]
    if batch == 0:
        raise BatchMismatchError("The batch is empty: per-image weights need at least one image.")
    if rows % batch:
        raise BatchMismatchError(
            f"An input of shape {tuple(input.shape)} cannot be divided among {batch} images: its first dimension "
            f"must be a multiple of {batch}. Call the model with as many images as its GIV was made from, or with "
            "one GIV of shape (1, D) for all."
        )
    return rows // batch


def _all(value: Ints, number: int) -> bool:
    return value == number if isinstance(value, int) else all(v == number for v in value)

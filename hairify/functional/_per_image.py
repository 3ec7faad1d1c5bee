"""Per-image linear operations, and the distributive law that ties them to a Weight Box.

The four operations mirror `torch.nn.functional` with one difference: `weight` and `bias` have a leading
batch dimension B, and image b is processed with `weight[b]`. The input's first dimension may be k·B, when
a network folds k windows or patches of each image into the batch; the rows of image b are then
`input[b*k : (b+1)*k]`. With B = 1 the one set of weights serves any batch.

`mixture` holds both sides of the distributive law (paper, equations 6 and 7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor

from hairify.errors import OptionError, ShapeError
from hairify.functional._kernels import per_image
from hairify.functional._mixing import mix, mix_low_rank, mix_outputs, outputs_are_cheaper
from hairify.functional._operations import Ints, Linear, Prepare, convolution, linear, transposed_convolution

Strategy: TypeAlias = Literal["auto", "mix_weights", "mix_outputs"]

__all__ = ["hyper_conv1d", "hyper_conv2d", "hyper_conv_transpose2d", "hyper_linear", "mix", "mix_low_rank", "mixture"]


def mixture(
    op: Callable[..., Tensor],
    input: Tensor,
    selecting: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strategy: Strategy = "auto",
    **settings: Ints | str,
) -> Tensor:
    """Apply `op` with weights mixed from N rows, by either side of the distributive law.

    `"mix_weights"` computes x * Σ V_i W_i: one operation with per-image weights. `"mix_outputs"` computes
    Σ V_i (x * W_i): one ordinary operation with N times the outputs, which are mixed. Both give the same result
    (paper, equation 7); the first does N times fewer multiplications on the input, the second never holds
    per-image weights. `"auto"` takes the one that needs less time by the shapes: outputs are mixed where a weight is
    used a few times only, as on pooled features.

    Args:
        op: one of the `hyper_*` operations of this module.
        input: shape (k·B, ...) as `op` takes it.
        selecting: selecting vectors, shape (B, N).
        weight: shape (N, *weight_shape), the rows of a Weight Box.
        bias: shape (N, out) or None.
        strategy: the side of the law.
        settings: `stride`, `padding`, ... handed to `op`.

    Raises:
        OptionError: unknown operation or strategy.
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
    if strategy not in ("auto", "mix_weights", "mix_outputs"):
        raise OptionError(f"`strategy` is {strategy!r}; accepted are 'auto', 'mix_weights' and 'mix_outputs'.")
    if op not in _PREPARATIONS:
        raise OptionError(f"`op` is {op!r}; accepted are the `hyper_*` operations of this module.")
    input, operation = _PREPARATIONS[op](input, weight.shape[3:], **settings)
    if strategy == "auto":
        strategy = "mix_outputs" if outputs_are_cheaper(operation, input, selecting, weight) else "mix_weights"
    if strategy == "mix_outputs":
        return mix_outputs(operation, input, selecting, weight, bias)
    return per_image(operation, input, mix(selecting, weight), None if bias is None else mix(selecting, bias))


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
    return per_image(Linear(), input, weight, bias)


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
        padding: as in `F.conv1d`; a number or 'same' or 'valid'.
        dilation: as in `F.conv1d`.
        groups: as in `F.conv1d`.

    Returns:
        Shape (k·B, out, L').

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    input, operation = convolution(input, weight.shape[3:], stride, padding, dilation, groups)
    return per_image(operation, input, weight, bias)


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
        padding: as in `F.conv2d`; numbers or 'same' or 'valid'.
        dilation: as in `F.conv2d`.
        groups: as in `F.conv2d`.

    Returns:
        Shape (k·B, out, H', W').

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    input, operation = convolution(input, weight.shape[3:], stride, padding, dilation, groups)
    return per_image(operation, input, weight, bias)


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
        padding: as in `F.conv_transpose2d`.
        output_padding: as in `F.conv_transpose2d`.
        groups: as in `F.conv_transpose2d`.
        dilation: as in `F.conv_transpose2d`.

    Returns:
        Shape (k·B, out, H', W').

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
        ShapeError: the bias does not fit the weight.
    """
    input, operation = transposed_convolution(
        input, weight.shape[3:], stride, padding, output_padding, groups, dilation
    )
    return per_image(operation, input, weight, bias)


_PREPARATIONS: dict[Callable[..., Tensor], Prepare] = {
    hyper_linear: linear,
    hyper_conv1d: convolution,
    hyper_conv2d: convolution,
    hyper_conv_transpose2d: transposed_convolution,
}

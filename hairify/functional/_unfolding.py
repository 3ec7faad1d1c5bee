"""Per-image convolutions as matrix products: for compilers and exporters that leave the number of images open."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hairify.functional._operations import Convolution


def unfolded(operation: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution over one or two dimensions as a matrix product with the patches under its kernel.

    Args:
        operation: with its settings.
        input: shape (k·B, C, *size).
        weight: shape (B, *shape).
        bias: shape (B, out) or None.
    """
    if operation.transposed:
        return _folded(operation, input, weight, bias)
    if len(operation.stride) == 1:  # a map of height 1
        flat = Convolution(
            stride=(1, *operation.stride),
            padding=(0, *operation.padding),
            dilation=(1, *operation.dilation),
            groups=operation.groups,
            kernel=(1, *operation.kernel),
        )
        return unfolded(flat, input.unsqueeze(2), weight.unsqueeze(3), bias).squeeze(2)
    stride, padding, dilation, kernel = operation.stride, operation.padding, operation.dilation, operation.kernel
    size = operation.output_size(input.shape[2:])
    patches = F.unfold(input, kernel, dilation, padding, stride)  # (k·B, C·kernel, positions)
    output = _grouped_product(weight.flatten(2).unflatten(1, (operation.groups, -1)), patches)
    return _with_bias(output.unflatten(2, size), bias)


def _folded(operation: Convolution, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A transposed convolution: a matrix product at each position, the resulting patches added up."""
    stride, padding, dilation, kernel = operation.stride, operation.padding, operation.dilation, operation.kernel
    size = operation.output_size(input.shape[2:])
    per_position = weight.unflatten(1, (operation.groups, -1)).flatten(3).transpose(2, 3)
    patches = _grouped_product(per_position, input.flatten(2))
    return _with_bias(F.fold(patches, tuple(size), kernel, dilation, padding, stride), bias)


def _grouped_product(weight: Tensor, columns: Tensor) -> Tensor:
    """Multiply each image's matrices with its columns: one product for each image and group, of all its k maps at once.

    Args:
        weight: shape (B, groups, out/groups, n).
        columns: shape (k·B, groups·n, positions).

    Returns:
        Shape (k·B, out, positions).
    """
    batch, groups, _, n = weight.shape
    maps = columns.shape[0] // batch  # k
    columns = columns.unflatten(1, (groups, n)).unflatten(0, (batch, maps))  # (B, k, groups, n, positions)
    side_by_side = columns.permute(0, 2, 3, 1, 4).flatten(3)  # (B, groups, n, k·positions)
    product = torch.bmm(weight.flatten(0, 1), side_by_side.flatten(0, 1))  # (B·groups, out/groups, k·positions)
    product = product.unflatten(0, (batch, groups)).unflatten(3, (maps, -1))  # (B, groups, out/groups, k, positions)
    return product.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)


def _with_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return output
    per_image = output.unflatten(0, (bias.shape[0], -1))
    # Under autocast products are of lower precision than the bias, which must not lift them, as it does in no layer.
    return (per_image + bias.to(output.dtype)[:, None, :, None, None]).flatten(0, 1)

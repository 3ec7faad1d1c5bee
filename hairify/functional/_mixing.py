"""Mixtures over the rows of Weight Boxes: of weights, or of the outputs that each row's weights give."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hairify._support.precision import full_precision, is_autocast
from hairify._support.symbolic import is_symbolic
from hairify.functional._kernels import laid_out_like, rows_per_image
from hairify.functional._operations import Operation

# Pieces into which a single mixture is cut at most, for as many threads.
_PIECES = 64

# Outputs are mixed where each number of a weight is used at most so often, times N. Mixing weights costs the time to
# write and read B·P numbers, mixing outputs N times the arithmetic. Convolutions wider than a point lose more by the
# former.
_USES_OF_MATRICES = 16
_USES_OF_KERNELS = 64


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
        selecting, matrix = selecting.to(rows), rows.flatten(1)
        mixed = _mix_one(selecting, matrix) if _is_one_on_cpu(selecting) else selecting @ matrix
    return mixed.reshape(-1, *rows.shape[1:])


def _is_one_on_cpu(selecting: Tensor) -> bool:
    return selecting.device.type == "cpu" and not is_symbolic(selecting.shape[0]) and selecting.shape[0] == 1


def _mix_one(selecting: Tensor, matrix: Tensor) -> Tensor:
    """The product (1, N) by (N, P), cut into pieces: MKL computes it in one thread, but batches of products in all."""
    pieces = math.gcd(matrix.shape[1], _PIECES)
    by_piece = matrix.unflatten(1, (pieces, -1)).transpose(0, 1)  # (pieces, N, P/pieces)
    return torch.bmm(selecting.expand(pieces, 1, -1), by_piece)


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


def outputs_are_cheaper(operation: Operation, input: Tensor, selecting: Tensor, rows: Tensor) -> bool:
    """Whether mixing outputs takes less time than mixing weights, by shapes and dtypes alone.

    Args:
        operation: with its settings.
        input: shape (k·B, ...).
        selecting: selecting vectors, shape (B, N).
        rows: shape (N, *weight shape).
    """
    batch = selecting.shape[0]
    if is_symbolic(batch) or batch == 1 or any(map(is_symbolic, input.shape)):
        return False
    if input.dtype != rows.dtype or is_autocast(input.device):  # the sum is taken in the rows' own precision
        return False
    limit = _USES_OF_MATRICES if operation.is_matrix_product else _USES_OF_KERNELS
    return operation.uses(input.shape) * rows.shape[0] <= limit * batch


def mix_outputs(
    operation: Operation, input: Tensor, selecting: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The other side of the distributive law: Σ_i V_s[i] (x * W_i) (paper, equation 7).

    Args:
        operation: with its settings.
        input: shape (k·B, ...).
        selecting: selecting vectors, shape (B, N).
        weight: shape (N, *weight shape).
        bias: shape (N, out) or None.

    Raises:
        BatchMismatchError: the input's first dimension is not a multiple of B.
    """
    per_image = rows_per_image(input, selecting.shape[0])
    size, groups = weight.shape[0], operation.groups
    side_by_side = None if bias is None else bias.unflatten(1, (groups, -1)).transpose(0, 1).flatten()
    outputs = operation(input, operation.side_by_side(weight), side_by_side)
    dim = operation.channel_dim(outputs)
    outputs = outputs.unflatten(dim, (groups, size, -1)).movedim(dim + 1, 0)  # (N, k·B, ..., groups, out/groups, ...)
    shares = selecting.to(outputs).repeat_interleave(per_image, dim=0)  # (k·B, N)
    output = torch.einsum("bn,nb...->b...", shares, outputs).flatten(dim, dim + 1)
    return laid_out_like(operation, input, output)

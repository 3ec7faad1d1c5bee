"""Mixtures over the rows of Weight Boxes: of weights, or of the outputs that each row's weights give."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hairify._support.precision import full_precision, is_autocast
from hairify._support.symbolic import is_symbolic
from hairify._support.torch_internals import in_function_transform
from hairify.functional._kernels import laid_out_like, rows_per_image
from hairify.functional._operations import Operation

# Pieces into which mixtures are cut at most, for as many threads.
_PIECES = 64

# From so many numbers of rows on, mixtures are cut into pieces however many they are.
_MANY_NUMBERS = 2**21

# Outputs are mixed where each number of a weight is used at most so often, times N. Mixing weights costs the time to
# write and read B·P numbers, mixing outputs N times the arithmetic. Convolutions wider than a point lose more by the
# former.
_USES_OF_MATRICES = 16
_USES_OF_KERNELS = 64


def mix(selecting: Tensor, rows: Tensor) -> Tensor:
    """Parameters w = Σ_i V_s[i] W[i] (paper, equation 4), for each image, or for each block and image.

    The sum is taken in the rows' own precision also under autocast: in bfloat16 it would lose the exact
    warm start.

    Args:
        selecting: selecting vectors, shape (*, N): (B, N), or (M, B, N).
        rows: one tensor of a Weight Box, shape (N, *shape).

    Returns:
        Shape (*, *shape), dtype and device of `rows`.
    """
    with full_precision(rows.device):
        vectors, matrix = selecting.to(rows).flatten(0, -2), rows.flatten(1)
        mixed = _mix_by_pieces(vectors, matrix) if _takes_pieces(vectors, matrix) else vectors @ matrix
    return mixed.reshape(*selecting.shape[:-1], *rows.shape[1:])


def _takes_pieces(vectors: Tensor, matrix: Tensor) -> bool:
    """Whether a product on the CPU is of the kinds for which MKL takes a single thread, or too small tiles."""
    if vectors.device.type != "cpu" or is_symbolic(vectors.shape[0]):
        return False
    return vectors.shape[0] == 1 or matrix.numel() >= _MANY_NUMBERS


def _mix_by_pieces(vectors: Tensor, matrix: Tensor) -> Tensor:
    """The product (R, N) by (N, P), its columns cut into pieces: a batch of products, computed in all threads."""
    pieces = math.gcd(matrix.shape[1], _PIECES)
    by_piece = matrix.unflatten(1, (pieces, -1)).transpose(0, 1)  # (pieces, N, P/pieces)
    return torch.bmm(vectors.expand(pieces, -1, -1), by_piece).transpose(0, 1).flatten(1)


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
    return mix_low_rank_of_blocks(*(t.unsqueeze(0) for t in (selecting, weight, left, right))).squeeze(0)


def mix_low_rank_of_blocks(selecting: Tensor, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`mix_low_rank` for M blocks at once: in one batch of products.

    Args:
        selecting: shape (M, B, N).
        weight: shape (M, out, *shape).
        left: shape (M, N, out, rank); or (1, ...), the same for all blocks.
        right: shape (M, N, rank, columns), or (1, ...).

    Returns:
        Shape (M, B, out, *shape).
    """
    blocks, images = selecting.shape[:2]
    with full_precision(weight.device):
        scaled = selecting.to(left)[:, :, None, :, None] * left.transpose(1, 2).unsqueeze(1)  # (M, B, out, N, rank)
        factors = scaled.flatten(3).flatten(1, 2), right.flatten(1, 2).expand(blocks, -1, -1)  # (M, B·out, N·rank), ...
        if not is_symbolic(images) and images == 1:
            return torch.baddbmm(weight.flatten(2), *factors).view(blocks, 1, *weight.shape[1:])
        change = torch.bmm(*factors).view(blocks, images, *weight.shape[1:])
        # Written into: memory for as many numbers again would be slow to get.
        return change + weight.unsqueeze(1) if in_function_transform() else change.add_(weight.unsqueeze(1))


def mix_of_blocks(selecting: Tensor, fixed: Tensor, changes: Tensor) -> Tensor:
    """Biases b = B + Σ_i V_s[i] C_i of M blocks.

    Args:
        selecting: shape (M, B, N).
        fixed: the B, shape (M, out).
        changes: the C_i, shape (M, N, out), or (1, N, out), the same for all blocks.

    Returns:
        Shape (M, B, out), dtype and device of `fixed`.
    """
    with full_precision(fixed.device):
        return torch.baddbmm(fixed.unsqueeze(1), selecting.to(changes), changes.expand(len(fixed), -1, -1))


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

"""Fingerprints of tensors: numbers to compare in place of values, which would take memory for all layers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from hairify._support.torch_internals import in_function_transform, without_torch_function


def fingerprints(tensor: Tensor, parts: int) -> tuple[int, ...]:
    """For each of so many equal parts of the first dimension, Python's hash of its bytes: 64 bits, of this process.

    Args:
        tensor: of any type.
        parts: 1 where the first dimension cannot be divided.

    Returns:
        Nothing where bytes cannot be looked at: of tensors that are sparse, nested, quantised, on no device, or of a
        `torch.func` transform.
    """
    if not _can_be_read(tensor):
        return ()
    with torch.no_grad(), without_torch_function():
        rows = tensor.detach().resolve_conj().resolve_neg().reshape(parts, -1)
        if rows.is_complex():
            rows = torch.view_as_real(rows).flatten(1)
        rows = rows.contiguous().as_strided(rows.shape, (rows.shape[1], 1))  # of a single number the stride may be any
        return tuple(hash(row.tobytes()) for row in rows.cpu().view(torch.uint8).numpy())


def _can_be_read(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_mkldnn
    return strided and not tensor.is_quantized and not tensor.is_meta and not in_function_transform()

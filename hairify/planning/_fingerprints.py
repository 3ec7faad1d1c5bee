"""Fingerprints of tensors: numbers to compare in place of values, which would take memory for all layers at once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hairify._support.torch_internals import in_function_transform, without_torch_function

_CHUNK = 2**18  # numbers that are taken at once
_GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio, odd
_MODULUS = 2**64
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def fingerprints(tensor: Tensor, parts: int) -> tuple[int, ...]:
    """For each of so many equal parts of the first dimension a number that differs where its bits do, or their order.

    Each is the sum of all bits, as numbers of 32 bits at most, times odd weights that belong to their places, modulo
    2⁶⁴: no order of the sum changes that. (Of numbers of 64 bits a product would keep only what lies above the lowest
    bit in which they differ: of a sign, a single bit.)

    Args:
        tensor: of any type.
        parts: 1 where the first dimension cannot be divided.

    Returns:
        Nothing where bits cannot be looked at: of tensors that are sparse, nested, quantised, on no device, or of a
        `torch.func` transform.
    """
    if not _can_be_read(tensor):
        return ()
    with torch.no_grad(), without_torch_function():
        rows = tensor.detach().resolve_conj().resolve_neg().reshape(parts, -1)
        if rows.is_complex():
            rows = torch.view_as_real(rows).flatten(1)
        if not rows.shape[1]:
            return (0,) * parts
        bits = _bits(rows.contiguous())
        weights = _weights(bits.device)
        totals = [0] * parts
        for chunk in bits.split(_CHUNK, dim=1):
            sums = (chunk * weights[: chunk.shape[1]]).sum(1, dtype=torch.int64).tolist()
            totals = [(total * _GOLDEN + part) % _MODULUS for total, part in zip(totals, sums, strict=True)]
        return tuple(totals)


def _can_be_read(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_mkldnn
    return strided and not tensor.is_quantized and not tensor.is_meta and not in_function_transform()


def _bits(rows: Tensor) -> Tensor:
    """The bits of each row as integers, 32 at a time where they can be divided so."""
    size = rows.element_size()
    if rows.shape[1] * size % 4:
        return rows.view(_INTEGERS[size])
    if rows.storage_offset() * size % 4 or rows.stride(1) != 1:  # of a single number, the stride may be any
        rows = rows.clone(memory_format=torch.contiguous_format)
    return rows.view(torch.int32)


@functools.cache
def _weights(device: torch.device) -> Tensor:
    """Odd numbers without a pattern, always the same."""
    mixed = torch.arange(1, _CHUNK + 1, device=device) * (_GOLDEN - _MODULUS)  # as a signed number; products wrap
    mixed = (mixed ^ (mixed >> 29)) * 0x2545F4914F6CDD1D
    return (mixed ^ (mixed >> 32)) | 1

"""Precision of arithmetic: autocast, for operations that must not be under it or stand in for ones that are; CUDA's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Without autocast, on devices that have it."""
    # Within a program that is compiled or exported, autocast may be switched on later.
    if device.type == "meta" or not (torch.compiler.is_compiling() or is_autocast(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_autocast(device: torch.device) -> bool:
    """Whether operations on a device run under autocast."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """In which operations run under autocast; None without it."""
    return torch.get_autocast_dtype(device.type) if is_autocast(device) else None


def lowered(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as operations get it under autocast to `dtype`, which leaves float64 alone."""
    if dtype is None:  # nothing is asked of the tensor, which may be a proxy of torch.fx
        return tensor
    return tensor.to(lowered_dtype(tensor.dtype, dtype))


def lowered_dtype(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """In which dtype operations get a tensor of their own one under autocast to `dtype`."""
    return own if dtype is None or not own.is_floating_point or own == torch.float64 else dtype


def convolutions_round() -> bool:
    """Whether convolutions of float32 on CUDA may round to the 10 bits of TF32, as they do by default."""
    cudnn = torch.backends.cudnn
    # From PyTorch 2.9 on; the older setting cannot be read where users mix both kinds.
    return cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32


def products_round() -> bool:
    """Whether products of float32 matrices on CUDA may round to TF32, as they do not by default."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(torch.backends.cudnn, "conv") else bool(matmul.allow_tf32)


@contextlib.contextmanager
def exact_on_cuda() -> Iterator[None]:
    """Within it, CUDA computes the same each time, in full float32: it does not round to the 10 bits of TF32."""
    settings = [*_cuda_settings()]
    before = [getattr(owner, name) for owner, name, _ in settings]
    for owner, name, exact in settings:
        setattr(owner, name, exact)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _cuda_settings() -> Iterator[tuple[Any, str, Any]]:
    """Owner and name of each setting, and its value for exact results."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # from PyTorch 2.9 on; the older settings cannot be read where users mix both kinds
        yield matmul, "fp32_precision", "ieee"
        yield cudnn.conv, "fp32_precision", "ieee"
    else:
        yield matmul, "allow_tf32", False
        yield cudnn, "allow_tf32", False
    yield cudnn, "deterministic", True
    yield cudnn, "benchmark", False

"""Autocast, for operations that must not be under it, and for those that stand in for ones that are."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

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
    if dtype is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)

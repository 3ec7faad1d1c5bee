"""The highest memory use during one call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): "reset the peak resident set size ("high water mark") to the process's current value"


def peak(call: Callable[[], object], device: str) -> int | None:
    """Bytes by which memory rises above what was in use before, at the call's highest point.

    On CUDA the allocator counts them. On Linux it is the rise of the process's resident set: the kernel keeps its
    highest value (VmHWM), which can be set back to the present one, so that nothing that ran before counts and no
    process need be started. It includes what libraries take beside PyTorch's allocator, such as oneDNN's scratch
    memory. Memory that was freed but not returned would be used unseen, so it is returned first.

    Returns:
        None where it cannot be measured: off Linux, or where the kernel does not let its mark be reset.
    """
    if device == "cuda":
        return _peak_on_cuda(call)
    if not can_measure():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text(_RESET_PEAK)
    before = _in_status("VmRSS")
    call()
    return max(0, _in_status("VmHWM") - before)


def can_measure() -> bool:
    """Whether the kernel resets its mark of the highest memory use, and freed memory can be returned to it."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
        return hasattr(ctypes.CDLL(None), "malloc_trim")  # glibc's
    except OSError:
        return False


def _in_status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _peak_on_cuda(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def held(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))

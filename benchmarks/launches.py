"""What runs on a GPU during one call: how many kernels, and how long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Launches:
    """Of one call.

    Attributes:
        kernels: how many were started, copies and fills of memory included.
        busy: seconds in which at least one ran.
    """

    kernels: int
    busy: float


def of(call: Callable[[], object]) -> Launches:
    """Those of a call on CUDA, by PyTorch's profiler."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    return counted(profiled.events())


def counted(events: Iterable[Any]) -> Launches:
    """Those among the profiler's events that ran on the GPU; what ran side by side is busy once."""
    ran = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    busy, until = 0.0, 0.0
    for start, end in sorted((e.time_range.start, e.time_range.end) for e in ran):  # microseconds
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return Launches(len(ran), busy / 1e6)

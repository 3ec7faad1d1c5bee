"""The CPU that PyTorch computes on."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch


@functools.cache
def processor() -> str:
    """Its name as its maker gave it, where the system tells, and the vectors that PyTorch uses."""
    name = _told().get("model name") or platform.processor() or platform.machine() or "unknown processor"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


@functools.cache
def mkl_is_at_home() -> bool:
    """Whether PyTorch's products are MKL's, on a processor of its maker: on others it takes slower ways."""
    maker = _told().get("vendor_id") or platform.processor()  # on Windows it ends with the maker's name
    return torch.backends.mkl.is_available() and "GenuineIntel" in maker


def _told() -> dict[str, str]:
    """What Linux tells of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}

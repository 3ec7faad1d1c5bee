"""Lack of memory, which says of the machine that it is too small, and nothing of a network or an image."""

from __future__ import annotations

import ctypes
import sys

import torch

# Where PyTorch raises a plain RuntimeError: on CPU, on Linux and macOS, and on Windows; on other accelerators; and of
# the libraries that it calls.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a memory object",
)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, whatever raised it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        word in str(error).lower() for word in _WORDS
    )


def release_memory() -> None:
    """Give back what is kept for reuse: by PyTorch of a GPU's memory, and by glibc of the process's own.

    After a lack of memory it is then had in other pieces, and what comes next may be large where the last was in parts:
    of a small training on the CPU, more than half of the process's memory was free and kept.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)

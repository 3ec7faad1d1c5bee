"""Lack of memory, which says of the machine that it is too small, and nothing of a network or an image."""

from __future__ import annotations

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
    """Give back what PyTorch keeps of a GPU's memory for its own reuse: after a lack of it, in other pieces."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

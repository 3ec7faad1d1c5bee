"""Why an image could not be restored."""

from __future__ import annotations

from hairify._support.memory import is_lack_of_memory, release_memory
from hairify.errors import HairError


def failure_in_words(error: Exception, lack_of_memory: str) -> str:
    """What to say of one image that failed, while the others go on: networks fail in every possible way.

    Args:
        error: what reading or restoring it raised.
        lack_of_memory: what to say where there was not enough of it.
    """
    if isinstance(error, (HairError, ModuleNotFoundError)):
        return str(error)
    if is_lack_of_memory(error):
        error.__traceback__ = None  # it holds what the network had made
        release_memory()
        return lack_of_memory
    if isinstance(error, OSError):
        return str(error)
    return f"The network failed: {type(error).__name__}: {error}"


OF_WHOLE_IMAGE = "Out of memory with the whole image; `hairify restore` takes it in tiles."

"""Writing files of tensors so that they are whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import safetensors

from hairify._support.files import replacing
from hairify.errors import CheckpointError


@contextlib.contextmanager
def replacing_tensors(path: Path) -> Iterator[Path]:
    """`replacing` for a file that safetensors writes.

    Raises:
        CheckpointError: safetensors cannot write it, as on a full disk.
    """
    try:
        with replacing(path) as file:
            yield file
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error

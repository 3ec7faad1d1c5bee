"""Files of tensors, and the checks that all single files have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from hairify._support.files import is_utf8
from hairify._support.tensor_files import replacing_tensors
from hairify.errors import OptionError


def check_path(path: Path, endings: Iterable[str]) -> None:
    """Refuse a file that cannot be written, before it is made.

    Raises:
        OptionError: its ending is another, its name is no UTF-8, it is a folder, or there is none for it.
    """
    if path.suffix.lower() not in endings:
        raise OptionError(f"The file is {path}; accepted are the endings {', '.join(endings)}.")
    if not path.parent.is_dir() or path.is_dir():
        wrong = "that is a folder" if path.is_dir() else f"there is no folder {path.parent}; make it first"
        raise OptionError(f"The file is {path}, but {wrong}.")
    if not is_utf8(path):
        raise OptionError(f"The file is {path}, whose name is no UTF-8; give a file and folder with other names.")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network as tensors of their own on the CPU, none of which shares memory with another."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, which appears under its name when it is complete.

    Raises:
        CheckpointError: it cannot be written.
    """
    with replacing_tensors(path) as file:
        safetensors.torch.save_file(dict(tensors), file)

"""Tensors in nested values: what networks take and return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.fx
from torch import Tensor

from hairify._support.torch_internals import tree_leaves

Size: TypeAlias = tuple[int, int]


def image_size(args: Sequence[Any], kwargs: dict[str, Any]) -> Size | None:
    """(H, W) of the first image, shape (B, C, H, W), among the inputs; symbolic while torch.fx traces."""
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, torch.fx.Proxy) or (isinstance(value, Tensor) and value.ndim == 4):
            height, width = value.shape[2], value.shape[3]  # type: ignore[index]  # a Proxy has any attribute
            return height, width
    return None


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts, in their order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def all_tensors(value: Any) -> list[Tensor]:
    """All tensors in a model's output of any kind: as `tensors`, and in dataclasses and other objects' attributes."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):
            found += all_tensors(list(leaf.values()))
        elif isinstance(leaf, (list, tuple)):
            found += all_tensors(list(leaf))
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (type, torch.nn.Module)):
            found += all_tensors(list(vars(leaf).values()))
    return found

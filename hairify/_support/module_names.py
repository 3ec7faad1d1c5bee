"""Names of modules: which share parameters, and which a glob matches."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn


def tied_layers(model: nn.Module) -> dict[str, str]:
    """{module: another one that uses one of its parameters, or the memory of one, in words}."""
    users: dict[Any, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            users[_place(parameter)].append(name)
    shared = [list(dict.fromkeys(names)) for names in users.values() if len(names) > 1]
    others = {name: next((other for other in names if other != name), name) for names in shared for name in names}
    return {name: repr(other) if other else "the model itself" for name, other in others.items()}


def _place(parameter: nn.Parameter) -> Any:
    """Where a parameter's numbers are, the same for two that share them (`a.data = b.data`)."""
    if parameter.is_meta or not parameter.numel():
        return id(parameter)
    return parameter.device, parameter.data_ptr()


def all_names(model: nn.Module) -> dict[str, list[str]]:
    """{name: all names of the module, this one first}; the keys are the names under which modules are first found."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[id(module)].append(name)
    return {each[0]: each for each in names.values()}


def full_name(block: str, layer: str) -> str:
    """Name of a layer in the model, from that of its block and its own within it ("" for the block itself)."""
    return f"{block}.{layer}" if layer else block


def matches(names: Iterable[str], globs: Sequence[str]) -> bool:
    """Whether a glob matches a module or parameter, under any of its names, or a module that holds it."""
    parts = [name.split(".") for name in names]
    around = [".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)]
    return any(fnmatch.fnmatchcase(name, glob) for name in around for glob in globs)

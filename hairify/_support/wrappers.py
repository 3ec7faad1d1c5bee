"""What is put around modules by others: compilers, parallel wrappers, averages."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel

from hairify._support.torch_internals import blank_twin, compiled_from, own_modules

_HOLDERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
"""Classes of modules that hold one as `module`, and compute what it computes."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DistributedDataParallel and the like; itself where there is nothing."""
    while (inner := module.module if isinstance(module, _HOLDERS) else compiled_from(module)) is not None:
        module = inner
    return module


def without_wrappers(model: nn.Module) -> nn.Module:
    """A model with nothing around it and its parts: names, and keys of its state, are those of the modules inside.

    Args:
        model: left as it is.

    Returns:
        The model inside; another of the same parts where there is something around one of them.
    """
    return _rebuilt(unwrapped(model), {})


def _rebuilt(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in made:
        made[id(module)] = module  # in a cycle
        children = own_modules(module)
        inside = {k: None if child is None else _rebuilt(unwrapped(child), made) for k, child in children.items()}
        if any(inside[name] is not child for name, child in children.items()):
            made[id(module)] = twin = blank_twin(module)
            vars(twin)["_modules"] = inside
    return made[id(module)]

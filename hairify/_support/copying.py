"""Copies of a user's model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hairify.errors import CopyError

M = TypeVar("M", bound=nn.Module)


def copy_model(model: M, *, share_parameters: bool = False) -> M:
    """A deep copy that also succeeds where a bare `copy.deepcopy` raises.

    Tensors with a gradient history held as attributes (a fresh `weight_norm` keeps its weight so) are
    copied detached; modules that hold such tensors compute them anew at every call.

    Args:
        model: left untouched.
        share_parameters: let the copy use the very same Parameters, so that it costs no memory for them.

    Raises:
        CopyError: the model holds something that cannot be copied (a lock, an open file, ...).
    """
    memo: dict[int, Any] = {id(p): p for p in model.parameters()} if share_parameters else {}
    for module in model.modules():  # a module's empty dicts, ten of hooks alone, take most of the time to copy
        memo.update({id(v): type(v)() for v in vars(module).values() if type(v) in (dict, OrderedDict) and not v})
    try:
        with _DetachNonLeaves():
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise CopyError(
            f"The model ({type(model).__name__}) cannot be copied: {error}. hairify works on a copy so that your model "
            "stays as it is. Remove what cannot be copied from the model's attributes, or give the class that "
            "holds it a `__deepcopy__`."
        ) from error


class _DetachNonLeaves(TorchFunctionMode):
    """Within it, copying a tensor with a gradient history gives a detached clone instead of an error."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = torch.Tensor.detach(tensor).clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))

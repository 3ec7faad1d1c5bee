"""A forward that shows the signature of another one: exporters take names of inputs from it."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn


class ForwardOfBase:
    """A method `forward(self, *args, **kwargs)` that on instances has the signature of their `base`'s forward.

    `torch.export` and ONNX read names and number of inputs from it, and `help` and `inspect` show it.

    Args:
        function: the method.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._shown: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()
        self.__doc__ = function.__doc__

    def __get__(self, instance: nn.Module | None, owner: type[nn.Module]) -> Any:
        if instance is None:
            return self._function
        if torch.compiler.is_compiling():  # Dynamo makes no methods
            return functools.partial(self._function, instance)
        return MethodType(self._of(instance), instance)

    def _of(self, instance: nn.Module) -> Callable[..., Any]:
        """The function, for one kind of base made once: it is looked up in every forward."""
        forward = instance.base.forward  # type: ignore[union-attr]
        key = getattr(forward, "__func__", forward)
        if key not in self._shown:
            self._shown[key] = _showing(self._function, forward)
        return self._shown[key]


def _showing(function: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a method that shows another's signature, where that has one."""
    assert isinstance(function, FunctionType)
    copied = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__dict__.update(function.__dict__)
    for name in ("__doc__", "__qualname__", "__module__"):
        setattr(copied, name, getattr(function, name))
    try:
        signature = inspect.signature(other)
    except (TypeError, ValueError):  # a forward without a Python signature
        return copied
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    taken = [p for p in signature.parameters.values() if p.name != "self"]
    copied.__signature__ = signature.replace(parameters=[own, *taken])  # type: ignore[attr-defined]
    return copied

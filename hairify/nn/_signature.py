"""A forward that shows the signature of another one: exporters take names of inputs from it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch


def forward_of_base(function: Callable[..., Any]) -> property:
    """A method `forward(self, *args, **kwargs)` that on instances has the signature of their `base`'s forward.

    `torch.export` and ONNX read names and number of inputs from it, and `help` and `inspect` show it.

    Args:
        function: the method.
    """
    shown: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()

    def bound(self: Any) -> Callable[..., Any]:
        if torch.compiler.is_compiling():  # compilers make no methods
            return _Bound(function, self)
        forward = self.base.forward
        key = getattr(forward, "__func__", forward)
        if key not in shown:  # made once for one kind of base: it is looked up in every forward
            shown[key] = _showing(function, forward)
        return MethodType(shown[key], self)

    return property(bound, doc=function.__doc__)


class _Bound:
    """What `functools.partial` would be; compilers before PyTorch 2.10 cannot make one anew."""

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        self.function, self.instance = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.instance, *args, **kwargs)


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

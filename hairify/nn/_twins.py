"""Twins of modules: they share everything with them but their buffers, as threads may run the modules meanwhile."""

from __future__ import annotations

import functools
from collections import OrderedDict
from types import MethodType
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from hairify._support.torch_internals import blank_twin, compiled_from, is_of_every_module

_M = TypeVar("_M", bound=nn.Module)


def twin_with_buffers(module: _M) -> _M | None:
    """A module that shares everything with another but its buffers, which are copies; None where there are none.

    It holds twins wherever the other one holds modules: as children, in lists, tuples and dicts, as bound methods, and
    in `functools.partial`. What is compiled is not in the twin.
    """
    twins = _Twins()
    made = twins.of(module)
    return cast(_M, made) if twins.buffers else None


class _Twins:
    """Those made together, one for each module however often it is held.

    Attributes:
        buffers: copies of the buffers, by the identity of the other ones.
    """

    def __init__(self) -> None:
        self.buffers: dict[int, Tensor] = {}
        self._made: dict[int, nn.Module] = {}

    def of(self, module: nn.Module) -> nn.Module:
        """The twin of a module."""
        module = compiled_from(module) or module
        if id(module) not in self._made:
            self._made[id(module)] = made = blank_twin(module)
            held = vars(made)
            held["_buffers"] = {k: None if b is None else self._copy(b) for k, b in held["_buffers"].items()}
            held["_modules"] = {k: None if m is None else self.of(m) for k, m in held["_modules"].items()}
            for name, value in held.items():
                if not is_of_every_module(name):
                    held[name] = self._rebound(value)
        return self._made[id(module)]

    def _copy(self, buffer: Tensor) -> Tensor:
        if id(buffer) not in self.buffers:
            self.buffers[id(buffer)] = buffer.clone()
        return self.buffers[id(buffer)]

    def _rebound(self, value: Any) -> Any:
        """What a module holds, with twins in place of modules."""
        if isinstance(value, nn.Module):
            return self.of(value)
        if isinstance(value, Tensor):
            return self.buffers.get(id(value), value)
        if type(value) in (list, tuple):
            return type(value)(map(self._rebound, value))
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self._rebound(held)) for key, held in value.items())
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.of(value.__self__))
        if type(value) is functools.partial:
            rebound = map(self._rebound, value.args)
            return functools.partial(self._rebound(value.func), *rebound, **self._rebound(value.keywords))
        return value

"""Tracers of torch.fx that get as far as possible."""

from __future__ import annotations

import contextlib
import math
import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import einops
import torch.fx
from torch import nn


class InPlaceTracer(torch.fx.Tracer):
    """A torch.fx tracer that keeps what is done in place, and reads buffers when the graph runs."""

    proxy_buffer_attributes = True

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        """See torch.fx."""
        return _Proxy(node, self)


class ModelTracer(InPlaceTracer):
    """A torch.fx tracer that gets as far as possible.

    Submodules that proxies cannot enter become single nodes, as long as they hold nothing that must be seen;
    einops and math functions become nodes.

    Args:
        keep: whether a module must be seen in the graph.
        leaf: modules that are nodes of their own.
        after: called with a leaf and its output, in place of the leaf's own hooks.
        buffers: whether buffers are read when the graph runs; else what is computed from them alone is a constant.

    Attributes:
        first_outputs: of each module that was called, by name, the nodes of what it returned first.
    """

    def __init__(
        self,
        keep: Callable[[nn.Module], bool],
        leaf: Callable[[nn.Module], bool] = lambda module: False,
        after: Callable[[nn.Module, Any], None] = lambda module, output: None,
        buffers: bool = False,
    ) -> None:
        super().__init__(autowrap_modules=(math, einops))  # type: ignore[arg-type]  # torch.fx says: of one module
        self._keep, self._leaf, self._after = keep, leaf, after
        self.proxy_buffer_attributes = buffers
        self.first_outputs: dict[str, list[torch.fx.Node]] = {}
        self._entered = ""  # the module to be kept within which nodes are made, as their names have it
        self._times_entered: Counter[str] = Counter()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See torch.fx; what the constructor was told to keep as a node is a leaf, too."""
        return self._leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """See torch.fx; a module that proxies cannot enter becomes a node if it may."""
        if threading.get_ident() != self._thread:  # while it traces, torch.fx sees the module calls of all threads
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            output = self._as_node(m, name, args, kwargs)
        else:
            stack = self.module_stack.copy()
            try:
                with self._entering(name) if self._keep(m) else contextlib.nullcontext():
                    output = super().call_module(m, forward, args, kwargs)
            except Exception:
                self.module_stack = stack  # torch.fx does not tidy up after errors
                if any(self._keep(inner) for inner in m.modules()):
                    raise
                output = self._as_node(m, name, args, kwargs)
        if name not in self.first_outputs:
            nodes = self.first_outputs[name] = []
            torch.fx.node.map_aggregate(output, lambda v: nodes.append(v.node) if isinstance(v, torch.fx.Proxy) else v)
        return output

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> torch.fx.Node:
        """See torch.fx; nodes within a kept module bear its name, and the operation itself nothing else."""
        if self._entered and kind == "call_module":
            name = f"{self._entered}_weights"
        elif self._entered and kind == "call_function":
            operation: str = target.__name__
            name = self._entered if operation.startswith("hyper_") else f"{self._entered}_{operation}"
        return super().create_node(kind, target, args, kwargs, name, type_expr)

    @contextlib.contextmanager
    def _entering(self, name: str) -> Iterator[None]:
        self._times_entered[name] += 1
        times = self._times_entered[name]  # a number alone might make the name of a sibling
        before, self._entered = self._entered, name if times == 1 else f"{name}_call{times}"
        try:
            yield
        finally:
            self._entered = before

    def _as_node(self, m: nn.Module, name: str, args: Any, kwargs: Any) -> Any:
        output = self.create_proxy("call_module", name, args, kwargs)
        self._after(m, output)
        return output


class _Proxy(torch.fx.Proxy):
    """A proxy that does in place what the model does in place, where torch.fx's own makes a new value.

    An assignment to a tensor's attribute, which a graph would lose, is an error.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("node", "tracer"):
            raise TypeError(f"the model assigns the attribute `{name}` of a tensor")
        super().__setattr__(name, value)


def _in_place(name: str) -> Callable[[_Proxy, Any], torch.fx.Proxy]:
    operation = getattr(operator, name)

    def method(self: _Proxy, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")


for _name in IN_PLACE:
    setattr(_Proxy, f"__{_name}__", _in_place(_name))

"""What one run of a model shows: which modules were called, in which order, with what, and what came of it."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from hairify._support.nested import tensors
from hairify._support.torch_internals import tree_map_only, version
from hairify.nn._layers import is_layer
from hairify.planning._fingerprints import fingerprints


@dataclass(frozen=True)
class Returned:
    """One tensor that a module returned. Those that compare equal are the very same, unchanged in between.

    Attributes:
        key: the tensor's number in the run, and its version.
        shape: its shape.
        real: whether it holds real floating-point numbers.
        prints: for each image its fingerprint; empty unless it was asked for.
        node: its place in the graph of gradients; None outside of it.
    """

    key: tuple[int, int]
    shape: tuple[int, ...]
    real: bool
    prints: tuple[int, ...] = field(default=(), compare=False)
    node: Node | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Received:
    """What a layer received in one call.

    Attributes:
        shape: of its input.
        prints: fingerprints of the two halves of its first dimension, or of the whole where it is odd; empty unless
            they were asked for, or where it cannot have any.
        node: its place in the graph of gradients; None outside of it, or where the layer records no gradients.
    """

    shape: tuple[int, ...]
    prints: tuple[int, ...] = ()
    node: Node | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Call:
    """One call of one module.

    Attributes:
        module: the module's name.
        interface: number of positional arguments and names of keyword arguments.
        start: when it started, counted in starts and ends of calls.
        end: when it ended, on the same clock.
        returned: the tensors of its output.
    """

    module: str
    interface: tuple[Any, ...]
    start: int
    end: int
    returned: tuple[Returned, ...]


@dataclass
class Recording:
    """What one run of the model showed.

    Attributes:
        has_graph: whether gradients were recorded.
        calls: all module calls, in the order in which they ended.
        received: for each layer, what it received in each of its calls.
        read_outside: layers whose parameters were used other than by calling the layer.
        output: what the model returned.
    """

    has_graph: bool
    calls: list[Call] = field(default_factory=list)
    received: dict[str, list[Received]] = field(default_factory=lambda: defaultdict(list))
    read_outside: set[str] = field(default_factory=set)
    output: Any = None

    def first_calls(self) -> dict[str, Call]:
        """The first call of every module that ran."""
        first: dict[str, Call] = {}
        for call in self.calls:
            first.setdefault(call.module, call)
        return first


class Recorder(TorchFunctionMode):
    """Records calls by hooks, and by watching torch functions the parameters used outside their layer's call.

    Args:
        model: a copy, which gets the hooks.
        graph_from: names of the modules at whose outputs the graph of gradients starts; None records no gradients.
        fingerprints: see `Probe.run`.
        mark_for: how many images there are, where fingerprints of outputs are asked for; else None.
    """

    def __init__(
        self, model: nn.Module, graph_from: Collection[str] | None, fingerprints: bool, mark_for: int | None
    ) -> None:
        super().__init__()
        self.recording = Recording(has_graph=graph_from is not None)
        self._graph_from = graph_from or ()
        self._fingerprints, self._mark_for = fingerprints, mark_for
        self._running: list[tuple[str, int, tuple[Any, ...]]] = []
        self._leaving: list[tuple[str, int, tuple[Any, ...]]] = []
        self._clock = 0
        self._owners: dict[int, str] = {}
        self._numbers = _Numbers()
        self._returned_before: dict[tuple[int, int], Returned] = {}
        for name, module in model.named_modules():
            layer = is_layer(module)
            if layer:
                self._owners.update((id(p), name) for p in module.parameters(recurse=False))
            module.register_forward_pre_hook(_Before(self, name, layer), with_kwargs=True)
            # Two hooks: the user's own forward hooks run in between, outside the layer but part of its output.
            module.register_forward_hook(_Leave(self, name), prepend=True)
            module.register_forward_hook(_After(self, name))

    def before(self, name: str, layer: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a module is called."""
        interface = (len(args), *sorted(kwargs))
        self._running.append((name, self._tick(), interface))
        received = tensors((args, kwargs))
        if layer and received:
            self.recording.received[name].append(self._received(received[0]))

    def leave(self, name: str) -> None:
        """Note that its own code has ended; its further forward hooks are still to run."""
        while self._running[-1][0] != name:  # calls that raised, where the model caught the error
            self._running.pop()
        self._leaving.append(self._running.pop())

    def after(self, name: str, output: Any) -> Any:
        """Note its output, and return another in its place where the graph of gradients is to start."""
        _, start, interface = self._leaving.pop()
        if name in self._graph_from and any(map(_is_outside, tensors(output))):
            output = tree_map_only(Tensor, _started, output)
        returned = tuple(map(self._returned, tensors(output)))
        self.recording.calls.append(Call(name, interface, start, self._tick(), returned))
        return output

    def _received(self, t: Tensor) -> Received:
        parts = 2 if t.ndim and t.shape[0] % 2 == 0 else 1
        prints = fingerprints(t, parts) if self._fingerprints else ()
        return Received(tuple(t.shape), prints, t.grad_fn if torch.is_grad_enabled() else None)

    def _returned(self, t: Tensor) -> Returned:
        key = self._numbers.of(t), version(t)
        if key not in self._returned_before:  # modules often return what the last one within them returned
            marked = t.ndim > 1 and t.shape[0] == self._mark_for and t.is_floating_point()
            prints = fingerprints(t, t.shape[0]) if marked else ()
            self._returned_before[key] = Returned(key, tuple(t.shape), t.is_floating_point(), prints, t.grad_fn)
        return self._returned_before[key]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inside = self._running[-1][0] if self._running else ""
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                owner = self._owners.get(id(item))
                if owner is not None and owner != inside:
                    self.recording.read_outside.add(owner)
        return func(*args, **kwargs)


class _Numbers:
    """Numbers tensors, without keeping them: an `id` alone is given again when its tensor is gone."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._count = 0

    def of(self, tensor: Tensor) -> int:
        """The number of a tensor, the same as long as it lives, and no other's."""
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:
            self._count += 1
            known = self._known[id(tensor)] = weakref.ref(tensor), self._count
        return known[1]


@dataclass(frozen=True)
class _Before:
    recorder: Recorder
    name: str
    layer: bool

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.recorder.before(self.name, self.layer, args, kwargs)


@dataclass(frozen=True)
class _Leave:
    recorder: Recorder
    name: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.recorder.leave(self.name)


@dataclass(frozen=True)
class _After:
    recorder: Recorder
    name: str

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.recorder.after(self.name, output)


def _is_outside(tensor: Tensor) -> bool:
    """Whether a tensor could be in the graph of gradients, and is not."""
    return (tensor.is_floating_point() or tensor.is_complex()) and not tensor.requires_grad


def _started(tensor: Tensor) -> Tensor:
    """A copy within the graph, even where the network records no gradients (`no_grad`).

    It requires a gradient for the sake of a single number: of a whole leaf the graph would keep the values alive.
    """
    if not _is_outside(tensor):
        return tensor
    with torch.enable_grad():
        leaf = tensor.new_zeros(()).requires_grad_()
        return torch.where(tensor.new_ones((), dtype=torch.bool), tensor.detach(), leaf)

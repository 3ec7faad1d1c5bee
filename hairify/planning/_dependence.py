"""What depends on F_g, for any split: from the symbolic graph where torch.fx can follow, borne out by autograd's."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch.fx
from torch import nn
from torch.autograd.graph import Node

from hairify._support.copying import copy_model
from hairify._support.isolation import isolated, pass_on_lack_of_memory
from hairify._support.nested import all_tensors
from hairify.errors import ExampleInputError
from hairify.nn._fx_tracer import ModelTracer
from hairify.nn._layers import is_layer
from hairify.planning._inputs import Inputs
from hairify.planning._plans import TracerName
from hairify.planning._probe import Probe
from hairify.planning._recording import Received, Recording, Returned

N = TypeVar("N")


class Dependence(NamedTuple):
    """What hangs on a split.

    Attributes:
        dependents: the layers whose input depends on the split's first output.
        idle: the layers that no gradient of the model's output reaches, as far as that can be seen.
        tracer: which tracer vouches for the dependents.
    """

    dependents: set[str]
    idle: set[str]
    tracer: TracerName


class Graphs:
    """The graph of torch.fx, and that of the gradients of a run, each made once for all splits.

    The symbolic graph counts where torch.fx can follow the model and the run bears it out: writes through
    views and `detach` look different to the two, and then the run decides.

    Args:
        probe: the recorded model.

    Attributes:
        unchecked: what could not be checked, and why.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.unchecked: list[str] = []
        self._symbolic = SymbolicGraph.of(probe)
        self._differentiated = GradientGraph(probe.recording) if probe.recording.has_graph else None

    def dependence(self, split: str) -> Dependence:
        """What hangs on a split.

        Raises:
            ExampleInputError: torch.fx cannot follow the model, which fails where gradients are recorded.
        """
        by_fx = self._symbolic.dependents(split) if self._symbolic else None
        graph = self._differentiated or self._cut_at(split)
        if graph is not None:
            by_run = graph.dependents(split)
            return Dependence(by_run, graph.idle(), "fx" if by_fx == by_run else "observed")
        if by_fx is None:
            raise ExampleInputError(
                f"Which layers depend on the split {split!r} cannot be found: torch.fx cannot follow the model, and it "
                "fails where gradients are recorded."
            )
        self.unchecked = [f"what depends on the split, by gradients: {self._probe.failure_with_gradients}"]
        return Dependence(by_fx, set(), "fx")

    def _cut_at(self, split: str) -> GradientGraph | None:
        """From a run whose graph starts at the split alone, for models that cannot be differentiated as a whole."""
        for saved in (False, True):  # a model may compute gradients in its own forward
            try:
                return GradientGraph(self._probe.run(graph_from=[split], saved=saved))
            except Exception as error:
                pass_on_lack_of_memory(error)
        return None


class SymbolicGraph:
    """What torch.fx sees.

    Args:
        outputs: of each module, by name, the nodes of what it returned first.
        layers: of each node that calls a layer, the layer's name.
    """

    def __init__(self, outputs: Mapping[str, list[torch.fx.Node]], layers: Mapping[torch.fx.Node, str]) -> None:
        self._outputs, self._layers = outputs, layers

    @classmethod
    def of(cls, probe: Probe) -> SymbolicGraph | None:
        """None where torch.fx cannot follow the model, or sees other calls of layers than the run."""
        model = copy_model(probe.model, share_parameters=True)
        tracer = ModelTracer(keep=is_layer)
        try:
            with isolated(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.fx, about arguments that it takes for constants
                graph = tracer.trace(model, concrete_args=_constants(model, probe.inputs))
        except Exception as error:  # whatever the model does that proxies cannot: the run stands alone
            pass_on_lack_of_memory(error)
            return None
        called = {node: str(node.target) for node in graph.nodes if node.op == "call_module"}
        layers = {node: name for node, name in called.items() if is_layer(model.get_submodule(name))}
        recorded = {name: len(received) for name, received in probe.recording.received.items()}
        return cls(tracer.first_outputs, layers) if Counter(layers.values()) == recorded else None

    def dependents(self, split: str) -> set[str] | None:
        """The layers that depend on the split's first output; None where that is not in the graph."""
        outputs = self._outputs.get(split)
        if not outputs:
            return None
        reached = _reachable(outputs, lambda node: node.users)
        return {name for node, name in self._layers.items() if not reached.isdisjoint(node.all_input_nodes)}


class GradientGraph:
    """The graph of the gradients of a run with frozen parameters, in which it is outputs of modules that require some.

    Args:
        recording: of a run that recorded gradients.
    """

    def __init__(self, recording: Recording) -> None:
        self._received = {name: _nodes(calls) for name, calls in recording.received.items()}
        self._first_returned = {name: _nodes(call.returned) for name, call in recording.first_calls().items()}
        self._returned: dict[str, set[Node]] = defaultdict(set)
        for call in recording.calls:
            self._returned[call.module] |= _nodes(call.returned)
        self._output = {t.grad_fn for t in all_tensors(recording.output) if t.grad_fn is not None}
        # Nodes know what they were made from, not what was made from them.
        self._users: dict[Node, list[Node]] = defaultdict(list)
        for node in _reachable(self._output.union(*self._received.values(), *self._returned.values()), _sources):
            for source in _sources(node):
                self._users[source].append(node)

    def dependents(self, split: str) -> set[str]:
        """The layers whose input depends on the split's first output."""
        reached = _reachable(self._first_returned.get(split, ()), lambda node: self._users.get(node, ()))
        return {layer for layer, nodes in self._received.items() if not reached.isdisjoint(nodes)}

    def idle(self) -> set[str]:
        """The layers that no gradient of the model's output reaches."""
        reached = _reachable(self._output, _sources)
        return {layer for layer in self._received if reached.isdisjoint(self._returned[layer])}


def _nodes(tensors: Iterable[Received | Returned]) -> set[Node]:
    return {one.node for one in tensors if one.node is not None}


def _sources(node: Node) -> list[Node]:
    return [source for source, _ in node.next_functions if source is not None]


def _reachable(start: Iterable[N], following: Callable[[N], Iterable[N]]) -> set[N]:
    """`start`, and all to which it leads."""
    reached = set(start)
    waiting = list(reached)
    while waiting:
        for one in following(waiting.pop()):
            if one not in reached:
                reached.add(one)
                waiting.append(one)
    return reached


def _constants(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Arguments that are not tensors on the example inputs, defaults included, are constants of the graph."""
    bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if not isinstance(value, torch.Tensor)}

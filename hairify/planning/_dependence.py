"""Which layers depend on F_g: from the symbolic graph where torch.fx can follow, else from autograd."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from typing import Any

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
from hairify.planning._recording import Recording


def dependents(probe: Probe, split: str, observed: Recording | None) -> tuple[set[str], TracerName]:
    """The layers whose input depends on the split's first output, and which tracer vouches for it.

    The symbolic graph counts where torch.fx can follow the model and the run bears it out: writes through
    views and `detach` look different to the two, and then the run decides.

    Args:
        probe: the model.
        split: its name.
        observed: a run with `cut_at=split`, or None where the model fails when gradients are recorded.

    Raises:
        ExampleInputError: neither works.
    """
    symbolic = dependents_by_fx(probe, split)
    if observed is None:
        if symbolic is None:
            raise ExampleInputError(
                f"Which layers depend on the split {split!r} cannot be found: torch.fx cannot follow the model, and it "
                "fails where gradients are recorded."
            )
        return symbolic, "fx"
    by_run = dependents_by_run(observed)
    return by_run, "fx" if symbolic == by_run else "observed"


def dependents_by_run(observed: Recording) -> set[str]:
    """From a run with frozen parameters in which the split's output is the only thing that requires a gradient."""
    return {name for name, received in observed.received.items() if any(one.depends for one in received)}


def without_effect(observed: Recording) -> set[str]:
    """The layers of such a run from which no way leads to the model's output."""
    waiting: list[Node | None] = [t.grad_fn for t in all_tensors(observed.output)]
    reached: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in reached:
            reached.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {name for name, results in observed.results.items() if not reached.intersection(results)}


def dependents_by_fx(probe: Probe, split: str) -> set[str] | None:
    """From reachability in the symbolic graph; None where torch.fx cannot follow the model, or sees other calls."""
    model = copy_model(probe.model, share_parameters=True)
    tracer = ModelTracer(keep=is_layer, watch=model.get_submodule(split))
    try:
        with isolated(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.fx, about arguments that it takes for constants
            graph = tracer.trace(model, concrete_args=_constants(model, probe.inputs))
    except Exception as error:  # whatever the model does that proxies cannot: the observed run takes over
        pass_on_lack_of_memory(error)
        return None
    if not tracer.watched or _layer_calls(graph, model) != _recorded_calls(probe.recording):
        return None
    reached, names = set(tracer.watched), set()
    for node in graph.nodes:
        if any(n in reached for n in node.all_input_nodes):
            reached.add(node)
            if node.op == "call_module" and is_layer(model.get_submodule(str(node.target))):
                names.add(str(node.target))
    return names


def _constants(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Arguments that are not tensors on the example inputs, defaults included, are constants of the graph."""
    bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if not isinstance(value, torch.Tensor)}


def _layer_calls(graph: torch.fx.Graph, model: nn.Module) -> Counter[str]:
    names = [str(n.target) for n in graph.nodes if n.op == "call_module"]
    return Counter(name for name in names if is_layer(model.get_submodule(name)))


def _recorded_calls(recording: Recording) -> Counter[str]:
    return Counter({name: len(received) for name, received in recording.received.items()})

"""Which layers may be converted, and why the others may not."""

from __future__ import annotations

import math
from collections import ChainMap
from typing import NamedTuple

from torch import nn

from hairify._support.module_names import all_names, matches
from hairify._support.torch_internals import CONVOLUTION
from hairify.nn._converted import within_converted
from hairify.nn._layers import is_layer, why_not
from hairify.planning._dependence import Graphs
from hairify.planning._options import Choices
from hairify.planning._pairs import Pairs
from hairify.planning._plans import TracerName
from hairify.planning._probe import Probe
from hairify.planning._recording import Recording
from hairify.planning._rehearsal import unfaithful

_NEVER_CONVERTED = (CONVOLUTION, nn.Bilinear, nn.Embedding, nn.RNNBase)


class Verdicts(NamedTuple):
    """What was found of the layers.

    Attributes:
        against: for every layer, in the order of first calls, the reason against converting it; None where it may be.
        tracer: which tracer vouches for what depends on the split.
    """

    against: dict[str, str | None]
    tracer: TracerName


def judge_layers(probe: Probe, pairs: Pairs, graphs: Graphs, split: str, choices: Choices) -> Verdicts:
    """Which layers may be converted after a split, by the first reason against each.

    Args:
        probe: the recorded model.
        pairs: its runs on two images.
        graphs: what depends on what in it.
        split: its name.
        choices: of the user's, which layers are to be converted.
    """
    model, called = probe.model, probe.recording.first_calls()
    layers = {name: module for name, module in model.named_modules() if is_layer(module)}
    dependents, idle, tracer = graphs.dependence(split)
    names = all_names(model)
    chosen = {n for n in layers if matches(names[n], choices.include) and not matches(names[n], choices.exclude)}
    known = ChainMap(  # reasons against layers; where there are several, the first
        {name: reason for name, layer in layers.items() if (reason := why_not(layer)) is not None},
        dict.fromkeys(within_converted(model), "belongs to a HairModel within the model"),
        dict.fromkeys(layers.keys() - chosen, "ruled out by `include` or `exclude`"),
        {name: f"its weight is tied to that of {other}" for name, other in probe.tied.items()},
        dict.fromkeys(pairs.read_outside, "its weight is read from outside its own call"),
        dict.fromkeys(layers.keys() - called, "never called on the example inputs"),
        dict.fromkeys(_before(probe.recording, split), "runs before the split"),
        dict.fromkeys(layers if _misses(pairs.training, split) else (), "the split does not run in training mode"),
        dict.fromkeys(_before(pairs.training, split), "runs before the split in training mode"),
        dict.fromkeys(layers.keys() - dependents, "does not depend on the split's output"),
        dict.fromkeys(idle, "no gradient of the model's output reaches it"),
    )
    against: dict[str, str | None] = {}
    for name, module in sorted(
        model.named_modules(), key=lambda item: called[item[0]].start if item[0] in called else math.inf
    ):
        if name in layers:
            against[name] = known.get(name) or pairs.why_not_apart(name)
        elif isinstance(module, _NEVER_CONVERTED):
            against[name] = f"{type(module).__name__} is not among the classes that are converted"
    for name in unfaithful(probe, pairs, [name for name, reason in against.items() if reason is None]):
        against[name] = "without a weight of its own the model does not compute the same"
    return Verdicts(against, tracer)


def _misses(recording: Recording | None, split: str) -> bool:
    """Whether the split does not run there."""
    return recording is not None and split not in recording.first_calls()


def _before(recording: Recording | None, split: str) -> set[str]:
    """The modules that start before the split's first call has ended."""
    first = recording.first_calls() if recording else {}
    end = first[split].end if split in first else math.inf
    return {name for name, call in first.items() if call.start < end}

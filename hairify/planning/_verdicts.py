"""Which layers may be converted, and why the others may not."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence

from torch import nn

from hairify._support.isolation import pass_on_lack_of_memory
from hairify._support.module_names import all_names, tied_layers
from hairify._support.torch_internals import CONVOLUTION
from hairify.nn._converted import within_converted
from hairify.nn._layers import is_layer, why_not
from hairify.planning._dependence import dependents, without_effect
from hairify.planning._options import Choices
from hairify.planning._pairs import Pairs
from hairify.planning._plans import TracerName
from hairify.planning._probe import Probe
from hairify.planning._recording import Recording
from hairify.planning._rehearsal import unfaithful

_NEVER_CONVERTED = (CONVOLUTION, nn.Bilinear, nn.Embedding, nn.RNNBase)


def judge_layers(probe: Probe, pairs: Pairs, split: str, choices: Choices) -> tuple[dict[str, str | None], TracerName]:
    """For every layer, in the order of first calls: None where it may be converted, else the reason against it."""
    model = probe.model
    first = probe.recording.first_calls()
    early = _before(probe.recording, split)
    training = pairs.training
    early_in_training = _before(training, split) if training else set()
    read_outside = probe.recording.read_outside | (training.read_outside if training else set())
    observed = _differentiated(probe, split)
    reachable, tracer = dependents(probe, split, observed)
    idle = without_effect(observed) if observed else set()
    tied, names, inner = tied_layers(model), all_names(model), within_converted(model)
    verdicts: dict[str, str | None] = {}
    for name, module in sorted(
        model.named_modules(), key=lambda item: first[item[0]].start if item[0] in first else 2**62
    ):
        if not is_layer(module):
            if isinstance(module, _NEVER_CONVERTED):
                verdicts[name] = f"{type(module).__name__} is not among the classes that are converted"
            continue
        if (reason := why_not(module)) is not None:
            verdicts[name] = reason
        elif name in inner:
            verdicts[name] = "belongs to a HairModel within the model"
        elif not _matches(names[name], choices.include) or _matches(names[name], choices.exclude):
            verdicts[name] = "ruled out by `include` or `exclude`"
        elif name in tied:
            verdicts[name] = f"its weight is tied to that of {tied[name]}"
        elif name in read_outside:
            verdicts[name] = "its weight is read from outside its own call"
        elif name not in first:
            verdicts[name] = "never called on the example inputs"
        elif name in early:
            verdicts[name] = "runs before the split"
        elif name in early_in_training:
            verdicts[name] = "runs before the split in training mode"
        elif name not in reachable:
            verdicts[name] = "does not depend on the split's output"
        elif name in idle:
            verdicts[name] = "the model's output does not depend on it"
        elif not pairs.inputs_kept_apart(name):
            verdicts[name] = "what it receives is not ordered by image"
        elif not pairs.inputs_kept_apart_in_training(name):
            verdicts[name] = "what it receives in training mode is not ordered by image"
        else:
            verdicts[name] = None
    for name in unfaithful(probe, pairs, [name for name, reason in verdicts.items() if reason is None]):
        verdicts[name] = "without a weight of its own the model does not compute the same"
    return verdicts, tracer


def _differentiated(probe: Probe, split: str) -> Recording | None:
    """A run cut at the split; None where the model fails when gradients are recorded, as some may."""
    for saved in (False, True):  # a model may compute gradients in its own forward
        try:
            return probe.run(cut_at=split, saved=saved)
        except Exception as error:
            pass_on_lack_of_memory(error)
    return None


def _before(recording: Recording, split: str) -> set[str]:
    """The modules that start before the split's first call has ended."""
    first = recording.first_calls()
    end = first[split].end if split in first else math.inf
    return {name for name, call in first.items() if call.start < end}


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a glob matches the module, under any of its names, or one that holds it."""
    parts = [name.split(".") for name in names]
    around = [".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in around for pattern in patterns)

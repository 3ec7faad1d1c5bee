"""A rehearsal of the conversion: does the model compute the same when its layers own no weights?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hairify._support.isolation import isolated, pass_on_lack_of_memory
from hairify._support.nested import all_tensors
from hairify.functional._kernels import per_image
from hairify.functional._operations import Prepare
from hairify.nn._context import Slot
from hairify.nn._layers import make_hyper
from hairify.planning._pairs import Pairs, same_up_to_rounding
from hairify.planning._probe import Probe
from hairify.planning._recording import Recording


@dataclass(frozen=True)
class _Fixed:
    """Stands in for a scope: each of two images gets the weights that the layer had.

    Attributes:
        layer: the layer's name.
        weight: what it had.
        bias: what it had, or None.
        read: gets the name where the network reads one of them.
    """

    layer: str
    weight: Tensor
    bias: Tensor | None
    read: set[str]

    def generate(self, slot: Slot) -> tuple[Tensor, Tensor | None]:
        # Generated weights are contiguous, whatever the layer's own were.
        weight, bias = (None if t is None else t.contiguous().expand(2, *t.shape) for t in (self.weight, self.bias))
        assert weight is not None
        return weight, bias

    def compute(self, slot: Slot, prepare: Prepare, input: Tensor, settings: Mapping[str, Any]) -> Tensor:
        input, operation = prepare(input, self.weight.shape[2:], **settings)
        return per_image(operation, input, *self.generate(slot))

    def show(self, layer: nn.Module) -> None:
        """Have the layer answer with its weight and bias whoever reads them, and note it."""
        shown = {name: _shown(name) for name in ("weight", "bias") if getattr(self, name) is not None}
        layer.__class__ = type(type(layer).__name__, (type(layer),), shown)


def _shown(name: str) -> property:
    def read(layer: Any) -> Tensor:
        fixed: _Fixed = layer.hair_slot.scope
        fixed.read.add(fixed.layer)
        return getattr(fixed, name)

    return property(read)


def unfaithful(probe: Probe, pairs: Pairs, layers: list[str]) -> set[str]:
    """The layers that cannot give their weights away, found by running the model without them.

    Watching functions shows most uses of a weight from outside its layer, but not all: fused paths that are switched
    off while one watches, or a test such as `layer.bias is not None`. So weights are gone here, but for whoever reads
    them as attributes: he gets them, and is noted. What else needs a weight (`next(block.parameters())`) shows in what
    the model computes, and whose weight that was, in a search by halves.

    Args:
        probe: the model.
        pairs: the model's runs on two images.
        layers: names of the layers that are to be converted.
    """
    rehearsals = [_Rehearsal(probe, pairs, pairs.ab, training=False)]
    if pairs.training is not None and not pairs.trains_alike:
        rehearsals.append(_Rehearsal(probe, pairs, pairs.training, training=True))

    def same(names: list[str]) -> bool:
        return all(rehearsal.succeeds(names) for rehearsal in rehearsals)

    def search(names: list[str]) -> set[str]:
        """Those to blame, where the model fails without the weights of `names`."""
        if len(names) == 1:
            return {*names}
        half = len(names) // 2
        found = {name for part in (names[:half], names[half:]) if not same(part) for name in search(part)}
        return found or {*names}  # each half may do without its weights, and not both

    refused: set[str] = set()
    while remaining := [name for name in layers if name not in refused]:
        succeeds = same(remaining)
        blamed = rehearsals[0].read.union(*(one.read for one in rehearsals)).intersection(remaining)
        refused |= blamed if succeeds or blamed else search(remaining)
        if succeeds:
            break
    return refused


class _Rehearsal:
    """The model on two images in one mode, as it is and without the weights of some layers.

    Args:
        probe: the model.
        pairs: its runs on two images.
        recording: its own run in that mode.
        training: the mode, BatchNorm in evaluation mode always.

    Attributes:
        read: the layers whose weight or bias the network read as attributes.
    """

    def __init__(self, probe: Probe, pairs: Pairs, recording: Recording, *, training: bool) -> None:
        self._probe, self._pairs, self._training = probe, pairs, training
        self._expected = all_tensors(recording.output)
        self.read: set[str] = set()

    def succeeds(self, names: list[str]) -> bool:
        """Whether the model computes the same where the named layers own no weights.

        Of one that never computes the same twice, whether it runs.
        """
        try:
            got = all_tensors(self._run(names))
        except Exception as error:  # whatever the model does to a layer without a weight
            pass_on_lack_of_memory(error)
            return False
        same = len(got) == len(self._expected) and all(map(same_up_to_rounding, got, self._expected))
        return same or not self._pairs.repeats_itself

    def _run(self, names: list[str]) -> Any:
        model = self._probe.copy(training=self._training)
        for name in names:
            layer: Any = model.get_submodule(name)
            fixed: Any = _Fixed(name, layer.weight, layer.bias, self.read)
            make_hyper(layer, Slot(fixed, 0, 0, "", layer.bias is not None, name, 1))
            fixed.show(layer)
        inputs = self._pairs.inputs.map(torch.clone)
        with isolated(model), torch.no_grad():
            return model(*inputs.args, **inputs.kwargs)

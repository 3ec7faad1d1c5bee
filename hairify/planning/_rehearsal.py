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
from hairify.nn._context import WeightAddress
from hairify.nn._layers import make_hyper
from hairify.nn._slots import BlockSlot
from hairify.planning._pairs import Pairs, same_up_to_rounding
from hairify.planning._probe import Probe
from hairify.planning._recording import Recording


@dataclass(frozen=True)
class _Fixed:
    """Stands in for a context and for a block's weights: each of two images gets the weights that the layer had."""

    weight: Tensor
    bias: Tensor | None

    def slot(self, level: int, block: int) -> BlockSlot:
        return BlockSlot()  # an empty one, so that the layer asks for its weights

    def weights_of(self, address: WeightAddress) -> _Fixed:
        return self

    def for_all(self, layer_name: str) -> None:
        return None

    def compute(self, layer_name: str, prepare: Prepare, input: Tensor, settings: Mapping[str, Any]) -> Tensor:
        input, operation = prepare(input, self.weight.shape[2:], **settings)
        # Generated weights are contiguous, whatever the layer's own were.
        weight, bias = (None if t is None else t.contiguous().expand(2, *t.shape) for t in (self.weight, self.bias))
        assert weight is not None
        return per_image(operation, input, weight, bias)


def unfaithful(probe: Probe, pairs: Pairs, layers: list[str]) -> set[str]:
    """The layers that cannot give their weights away, found by running the model without them.

    Watching functions shows most uses of a weight from outside its layer, but not all: fused paths that are switched
    off while one watches, or a test such as `layer.bias is not None`. Where the model fails, it runs once more with
    weights that note when they are read as attributes, and those layers are left alone; where none is
    (`next(block.parameters())`), those to blame are found by halves.

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
    while (remaining := [name for name in layers if name not in refused]) and not same(remaining):
        refused |= set().union(*(rehearsal.readers(remaining) for rehearsal in rehearsals)) or search(remaining)
    return refused


class _Rehearsal:
    """The model on two images in one mode, as it is and without the weights of some layers.

    Args:
        probe: the model.
        pairs: its runs on two images.
        recording: its own run in that mode.
        training: the mode, BatchNorm in evaluation mode always.
    """

    def __init__(self, probe: Probe, pairs: Pairs, recording: Recording, *, training: bool) -> None:
        self._probe, self._pairs, self._training = probe, pairs, training
        self._expected = all_tensors(recording.output)

    def succeeds(self, names: list[str]) -> bool:
        """Whether the model computes the same where the named layers own no weights.

        Of one that does not even do so as it is, from run to run, whether it runs.
        """
        try:
            got = all_tensors(self._run(names, read=None))
        except Exception as error:  # whatever the model does to a layer without a weight
            pass_on_lack_of_memory(error)
            return False
        same = len(got) == len(self._expected) and all(map(same_up_to_rounding, got, self._expected))
        return same or not self._pairs.output_repeats(training=self._training)

    def readers(self, names: list[str]) -> set[str]:
        """Of the named layers those whose weight or bias is read as an attribute."""
        read: set[str] = set()
        try:
            self._run(names, read)
        except Exception as error:  # for want of something else, up to which they were noted
            pass_on_lack_of_memory(error)
        return read

    def _run(self, names: list[str], read: set[str] | None) -> Any:
        model = self._probe.copy(training=self._training)
        for name in names:
            layer: Any = model.get_submodule(name)
            context: Any = _Fixed(layer.weight, layer.bias)
            make_hyper(layer, WeightAddress(context, 0, 0, "", layer.bias is not None, name, 1))
            if read is not None:
                _show(layer, name, context, read)
        inputs = self._pairs.inputs.map(torch.clone)
        with isolated(model), torch.no_grad():
            return model(*inputs.args, **inputs.kwargs)


def _show(layer: nn.Module, name: str, fixed: _Fixed, read: set[str]) -> None:
    """Have a layer answer with its weight and bias whoever reads them, and note its name."""

    def shown(value: Tensor) -> property:
        def answer(_: nn.Module) -> Tensor:
            read.add(name)
            return value

        return property(answer)

    values = {"weight": fixed.weight, "bias": fixed.bias}
    members = {attribute: shown(value) for attribute, value in values.items() if value is not None}
    layer.__class__ = type(type(layer).__name__, (type(layer),), members)

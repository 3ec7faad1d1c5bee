"""A rehearsal of the conversion: does the model compute the same when its layers own no weights?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hairify._support.isolation import isolated, pass_on_lack_of_memory
from hairify._support.nested import all_tensors
from hairify.functional._kernels import per_image
from hairify.functional._operations import Prepare
from hairify.nn._context import WeightAddress
from hairify.nn._layers import make_hyper
from hairify.planning._inputs import Inputs
from hairify.planning._pairs import Pairs, same_up_to_rounding
from hairify.planning._probe import Probe
from hairify.planning._recording import Recording


@dataclass(frozen=True)
class _Fixed:
    """Stands in for a context: each of two images gets the weights that the layer had."""

    weight: Tensor
    bias: Tensor | None

    def generate(self, address: WeightAddress) -> tuple[Tensor, Tensor | None]:
        # Generated weights are contiguous, whatever the layer's own were.
        weight, bias = (None if t is None else t.contiguous().expand(2, *t.shape) for t in (self.weight, self.bias))
        assert weight is not None
        return weight, bias

    def compute(self, address: WeightAddress, prepare: Prepare, input: Tensor, settings: Mapping[str, Any]) -> Tensor:
        input, operation = prepare(input, self.weight.shape[2:], **settings)
        return per_image(operation, input, *self.generate(address))


def unfaithful(probe: Probe, pairs: Pairs, layers: list[str]) -> list[str]:
    """The layers that cannot give their weights away, found by running the model without them.

    Watching shows most uses of a weight from outside its layer, but not all: fused paths that are switched off
    while one watches, or a test such as `layer.bias is not None`.

    Args:
        probe: the model.
        layers: names of the layers that are to be converted.
        pairs: the model's runs on two images.
    """
    rehearsals = [_Rehearsal(probe, pairs.inputs, pairs.ab, training=False)]
    if pairs.training_apart is not None:
        rehearsals.append(_Rehearsal(probe, pairs.inputs, pairs.training_apart[0], training=True))

    def same(names: list[str]) -> bool:
        return all(rehearsal.succeeds(names) for rehearsal in rehearsals)

    def search(names: list[str]) -> list[str]:
        """Those to blame, where the model fails without the weights of `names`."""
        if len(names) == 1:
            return names
        half = len(names) // 2
        found = [name for part in (names[:half], names[half:]) if not same(part) for name in search(part)]
        return found or names  # each half may do without its weights, and not both

    refused: list[str] = []
    while (remaining := [name for name in layers if name not in refused]) and not same(remaining):
        refused += search(remaining)
    return refused


class _Rehearsal:
    """The model on two images in one mode, as it is and without the weights of some layers.

    Args:
        probe: the model.
        inputs: the two images.
        recording: the model's own run on them.
        training: the mode, BatchNorm in evaluation mode always.
    """

    def __init__(self, probe: Probe, inputs: Inputs, recording: Recording, *, training: bool) -> None:
        self._probe, self._inputs, self._training = probe, inputs, training
        self._expected = all_tensors(recording.output)

    def succeeds(self, names: list[str]) -> bool:
        """Whether the model computes the same where the named layers own no weights."""
        try:
            got = all_tensors(self._run(names))
        except Exception as error:  # whatever the model does to a layer without a weight
            pass_on_lack_of_memory(error)
            return False
        return len(got) == len(self._expected) and all(map(same_up_to_rounding, got, self._expected))

    def _run(self, names: list[str]) -> Any:
        model = self._probe.copy(training=self._training, batch_norm=False)
        for name in names:
            layer: Any = model.get_submodule(name)
            context: Any = _Fixed(layer.weight, layer.bias)
            make_hyper(layer, WeightAddress(context, 0, 0, "", layer.bias is not None, name, 1))
        inputs = self._inputs.map(torch.clone)
        with isolated(model), torch.no_grad():
            return model(*inputs.args, **inputs.kwargs)

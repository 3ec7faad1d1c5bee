"""A rehearsal of the conversion: does the model compute the same when its layers own no weights?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hairify.copying import copy_model
from hairify.features import all_tensors
from hairify.layers import make_hyper
from hairify.probing import Pairs, Probe, isolated, same_up_to_rounding
from hairify.scope import Slot


@dataclass(frozen=True)
class _Fixed:
    """Stands in for a scope: each of two images gets the weights that the layer had."""

    weight: Tensor
    bias: Tensor | None

    def generate(self, slot: Slot) -> tuple[Tensor, Tensor | None]:
        weight, bias = (None if t is None else t.expand(2, *t.shape) for t in (self.weight, self.bias))
        assert weight is not None
        return weight, bias


def unfaithful(probe: Probe, pairs: Pairs, layers: list[str]) -> list[str]:
    """The layers that cannot give their weights away, found by running the model without them.

    Watching shows most uses of a weight from outside its layer, but not all: fused paths that are switched off
    while one watches, or a test such as `layer.bias is not None`.

    Args:
        probe: the model.
        layers: names of the layers that are to be converted.
        pairs: the model's runs on two images.
    """
    expected = all_tensors(pairs.ab.output)

    def search(names: list[str]) -> list[str]:
        if not names or _same(probe, pairs, names, expected):
            return []
        half = len(names) // 2
        return names if not half else search(names[:half]) + search(names[half:])

    return search(layers)


def _same(probe: Probe, pairs: Pairs, names: list[str], expected: list[Tensor]) -> bool:
    try:
        got = all_tensors(_run(probe, pairs, names))
    except Exception:  # whatever the model does to a layer without a weight
        return False
    return len(got) == len(expected) and all(map(same_up_to_rounding, got, expected))


def _run(probe: Probe, pairs: Pairs, names: list[str]) -> Any:
    """The output for the two images of a copy in which the named layers are hyper layers of fixed weights."""
    model = copy_model(probe.model, share_parameters=True)
    for name in names:
        layer: Any = model.get_submodule(name)
        scope: Any = _Fixed(layer.weight, layer.bias)
        make_hyper(layer, Slot(scope, 0, 0, "", layer.bias is not None, name, 1))
    inputs = pairs.inputs.map(torch.clone)
    with isolated(model), torch.no_grad():
        return model(*inputs.args, **inputs.kwargs)

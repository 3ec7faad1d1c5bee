"""A rehearsal of the conversion: does the model compute the same when its layers own no weights?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hairify.copying import copy_model
from hairify.features import tensors
from hairify.layers import make_hyper
from hairify.probing import Probe, isolated, same_up_to_rounding
from hairify.scope import Slot


@dataclass(frozen=True)
class _Fixed:
    """Stands in for a scope: every image gets the weights that the layer had."""

    weight: Tensor
    bias: Tensor | None

    def generate(self, slot: Slot) -> tuple[Tensor, Tensor | None]:
        return self.weight[None], None if self.bias is None else self.bias[None]


def unfaithful(probe: Probe, layers: list[str]) -> list[str]:
    """The layers that cannot give their weights away, found by running the model without them.

    Watching shows most uses of a weight from outside its layer, but not all: fused paths that are switched off
    while one watches, or a test such as `layer.bias is not None`.

    Args:
        probe: the model.
        layers: names of the layers that are to be converted.
    """
    expected = tensors(_run(probe, []))

    def search(names: list[str]) -> list[str]:
        if not names or _same(probe, names, expected):
            return []
        half = len(names) // 2
        return names if not half else search(names[:half]) + search(names[half:])

    return search(layers)


def _same(probe: Probe, names: list[str], expected: list[Tensor]) -> bool:
    try:
        got = tensors(_run(probe, names))
    except Exception:  # whatever the model does to a layer without a weight
        return False
    return len(got) == len(expected) and all(map(same_up_to_rounding, got, expected))


def _run(probe: Probe, names: list[str]) -> Any:
    """The output on the example inputs of a copy in which the named layers are hyper layers of fixed weights."""
    model = copy_model(probe.model, share_parameters=True)
    for name in names:
        layer: Any = model.get_submodule(name)
        scope: Any = _Fixed(layer.weight, layer.bias)
        make_hyper(layer, Slot(scope, 0, 0, "", layer.bias is not None, name, 1))
    inputs = probe.inputs.map(torch.clone)
    with isolated(model), torch.no_grad():
        return model(*inputs.args, **inputs.kwargs)

"""Whatever would use the weight of a hyper layer from outside is told that it owns none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import UNet
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils import fusion, parametrizations, parametrize, prune
from util import assert_unchanged, snapshot

from hairify import HairModel, hairify
from hairify.errors import NoWeightError
from hairify.nn import HyperLayer


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


USES: dict[str, Callable[[Any], Any]] = {
    "kaiming": lambda layer: init.kaiming_normal_(layer.weight),
    "xavier": lambda layer: init.xavier_uniform_(layer.weight),
    "orthogonal": lambda layer: init.orthogonal_(layer.weight),
    "truncated": lambda layer: init.trunc_normal_(layer.weight, std=0.02),
    "zeros": lambda layer: init.zeros_(layer.weight),
    "data": lambda layer: layer.weight.data.normal_(0, 0.02),
    "shape": lambda layer: layer.weight.shape,
    "reset": lambda layer: layer.reset_parameters(),
    "weight norm": parametrizations.weight_norm,
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Twice()),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "pruned by rows": lambda layer: prune.ln_structured(layer, "weight", 0.3, n=2, dim=0),
    "fused": lambda layer: fusion.fuse_conv_bn_eval(layer, nn.BatchNorm2d(layer.out_channels).eval()),
    "layout": lambda layer: nn.utils.convert_conv2d_weight_memory_format(layer, torch.channels_last),
    "function": lambda layer: F.conv2d(torch.rand(1, layer.in_channels, 8, 8), layer.weight),
    "written": lambda layer: setattr(layer.weight, "requires_grad", False),
    "stacked": lambda layer: torch.stack([layer.weight]),
    "doubled": lambda layer: 2 * layer.weight,
    "sum of squares": lambda layer: (layer.weight**2).sum(),
    "first row": lambda layer: layer.weight[0],
    "rows": lambda layer: list(layer.weight),
    "count": lambda layer: len(layer.weight),
    "copied": lambda layer: copy.deepcopy(layer.weight),
    "set": lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(8, 8, 3, 3))),
    "registered": lambda layer: layer.register_parameter("weight", nn.Parameter(torch.zeros(8, 8, 3, 3))),
}


@pytest.fixture
def hair() -> HairModel:
    return hairify(UNet().eval())


@pytest.mark.parametrize("use", USES)
def test_uses_of_a_weight_are_told(use: str, hair: HairModel) -> None:
    layer = next(m for m in hair.modules() if isinstance(m, HyperLayer) and isinstance(m, nn.Conv2d))
    before = snapshot(hair)
    with pytest.raises(NoWeightError, match=r"HyperConv2d of level '.*' owns no weight.*before `hairify`"):
        USES[use](layer)
    assert_unchanged(hair, before, random=False)


def test_a_bias_that_would_not_count_is_told(hair: HairModel) -> None:
    layer = next(m for m in hair.modules() if isinstance(m, HyperLayer) and m.hair_address.bias)
    before = snapshot(hair)
    with pytest.raises(NoWeightError, match="owns no bias"):
        layer.bias = nn.Parameter(torch.zeros(8))
    layer.bias = None
    assert_unchanged(hair, before, random=False)


def test_an_initialisation_over_all_modules_is_told(hair: HairModel) -> None:
    def initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.kaiming_normal_(module.weight)

    with pytest.raises(NoWeightError):
        hair.apply(initialise)
    hair.bake(giv=torch.zeros(1, hair.plan.giv_dim)).apply(initialise)


def test_what_looks_only_may_look(hair: HairModel) -> None:
    x = torch.rand(1, 3, 32, 48)
    expected = hair(x)
    for module in hair.modules():
        if isinstance(module, HyperLayer):
            assert not module.weight
            assert module.bias is None
            assert not isinstance(module.weight, Tensor)
            assert not hasattr(module.weight, "shape")
            assert repr(module.weight) == "None"
    nn.utils.clip_grad_norm_(hair.parameters(), 1.0)
    vector = nn.utils.parameters_to_vector(hair.parameters())
    nn.utils.vector_to_parameters(vector, hair.parameters())
    hair.to(memory_format=torch.channels_last)
    assert torch.allclose(hair(x), expected, atol=1e-6)

"""`assert_unchanged` notices whatever a conversion could leave behind in a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from util import assert_unchanged, snapshot


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.size, self.mean, self.cache = (4, 6), torch.full((2,), torch.nan), {"calls": [torch.zeros(2), 1]}


def hook(*args: object) -> None: ...


CHANGES: dict[str, Callable[[Stateful], object]] = {
    "parameter": lambda m: m.conv.weight.data.mul_(2),
    "parameter replaced by its equal": lambda m: setattr(m.conv, "weight", nn.Parameter(m.conv.weight.detach())),
    "parameter frozen": lambda m: m.conv.requires_grad_(False),
    "gradient": lambda m: m.conv.weight.sum().backward(),
    "buffer": lambda m: m.norm.running_mean.add_(1),
    "buffer that is not saved": lambda m: m.mask.zero_(),
    "attribute": lambda m: setattr(m, "size", (4, 8)),
    "attribute that is now a proxy": lambda m: setattr(
        m, "size", torch.fx.Proxy(torch.fx.Graph().placeholder("x"), torch.fx.Tracer())
    ),
    "attribute that came": lambda m: setattr(m, "skip", None),
    "attribute that went": lambda m: delattr(m, "size"),
    "tensor": lambda m: m.mean.zero_(),
    "tensor in containers": lambda m: m.cache["calls"][0].add_(1),
    "number in containers": lambda m: m.cache["calls"].__setitem__(1, 2),
    "container grown": lambda m: m.cache["calls"].append(3),
    "class": lambda m: setattr(m.norm, "__class__", nn.BatchNorm1d),
    "mode": lambda m: m.norm.eval(),
    "order": lambda m: m._modules.update(conv=m._modules.pop("conv")),
    "random state": lambda m: torch.rand(()),
    "forward hook": lambda m: m.conv.register_forward_hook(hook),
    "forward hook with keywords": lambda m: m.conv.register_forward_pre_hook(hook, with_kwargs=True),
    "backward hook": lambda m: m.register_full_backward_hook(hook),
    "backward hook before": lambda m: m.register_full_backward_pre_hook(hook),
    "state_dict hook": lambda m: m.register_state_dict_post_hook(hook),
    "state_dict hook before": lambda m: m.register_state_dict_pre_hook(hook),
    "loading hook": lambda m: m.register_load_state_dict_post_hook(hook),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(change: Callable[[Stateful], object]) -> None:
    model = Stateful()
    before = snapshot(model)
    assert_unchanged(model, before)
    change(model)
    with pytest.raises(AssertionError):
        assert_unchanged(model, before)

"""Baking: the static network that a HairModel is for one GIV."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify.copying import copy_model
from hairify.layers import HyperLayer, make_ordinary
from hairify.model import HairModel
from hairify.scope import Scope


def bake(hair: HairModel, giv: Tensor) -> nn.Module:
    """A copy of the base network in which every hyper layer owns the weights that `giv` selects.

    Args:
        hair: left as it is.
        giv: shape (1, D).

    Returns:
        A module of the base's class, in the model's mode.
    """
    model = copy_model(hair.base)
    remove_split_hook(model, hair.plan.split)
    with torch.no_grad():
        selecting = [hsn(giv) for hsn in hair.hsn]
        for layer in model.modules():
            if not isinstance(layer, HyperLayer) or layer.scope.split != hair.plan.split:
                continue
            slot, box = layer.slot, hair.boxes[layer.slot.level]
            weight, bias = box(slot.entry, selecting[slot.level][:, slot.block])
            trained = any(p.requires_grad for p in box.parameters())
            values = {"weight": weight, "bias": bias}
            make_ordinary(layer, {k: None if v is None else nn.Parameter(v[0].clone(), trained) for k, v in values.items()})
    return model


def remove_split_hook(model: nn.Module, split: str) -> None:
    """Take off the forward hook that conversion put on the split."""
    hooks = model.get_submodule(split)._forward_hooks
    for key, hook in list(hooks.items()):
        if isinstance(getattr(hook, "__self__", None), Scope):
            del hooks[key]

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
    pairs = zip(hair.base.modules(), model.modules(), strict=True)
    # those of this model: the base may hold a HairModel of its own, which stays one
    layers = [
        layer
        for mine, layer in pairs
        if isinstance(mine, HyperLayer) and isinstance(layer, HyperLayer) and mine.hair_slot.scope is hair._scope
    ]
    unhook(model.get_submodule(hair.plan.split), layers[0].hair_slot.scope)
    with torch.no_grad():
        selecting = [hsn(giv) for hsn in hair.hsn]
        for layer in layers:
            slot, box = layer.hair_slot, hair.boxes[layer.hair_slot.level]
            weight, bias = box(slot.entry, selecting[slot.level][:, slot.block])
            trained = any(p.requires_grad for p in box.parameters())
            values = {"weight": weight, "bias": bias}
            make_ordinary(
                layer, {k: None if v is None else nn.Parameter(v[0].clone(), trained) for k, v in values.items()}
            )
    return model


def unhook(split: nn.Module, scope: Scope) -> None:
    """Take off the forward hook that conversion put on the split."""
    for key, hook in list(split._forward_hooks.items()):
        if getattr(hook, "__self__", None) is scope:
            del split._forward_hooks[key]

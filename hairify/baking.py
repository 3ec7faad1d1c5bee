"""Baking: the static network that a HairModel is for one GIV."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify.copying import copy_model
from hairify.layers import HyperLayer, make_ordinary
from hairify.scope import Hyper, Scope


def bake(base: nn.Module, scope: Scope, hyper: Hyper, giv: Tensor) -> nn.Module:
    """A copy of the base network in which every hyper layer owns the weights that `giv` selects.

    Args:
        base: the base network of a HairModel; left as it is.
        scope: the HairModel's; layers of another HairModel within the base stay as they are.
        hyper: the HairModel's parts.
        giv: shape (1, D).

    Returns:
        A module of the base's class, in its mode.
    """
    model = copy_model(base)
    layers = [
        layer
        for mine, layer in zip(base.modules(), model.modules(), strict=True)
        if isinstance(mine, HyperLayer) and isinstance(layer, HyperLayer) and mine.hair_slot.scope is scope
    ]
    unhook(model.get_submodule(scope.split), layers[0].hair_slot.scope)
    with torch.no_grad():
        selecting = [hsn(giv) for hsn in hyper.hsn]
        for layer in layers:
            slot, box = layer.hair_slot, hyper.boxes[layer.hair_slot.level]
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

"""Baking: the static network that a HairModel is for one GIV."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.torch_internals import forward_hooks
from hairify.nn._checkpointing import stop_checkpointing
from hairify.nn._context import Hypernetwork, Scope
from hairify.nn._layers import HyperLayer, make_ordinary


def bake(base: nn.Module, scope: Scope, hypernetwork: Hypernetwork, giv: Tensor) -> nn.Module:
    """A copy of the base network in which every hyper layer owns the weights that `giv` selects.

    Args:
        base: the base network of a HairModel; left as it is.
        scope: the HairModel's; layers of another HairModel within the base stay as they are.
        hypernetwork: the HairModel's parts.
        giv: shape (1, D).

    Returns:
        A module of the base's class, in its mode.
    """
    with torch.inference_mode(False), torch.enable_grad():  # the result can be trained wherever it was made
        model = copy_model(base)
        layers = [
            layer
            for mine, layer in zip(base.modules(), model.modules(), strict=True)
            if isinstance(mine, HyperLayer) and isinstance(layer, HyperLayer) and mine.hair_slot.scope is scope
        ]
        copied_scope = layers[0].hair_slot.scope
        unhook(model.get_submodule(scope.split), copied_scope)
        stop_checkpointing(model, copied_scope)
        selecting = [hsn(giv.detach().clone()).detach() for hsn in hypernetwork.hsn]
        for layer in layers:
            slot = layer.hair_slot
            weight, bias = hypernetwork.boxes[slot.level](slot.entry, selecting[slot.level][:, slot.block], slot.block)
            make_ordinary(layer, {"weight": _parameter(weight), "bias": None if bias is None else _parameter(bias)})
    return model


def _parameter(generated: Tensor) -> nn.Parameter:
    """The weights of the one image, trained where the rows are that they come from."""
    return nn.Parameter(generated[0].detach().clone(), requires_grad=generated.requires_grad)


def unhook(split: nn.Module, scope: Scope) -> None:
    """Take off the forward hook that conversion put on the split."""
    hooks = forward_hooks(split)
    for key, hook in list(hooks.items()):
        if getattr(hook, "__self__", None) is scope:
            del hooks[key]

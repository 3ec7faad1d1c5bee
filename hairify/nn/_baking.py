"""Baking: the static network that a HairModel is for one GIV."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.torch_internals import forward_hooks
from hairify.nn._checkpointing import stop_checkpointing
from hairify.nn._context import ForwardContext, Hypernetwork
from hairify.nn._layers import HyperLayer, make_ordinary


def bake(base: nn.Module, context: ForwardContext, hypernetwork: Hypernetwork, giv: Tensor) -> nn.Module:
    """A copy of the base network in which every hyper layer owns the weights that `giv` selects.

    Args:
        base: the base network of a HairModel; left as it is.
        context: the HairModel's; layers of another HairModel within the base stay as they are.
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
            if isinstance(mine, HyperLayer) and isinstance(layer, HyperLayer) and mine.hair_address.context is context
        ]
        copied_context = layers[0].hair_address.context
        unhook(model, copied_context)
        stop_checkpointing(model, copied_context)
        with context.observing(base, hypernetwork):
            selecting = [vectors.detach() for vectors in hypernetwork.selecting_vectors(giv.detach().clone())]
            for layer in layers:
                address = layer.hair_address
                vectors = selecting[address.level][:, address.block]
                weight, bias = hypernetwork.boxes[address.level](address.layer_name, vectors, address.block)
                make_ordinary(layer, {"weight": _parameter(weight), "bias": None if bias is None else _parameter(bias)})
    return model


def _parameter(generated: Tensor) -> nn.Parameter:
    """The weights of the one image, trained where the rows are that they come from."""
    return nn.Parameter(generated[0].detach().clone(), requires_grad=generated.requires_grad)


def unhook(model: nn.Module, context: ForwardContext) -> None:
    """Take off the forward hooks that conversion put on modules of the network."""
    for hooks in map(forward_hooks, model.modules()):
        for key, hook in list(hooks.items()):
            if getattr(hook, "__self__", None) is context:
                del hooks[key]

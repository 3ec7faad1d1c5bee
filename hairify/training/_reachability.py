"""What gradients reach: parameters, but for those of layers that are never called, and what makes the GIV."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.training._losses import Loss


def unreached(network: nn.Module, loss: Loss, degraded: Tensor, clean: Tensor) -> list[str]:
    """Names of the trainable parameters that get no gradient.

    DistributedDataParallel waits for the gradients of all of them. Found by one forward and backward pass on a copy.

    Args:
        network: left as it is.
        loss: what it is trained with.
        degraded: (B, 3, H, W) in [0, 1].
        clean: of the same shape and range.
    """
    copy = copy_model(network)
    with torch.enable_grad():
        value = loss(copy, degraded, clean).mean()
        if value.requires_grad:
            value.backward()
    return [name for name, parameter in copy.named_parameters() if parameter.requires_grad and parameter.grad is None]


def teaches_giv(network: HairModel | ConditionalEmbedding, loss: Loss, degraded: Tensor, clean: Tensor) -> bool:
    """Whether a loss on the GIVs of a step's images would train anything. Found by one forward pass on a copy.

    Args:
        network: left as it is.
        loss: what it is trained with.
        degraded: (B, 3, H, W) in [0, 1].
        clean: of the same shape and range.
    """
    copy = copy_model(network)
    givs: list[Tensor] = []
    copy.standardization.register_forward_hook(lambda module, args, giv: givs.append(giv))
    with torch.enable_grad():
        loss(copy, degraded, clean)
    return bool(givs) and givs[0].requires_grad and len(givs[0]) == len(degraded)

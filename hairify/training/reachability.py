"""Parameters that no loss reaches: of layers that a network has, but never calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify.copying import copy_model
from hairify.training.losses import Loss


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

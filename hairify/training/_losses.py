"""What training brings down."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from hairify.models import AirNet
from hairify.networks._running import apply, original_of

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A network, degraded and clean images (B, 3, H, W) in [0, 1] → the loss of each image (B,). It may call the network
as often as it needs to, and use its attributes."""

_CONTRAST = 0.1  # the contrast's weight, as published


def l1_loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
    """The mean absolute error of each restored image, as in the paper's section 4.

    Args:
        network: runs on images (B, 3, H, W), see `hairify.networks.apply`.
        degraded: (B, 3, H, W) in [0, 1].
        clean: of the same shape and range.

    Returns:
        (B,).

    Raises:
        NetworkError: the network does not return images of that shape.
    """
    return (apply(network, degraded) - clean).abs().mean(dim=(1, 2, 3))


def airnet_loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
    """AirNet's: the absolute error of one patch of each image, and its contrast with another patch of the same image.

    The patches are the upper left and the lower right three quarters of an image, so that they overlap.

    Args:
        network: an AirNet, converted or not. In evaluation mode it makes no contrast: the loss is the error alone.
        degraded: (B, 3, H, W) in [0, 1].
        clean: of the same shape and range.

    Returns:
        (B,).
    """
    height, width = (side * 3 // 4 for side in degraded.shape[2:])
    query, key = degraded[..., :height, :width], degraded[..., -height:, -width:]
    output = network(query, key)
    restored = output if isinstance(output, Tensor) else output[0]
    error = (restored - clean[..., :height, :width]).abs().mean(dim=(1, 2, 3))
    if isinstance(output, Tensor):
        return error
    _, logits, labels = output
    return error + _CONTRAST * F.cross_entropy(logits, labels, reduction="none")


def loss_for(network: nn.Module) -> Loss:
    """The loss with which a network is trained: AirNet's own, and `l1_loss` for all others."""
    return airnet_loss if isinstance(original_of(network), AirNet) else l1_loss

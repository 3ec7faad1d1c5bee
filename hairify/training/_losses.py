"""What training brings down."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from hairify.models import AirNet
from hairify.networks._running import apply, original_of
from hairify.training._image_losses import NamedLoss, image_loss, l1

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
    return l1(apply(network, degraded), clean)


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


def loss_named(name: str | None, network: nn.Module, *, of_each_image: bool = False) -> Loss:
    """The loss of that name, see `TrainingSettings.loss`.

    Args:
        name: None for `loss_for(network)`.
        network: that is to be trained.
        of_each_image: refuse a function of the user's that returns one number for all images.

    Raises:
        OptionError: there is none.
    """
    return loss_for(network) if name is None else image_loss(name, of_each_image=of_each_image)


def is_own(loss: Loss, network: nn.Module) -> bool:
    """Whether a loss is one of hairify's by which a network may be trained, which run it once on the images."""
    return loss is loss_for(network) or (isinstance(loss, NamedLoss) and loss.is_own)

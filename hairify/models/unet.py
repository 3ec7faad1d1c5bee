"""A plain U-Net: nothing published, but small enough to be trained in minutes without a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unet(*, width: int = 12) -> UNet:
    """A plain U-Net after Ronneberger et al. (MICCAI 2015); with the default it has 66,015 parameters.

    It maps (B, 3, H, W), both sides multiples of 4, to the same shape, and starts near the identity.

    Args:
        width: channels at full resolution; twice and four times as many at a half and a quarter of it.
    """
    return UNet(width)


class UNet(nn.Module):
    """Two 3×3 convolutions at each of three resolutions, pooling, concatenated skips; made by `unet`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.pool = nn.MaxPool2d(2)
        self.down1, self.down2, self.bottom = _two(3, w), _two(w, 2 * w), _two(2 * w, 4 * w)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.merge2, self.merge1 = _two(4 * w, 2 * w), _two(2 * w, w)
        self.last = nn.Conv2d(w, 3, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # there are no norms: PyTorch's own start fades from layer to layer
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # so that it starts near the identity

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), both sides multiples of 4, to the same shape."""
        fine = self.down1(image)
        middle = self.down2(self.pool(fine))
        x = self.up2(self.bottom(self.pool(middle)))
        x = self.up1(self.merge2(torch.cat([x, middle], 1)))
        return image + self.last(self.merge1(torch.cat([x, fine], 1)))


def _two(incoming: int, outgoing: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, 3, padding=1), nn.GELU(), nn.Conv2d(outgoing, outgoing, 3, padding=1), nn.GELU()
    )

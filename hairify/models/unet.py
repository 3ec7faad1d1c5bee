"""A plain U-Net: nothing published, but small enough to be trained in minutes without a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unet(*, width: int = 12) -> UNet:
    """A plain U-Net of residual blocks at three resolutions; with the default it has 79,923 parameters.

    It maps (B, 3, H, W), both sides multiples of 4, to the same shape, and starts near the identity. It has neither
    norms nor attention nor pooling, so nothing in it sees a whole image.

    Args:
        width: channels at full resolution; twice and four times as many at a half and a quarter of it.
    """
    return UNet(width)


class UNet(nn.Module):
    """A residual block at each of five places, strided convolutions between them, added skips; made by `unet`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.first, self.last = nn.Conv2d(3, w, 3, padding=1), nn.Conv2d(w, 3, 3, padding=1)
        self.encoder1, self.encoder2, self.bottom = Block(w), Block(2 * w), Block(4 * w)
        self.down1, self.down2 = nn.Conv2d(w, 2 * w, 2, 2), nn.Conv2d(2 * w, 4 * w, 2, 2)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.decoder2, self.decoder1 = Block(2 * w), Block(w)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):  # no norm makes up for a start that fades
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():  # blocks and network start near the identity
            for residual in (self.last, *(m.second for m in self.modules() if isinstance(m, Block))):
                residual.weight.mul_(0.1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), both sides multiples of 4, to the same shape."""
        fine = self.encoder1(self.first(image))
        middle = self.encoder2(self.down1(fine))
        x = self.up2(self.bottom(self.down2(middle)))
        x = self.up1(self.decoder2(x + middle))
        return image + self.last(self.decoder1(x + fine))


class Block(nn.Module):
    """Two 3×3 convolutions, and around them the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.second(torch.relu(self.first(x)))

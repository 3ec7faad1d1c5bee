"""The networks that are measured: kinds that people restore images with, of usual widths and moderate depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.models import restormer


class LayerNorm2d(nn.Module):
    """Normalises the channels at each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b


class GatedBlock(nn.Module):
    """Gates in place of activations, pooled channel attention (Chen et al., NAFNet, ECCV 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.norm1, self.norm2, self.gate = LayerNorm2d(c), LayerNorm2d(c), SimpleGate()
        self.widen, self.narrow = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.depthwise = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.feed, self.back = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        # Trained scales: at zero, where training starts, half of the network would get no gradients.
        self.beta, self.gamma = (nn.Parameter(torch.full((1, c, 1, 1), 0.1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.depthwise(self.widen(self.norm1(x))))
        x = x + self.narrow(y * self.attention(y)) * self.beta
        return x + self.back(self.gate(self.feed(self.norm2(x)))) * self.gamma


class GatedUNet(nn.Module):
    """NAFNet-like.

    Args:
        width: channels at full resolution.
        encoders: blocks at each resolution on the way down.
        middle: blocks at the lowest.
        decoders: as `encoders`, on the way up.
    """

    def __init__(
        self, width: int = 32, encoders: Sequence[int] = (2, 2, 4), middle: int = 4, decoders: Sequence[int] = (2, 2, 2)
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.encoders, self.downs, self.ups, self.decoders = (nn.ModuleList() for _ in range(4))
        for blocks in encoders:
            self.encoders.append(nn.Sequential(*(GatedBlock(width) for _ in range(blocks))))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, 2))
            width *= 2
        self.middle = nn.Sequential(*(GatedBlock(width) for _ in range(middle)))
        for blocks in decoders:
            self.ups.append(nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(nn.Sequential(*(GatedBlock(width) for _ in range(blocks))))

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.first(image), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        return image + self.last(x)


WINDOW = 8


class WindowBlock(nn.Module):
    """Attention within windows, shifted in every second block, then an MLP (Liu et al., Swin, ICCV 2021)."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        c = channels
        self.heads, self.shift = heads, shift
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.position = nn.Parameter(torch.randn(heads, WINDOW**2, WINDOW**2) * 0.02)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same; the mask (windows, 64, 64) keeps apart what the shift brought together."""
        _, h, w, _ = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2)) if self.shift else self.norm1(x)
        y = from_windows(self.attend(to_windows(y), mask if self.shift else None), h, w)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.mlp(self.norm2(x))

    def attend(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(windows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.position
        if mask is not None:
            scores = (scores.unflatten(0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def to_windows(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B·windows, 64, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c).transpose(2, 3)
    return x.reshape(-1, WINDOW**2, c)


def from_windows(windows: Tensor, h: int, w: int) -> Tensor:
    """(B·windows, 64, C) to (B, H, W, C)."""
    x = windows.view(-1, h // WINDOW, w // WINDOW, WINDOW, WINDOW, windows.shape[2]).transpose(2, 3)
    return x.reshape(-1, h, w, windows.shape[2])


def shift_mask(like: Tensor) -> Tensor:
    """(windows, 64, 64) for (B, H, W, C): very negative between positions of different ends of the image."""

    def ends(length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place >= length - WINDOW).long() + (place >= length - WINDOW // 2).long()

    region = 3 * ends(like.shape[1])[:, None] + ends(like.shape[2])
    by_window = to_windows(region[None, :, :, None]).squeeze(2)
    return (by_window[:, None] != by_window[:, :, None]).to(like.dtype) * -100.0


class WindowGroup(nn.Module):
    def __init__(self, channels: int, heads: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(WindowBlock(channels, heads, (i % 2) * WINDOW // 2) for i in range(depth))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, mask)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class WindowNet(nn.Module):
    """SwinIR-like: groups of window attention blocks, each with a convolution, at constant resolution.

    Args:
        channels: of the features.
        heads: of the attention.
        groups: how many.
        depth: blocks in each.
    """

    def __init__(self, channels: int = 60, heads: int = 6, groups: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 3, 3, padding=1)
        self.groups = nn.ModuleList(WindowGroup(channels, heads, depth) for _ in range(groups))
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        feature = self.first(image)
        x = feature.permute(0, 2, 3, 1)
        mask = shift_mask(x)
        for group in self.groups:
            x = group(x, mask)
        return image + self.last(feature + self.norm(x).permute(0, 3, 1, 2))


class UNet(nn.Module):
    """The classic: two 3×3 convolutions at each resolution, pooling, transposed convolutions, concatenated skips.

    Args:
        widths: channels, from full resolution to the lowest.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        incoming = (3, *widths[:-2])
        self.downs = nn.ModuleList(double_conv(a, b) for a, b in zip(incoming, widths[:-1], strict=True))
        self.bottom = double_conv(widths[-2], widths[-1])
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.merges = nn.ModuleList(double_conv(2 * b, b) for _, b in pairs)
        self.last = nn.Conv2d(widths[0], 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, skips = image, []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for up, merge, skip in zip(self.ups, self.merges, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return image + self.last(x)


def double_conv(incoming: int, outgoing: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, 3, padding=1), nn.ReLU(), nn.Conv2d(outgoing, outgoing, 3, padding=1), nn.ReLU()
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "restormer-48": restormer,
    "restormer-24": partial(restormer, dim=24),
    "nafnet": GatedUNet,
    "swinir": WindowNet,
    "unet": UNet,
}

# For smoke runs.
TINY: dict[str, Callable[[], nn.Module]] = {
    "tiny-restormer": partial(restormer, dim=8, num_blocks=(1, 2, 1, 2), num_refinement_blocks=1),
    "tiny-nafnet": partial(GatedUNet, 8, (1, 1), 2, (1, 1)),
    "tiny-swinir": partial(WindowNet, 12, 2, 4, 2),
    "tiny-unet": partial(UNet, (8, 16, 32)),
}


def build(name: str) -> nn.Module:
    """A network by its name, with the same random weights each time."""
    torch.manual_seed(0)
    return (NETWORKS | TINY)[name]()

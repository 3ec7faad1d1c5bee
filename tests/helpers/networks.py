"""Small networks of the kinds that people restore images with, for the tests' matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.models import restormer


def small_restormer() -> nn.Module:
    return restormer(dim=8, num_blocks=(1, 2, 2, 3), num_refinement_blocks=2)


class UNet(nn.Module):
    """Plain: no repeated blocks, pooling by one shared module, skips by concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.pool = nn.MaxPool2d(2)
        self.down1, self.down2, self.down3 = double_conv(3, w), double_conv(w, 2 * w), double_conv(2 * w, 4 * w)
        self.middle = double_conv(4 * w, 4 * w)
        self.up3, self.up2, self.up1 = double_conv(8 * w, 2 * w), double_conv(4 * w, w), double_conv(2 * w, w)
        self.out = nn.Conv2d(w, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.down3(self.pool(b))
        y = F.interpolate(self.middle(self.pool(c)), scale_factor=2)
        y = F.interpolate(self.up3(torch.cat([y, c], 1)), scale_factor=2)
        y = F.interpolate(self.up2(torch.cat([y, b], 1)), scale_factor=2)
        return x + self.out(self.up1(torch.cat([y, a], 1)))


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
    )


class DnCNN(nn.Module):
    """A chain at constant resolution."""

    def __init__(self, depth: int = 7, width: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding="same", bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)


class NAFBlock(nn.Module):
    """Gates instead of activations, simple channel attention, residual branches scaled from zero."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv4, self.conv5 = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)
        self.norm1, self.norm2 = nn.GroupNorm(1, c), nn.GroupNorm(1, c)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv2(self.conv1(self.norm1(x))).chunk(2, dim=1)
        y = a * b
        x = x + self.conv3(y * self.sca(y)) * self.beta
        a, b = self.conv4(self.norm2(x)).chunk(2, dim=1)
        return x + self.conv5(a * b) * self.gamma


class NAFNet(nn.Module):
    def __init__(self, width: int = 8, scales: float = 0.0) -> None:
        super().__init__()
        self.intro, self.ending = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.encoders, self.downs, self.ups, self.decoders = (nn.ModuleList() for _ in range(4))
        for _ in range(2):
            self.encoders.append(nn.Sequential(NAFBlock(width), NAFBlock(width)))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, 2))
            width *= 2
        self.middle_blks = nn.Sequential(*(NAFBlock(width) for _ in range(3)))
        for _ in range(2):
            self.ups.append(nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(nn.Sequential(NAFBlock(width), NAFBlock(width)))

    def forward(self, image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        padded = F.pad(image, (0, -w % 4, 0, -h % 4))
        x, skips = self.intro(padded), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        return (self.ending(x) + padded)[..., :h, :w]


class WindowBlock(nn.Module):
    """Attention within shifted windows over tokens (B, H·W, C), then an MLP."""

    def __init__(self, c: int, shift: int) -> None:
        super().__init__()
        self.shift, self.window, self.heads = shift, 4, 2
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.position = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        (h, w), s = size, self.window
        b, _, c = x.shape
        assert (h % s, w % s) == (0, 0)
        y = torch.roll(self.norm1(x).view(b, h, w, c), (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).reshape(y.shape[0], s * s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        grid = torch.stack(
            torch.meshgrid(*[torch.arange(s, dtype=x.dtype, device=x.device)] * 2, indexing="ij"), -1
        ).view(-1, 2)
        bias = self.position(grid[:, None] - grid[None]).permute(2, 0, 1)
        y = ((q @ k.transpose(-2, -1)) / 4 + bias).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, s * s, c))
        y = y.view(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2)).view(b, h * w, c)
        return x + self.mlp(self.norm2(x))


class WindowGroup(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(WindowBlock(c, shift) for shift in (0, 2))
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, size)
        return x + self.conv(y.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)


class WindowNet(nn.Module):
    """A SwinIR-like network: groups of window attention blocks over tokens at constant resolution."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, 3, 3, padding=1)
        self.groups = nn.ModuleList(WindowGroup(c) for _ in range(4))
        self.norm = nn.LayerNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        f = self.first(x)
        size = (f.shape[2], f.shape[3])
        y = f.flatten(2).transpose(1, 2)
        for group in self.groups:
            y = group(y, size)
        return x + self.last(f + self.norm(y).transpose(1, 2).unflatten(2, size))


class TransposedUNet(nn.Module):
    """Strided and transposed convolutions, `output_size`, in-place activations and additions right after the split."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.enc1, self.enc2 = nn.Conv2d(3, w, 4, 2, 1), nn.Conv2d(w, 2 * w, 4, 2, 1)
        self.bottom = nn.Conv2d(2 * w, 4 * w, 4, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dec3 = nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1)
        self.dec2 = nn.ConvTranspose2d(2 * w, w, 4, 2, 1, groups=2, bias=False)
        self.dec1 = nn.ConvTranspose2d(w, w, 3, 2, 1, output_padding=1)
        self.fuse = nn.Conv2d(w, 3, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.enc1(x))
        b = self.relu(self.enc2(a))
        y = self.relu(self.bottom(b))
        y = self.dec3(y, output_size=b.shape[-2:])
        y += b
        y = self.dec2(self.relu(y))
        y += a
        return x + self.fuse(self.relu(self.dec1(y)))


class Chain(nn.Module):
    """head, split at half the resolution to feed the DAC, a body for each test to fill, and back."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.head, self.split = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.body = nn.ModuleList(body)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = layer(x)
        return x

    def forward(self, image: Tensor) -> Tensor:
        return image + F.pixel_shuffle(self.last(self.middle(self.split(self.head(image)))), 2)


class Tokens(nn.Module):
    """A linear layer over the positions of a map as tokens, and a convolution along their line."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.linear, self.line = nn.Linear(channels, channels), nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.gelu(self.linear(x.flatten(2).transpose(1, 2)))
        return x + self.line(tokens.transpose(1, 2)).unflatten(2, x.shape[2:])


def all_kinds() -> nn.Module:
    """Behind the split a layer of every kind: dense, pointwise, depthwise, grouped, dilated, strided, transposed."""
    return Chain(
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Sequential(nn.Conv2d(8, 16, 1), nn.GELU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.GELU(), nn.Conv2d(16, 8, 1, bias=False)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), nn.GELU()),
        nn.Sequential(nn.Conv2d(8, 16, 2, 2), nn.GELU(), nn.ConvTranspose2d(16, 8, 2, 2)),
        Tokens(),
    )


class Pooled(nn.Module):
    """A DAC that is quick."""

    def __init__(self, channels: int, giv_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, giv_dim)

    def forward(self, feature: Tensor) -> Tensor:
        return self.linear(feature.mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "restormer": small_restormer,
    "unet": UNet,
    "dncnn": DnCNN,
    "nafnet": NAFNet,
    "window": WindowNet,
    "transposed": TransposedUNet,
}

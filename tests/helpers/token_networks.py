"""Networks whose features are tokens (B, L, C), each with its own way to their grid of rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

C = 8


def to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *size)


class Block(nn.Sequential):
    def __init__(self, c: int = C) -> None:
        super().__init__(nn.LayerNorm(c), nn.Linear(c, c), nn.GELU(), nn.Linear(c, c))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + super().forward(tokens)


class OfTokens(nn.Module):
    """blocks.1, the split, returns tokens; `own` gets them as the map that the network itself makes of them."""

    def __init__(self, c: int = C) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(c, 3, 3, padding=1)
        self.blocks = nn.ModuleList(Block(c) for _ in range(4))
        self.own = nn.Identity()

    def body(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index == 1:
                self.own(to_map(tokens, size))
        return self.last(to_map(tokens, size))


def padded(x: Tensor, multiple: int) -> Tensor:
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple))


class Windows(OfTokens):
    """As SwinIR: the image is padded to whole windows; all positions are tokens, and maps again in between."""

    def forward(self, x: Tensor) -> Tensor:
        f = self.first(padded(x, 8))
        return x + self.body(to_tokens(f), (f.shape[2], f.shape[3]))[..., : x.shape[2], : x.shape[3]]


class PaddedLater(OfTokens):
    """The first map is padded by a function: no module returns one of the grid's size."""

    def forward(self, x: Tensor) -> Tensor:
        f = padded(self.first(x), 8)
        return x + self.body(to_tokens(f), (f.shape[2], f.shape[3]))[..., : x.shape[2], : x.shape[3]]


class Patches(OfTokens):
    """As ViT: a convolution embeds patches of 4, what is left over at the border is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, C, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        f = self.embed(x)
        return x + F.interpolate(self.body(to_tokens(f), (f.shape[2], f.shape[3])), size=x.shape[2:])


class StridedTwice(OfTokens):
    """Two convolutions of stride 2 round sides up, each."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, C, 3, 2, 1), nn.ReLU(), nn.Conv2d(C, C, 3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        f = self.down(x)
        return x + F.interpolate(self.body(to_tokens(f), (f.shape[2], f.shape[3])), size=x.shape[2:])


class Unfolded(OfTokens):
    """Patches of 4 are made by functions, and a linear layer embeds them: there is no map at all before the split."""

    def __init__(self, *, pads: bool) -> None:
        super().__init__()
        self.pads = pads
        self.first = nn.Linear(48, C)

    def forward(self, x: Tensor) -> Tensor:
        whole = padded(x, 4) if self.pads else x[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4]
        size = whole.shape[2] // 4, whole.shape[3] // 4
        patches = whole.unflatten(3, (size[1], 4)).unflatten(2, (size[0], 4)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        tokens = self.first(patches.flatten(1, 2))
        return x + F.interpolate(self.body(tokens, size), size=x.shape[2:])


class Merged(OfTokens):
    """As Swin: after windows of 8, four neighbours become one token, by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        f = self.first(padded(x, 8))
        tokens = self.merge(F.pixel_unshuffle(f, 2).flatten(2).transpose(1, 2))
        size = f.shape[2] // 2, f.shape[3] // 2
        return x + F.interpolate(self.body(tokens, size), scale_factor=2)[..., : x.shape[2], : x.shape[3]]


class ChannelsLast(OfTokens):
    """Maps are (B, h, w, C) before they are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, C)

    def forward(self, x: Tensor) -> Tensor:
        f = self.first(F.pixel_unshuffle(padded(x, 4), 2).permute(0, 2, 3, 1))
        y = self.body(f.flatten(1, 2), (f.shape[1], f.shape[2]))
        return x + F.interpolate(y, scale_factor=2)[..., : x.shape[2], : x.shape[3]]


class Listed(OfTokens):
    """A module returns sizes and several maps before the split."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, C, 3, 2, 1), nn.Conv2d(3, C, 1)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"coarse": self.a(x), "size": x.shape[2:], "fine": [self.b(padded(x, 16))]}

    def __init__(self) -> None:
        super().__init__()
        self.first = self.Pyramid()

    def forward(self, x: Tensor) -> Tensor:
        f = self.first(x)["fine"][0]
        return x + self.body(to_tokens(f), (f.shape[2], f.shape[3]))[..., : x.shape[2], : x.shape[3]]


class WithSize(OfTokens):
    """The image's size is an argument."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        f = self.first(F.pad(x, (0, -width % 8, 0, -height % 8)))
        return x + self.body(to_tokens(f), (height + -height % 8, width + -width % 8))[..., :height, :width]


class Downsampled(OfTokens):
    """Of a fixed number of positions, whatever the image."""

    def forward(self, x: Tensor) -> Tensor:
        f = F.adaptive_avg_pool2d(self.first(x), (8, 12))
        return x + F.interpolate(self.body(to_tokens(f), (8, 12)), size=x.shape[2:])


class OfOneSize(OfTokens):
    """Takes images of 64×96 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(C, 64, 96) / 10)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(to_tokens(self.first(x) + self.place), (64, 96))


ANY_SIZE: dict[str, Callable[[], OfTokens]] = {
    "windows": Windows,
    "padded later": PaddedLater,
    "patches": Patches,
    "strided twice": StridedTwice,
    "patches by functions, padded": lambda: Unfolded(pads=True),
    "patches by functions, cut off": lambda: Unfolded(pads=False),
    "merged": Merged,
    "channels last": ChannelsLast,
    "listed": Listed,
}


class Where(nn.Module):
    """A DAC that sees how its map is arranged, and is quick."""

    def __init__(self, channels: int, giv_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * channels, giv_dim)

    def forward(self, feature: Tensor) -> Tensor:
        first_row, first_column = feature[:, :, 0].mean(2), feature[:, :, :, 0].mean(2)
        return self.linear(torch.cat([feature.mean((2, 3)), first_row, first_column], 1))

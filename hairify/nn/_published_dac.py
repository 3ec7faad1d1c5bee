"""The published Degradation-Aware Classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

DEFAULT_WIDTH = 40

_STAGES = 3

_BLOCKS_PER_STAGE = 3

_MOST_GROUPS = 24

_LEAST_SIDE = 2  # of what a downsampling returns


class DegradationAwareClassifier(nn.Module):
    """The published DAC (paper, section 3.1.1 and equations 1 and 2, in the form its authors released).

    A 3×3 convolution to `width` channels, three stages of three residual blocks with a downsampling after
    the first two, a residual block, spatial self-attention and a residual block, then a 3×3 convolution to
    `giv_dim` channels and the global average.

    Downsampling never returns less than 2×2, so any feature from 1×1 up is accepted. (A width of 24 or
    less has groups of one channel, as published, and so needs two positions to normalise over.)

    Args:
        in_channels: channels of F_g.
        giv_dim: D, the length of the GIV.
        width: channels inside.
    """

    def __init__(self, in_channels: int, giv_dim: int, width: int = DEFAULT_WIDTH) -> None:
        super().__init__()
        self.in_channels, self.giv_dim, self.width = in_channels, giv_dim, width
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down = nn.ModuleList(_Stage(width, downsample=i < _STAGES - 1) for i in range(_STAGES))
        self.mid = _Middle(width)
        self.norm_out = _group_norm(width)
        self.conv_out = nn.Conv2d(width, giv_dim, 3, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map F_g of shape (B, C, H, W), H and W from 1 up, to the GIV of shape (B, D), of any real values."""
        x: Tensor = self.conv_in(feature)
        for stage in self.down:
            x = stage(x)
        x = self.mid(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x.mean(dim=(2, 3))


class _Stage(nn.Module):
    def __init__(self, width: int, *, downsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResidualBlock(width) for _ in range(_BLOCKS_PER_STAGE))
        self.downsample = _Downsample(width) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.downsample(x)


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W'), H' = max(H // 2, 2), W' = max(W // 2, 2).

        The published one pads by one below and to the right. So does this, as far as the convolution reads, and by
        more where a side is under 4: a rule without branches, and with H' and W' in the simplest form, which compilers
        keep for any size.
        """
        height, width = (2 * torch.sym_max(n // 2, _LEAST_SIDE) + 1 - n for n in x.shape[2:])
        return self.conv(F.pad(x, (0, width, 0, height)))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = _group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(width)
        self.attn_1 = _SpatialAttention(width)
        self.block_2 = _ResidualBlock(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _SpatialAttention(nn.Module):
    """Single-head self-attention over positions, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _group_norm(width)
        self.q, self.k, self.v, self.proj_out = (_Pointwise(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        positions = rearrange(self.norm(x), "b c h w -> b c (h w)")
        # With one head: ONNX does not know attention without.
        q, k, v = (rearrange(layer(positions), "b c n -> b 1 n c") for layer in (self.q, self.k, self.v))
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b 1 n c -> b c n")
        return x + self.proj_out(attended).reshape(x.shape)


class _Pointwise(nn.Conv2d):
    """A 1×1 convolution, as published, of positions in a row (B, C, L).

    After attention, these lie in memory in a way for which a map's convolution cannot be compiled with dynamic sizes
    (pytorch/pytorch#185510).
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.conv1d(input, self.weight.flatten(2), self.bias)


def _group_norm(width: int) -> nn.GroupNorm:
    groups = max(g for g in range(1, _MOST_GROUPS + 1) if width % g == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)

"""Restormer (Zamir et al., CVPR 2022), and its variant with the neck of the published Res-HAIR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hairify.errors import OptionError
from hairify.models._options import check_counts

torch.fx.wrap("rearrange")  # one node in a graph: it parses its pattern

NormKind: TypeAlias = Literal["WithBias", "BiasFree"]


def restormer(
    *,
    dim: int = 48,
    num_blocks: Sequence[int] = (4, 6, 6, 8),
    num_refinement_blocks: int = 4,
    heads: Sequence[int] = (1, 2, 4, 8),
    expansion: float = 2.66,
    norm: NormKind = "WithBias",
    hair_neck: bool = False,
) -> Restormer:
    """Restormer; with the defaults the published network of 26,126,644 parameters.

    Args:
        dim: C, the channels at full resolution.
        num_blocks: transformer blocks at levels 1 to 4.
        num_refinement_blocks: transformer blocks after the decoder.
        heads: attention heads at levels 1 to 4.
        expansion: hidden channels of the feed-forward network, relative to its input's.
        norm: "WithBias" subtracts the channel mean and adds a bias, "BiasFree" does neither.
        hair_neck: the slimmer neck of the published Res-HAIR: 8C → 4C before the first upsampling.

    Raises:
        OptionError: an argument has a value that is not accepted.
    """
    return Restormer(dim, tuple(num_blocks), num_refinement_blocks, tuple(heads), expansion, norm, hair_neck)


class FourLevels(nn.Module):
    """What Restormer and its relatives share: encoder, latent, decoder and refinement, by their published names.

    Args:
        neck: channels that the decoder gets in place of the latent's 8C.
        dim: see `restormer`, like what follows.

    Raises:
        OptionError: see `restormer`.
    """

    def __init__(
        self,
        neck: int,
        dim: int,
        num_blocks: tuple[int, ...],
        num_refinement_blocks: int,
        heads: tuple[int, ...],
        expansion: float,
        norm: NormKind,
    ) -> None:
        super().__init__()
        if len(num_blocks) != 4 or len(heads) != 4:
            raise OptionError(
                f"`num_blocks` and `heads` have one number for each of 4 levels; got {num_blocks} and {heads}."
            )
        check_counts(dim=dim, heads=heads)
        check_counts(0, num_blocks=num_blocks, num_refinement_blocks=num_refinement_blocks)
        if int(dim * expansion) < 1:
            raise OptionError(f"`expansion` is {expansion}; accepted is a number that leaves hidden channels.")
        if norm not in ("WithBias", "BiasFree"):
            raise OptionError(f"`norm` is {norm!r}; accepted are 'WithBias' and 'BiasFree'.")
        if any(dim * 2**level % h for level, h in enumerate(heads)):
            raise OptionError(
                f"`heads` {heads} must divide the channels {[dim * 2**i for i in range(4)]} of their levels."
            )

        def blocks(channels: int, level: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(TransformerBlock(channels, heads[level], expansion, norm) for _ in range(count)))

        c1, c2, c3, c4 = (dim * 2**level for level in range(4))
        self.patch_embed = PatchEmbed(c1)
        self.encoder_level1 = blocks(c1, 0, num_blocks[0])
        self.down1_2 = Downsample(c1)
        self.encoder_level2 = blocks(c2, 1, num_blocks[1])
        self.down2_3 = Downsample(c2)
        self.encoder_level3 = blocks(c3, 2, num_blocks[2])
        self.down3_4 = Downsample(c3)
        self.latent = blocks(c4, 3, num_blocks[3])
        self.up4_3 = Upsample(neck)
        self.reduce_chan_level3 = nn.Conv2d(neck // 2 + c3, c3, 1, bias=False)
        self.decoder_level3 = blocks(c3, 2, num_blocks[2])
        self.up3_2 = Upsample(c3)
        self.reduce_chan_level2 = nn.Conv2d(c3, c2, 1, bias=False)
        self.decoder_level2 = blocks(c2, 1, num_blocks[1])
        self.up2_1 = Upsample(c2)
        self.decoder_level1 = blocks(c2, 0, num_blocks[0])
        self.refinement = blocks(c2, 0, num_refinement_blocks)
        self.output = nn.Conv2d(c2, 3, 3, padding=1, bias=False)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to the features of levels 1 to 4: (B, C, H, W) to (B, 8C, H/8, W/8)."""
        level1 = self.encoder_level1(self.patch_embed(image))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        return level1, level2, level3, self.latent(self.down3_4(level3))

    def decode3(self, x: Tensor, skip: Tensor) -> Tensor:
        """The neck's output and the encoder's feature to (B, 4C, H/4, W/4)."""
        return self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), skip], 1)))

    def decode2(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, 4C, H/4, W/4) and the encoder's feature to (B, 2C, H/2, W/2)."""
        return self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), skip], 1)))

    def decode1(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, 2C, H/2, W/2) and the encoder's feature to what is added to the image, (B, 3, H, W)."""
        return self.output(self.refinement(self.decoder_level1(torch.cat([self.up2_1(x), skip], 1))))


class Restormer(FourLevels):
    """A four-level encoder-decoder of transformer blocks; made by `restormer`.

    Maps images (B, 3, H, W), H and W divisible by 8, to images of the same shape; the network's output is
    added to its input. Values are usually in [0, 1].
    """

    def __init__(
        self,
        dim: int,
        num_blocks: tuple[int, ...],
        num_refinement_blocks: int,
        heads: tuple[int, ...],
        expansion: float,
        norm: NormKind,
        hair_neck: bool,
    ) -> None:
        neck = 4 * dim if hair_neck else 8 * dim
        super().__init__(neck, dim, num_blocks, num_refinement_blocks, heads, expansion, norm)
        self.reduce_latent = nn.Conv2d(8 * dim, neck, 3, padding=1) if hair_neck else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), H and W divisible by 8, to the same shape."""
        level1, level2, level3, latent = self.encode(image)
        x = self.decode3(self.reduce_latent(latent), level3)
        return self.decode1(self.decode2(x, level2), level1) + image


class PatchEmbed(nn.Module):
    """The image to features: (B, 3, H, W) → (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class Downsample(nn.Module):
    """Half the resolution, twice the channels: (B, C, H, W) → (B, 2C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Twice the resolution, half the channels: (B, C, H, W) → (B, C/2, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class TransformerBlock(nn.Module):
    """Channel attention, then a gated feed-forward network, each normalised before and added to its input."""

    def __init__(self, channels: int, heads: int, expansion: float, norm: NormKind) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, norm)
        self.attn = Attention(channels, heads)
        self.norm2 = LayerNorm(channels, norm)
        self.ffn = FeedForward(channels, int(channels * expansion))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class LayerNorm(nn.Module):
    """Normalisation over the channels of each pixel; its parameters lie in `body`; shapes are kept."""

    def __init__(self, channels: int, norm: NormKind) -> None:
        super().__init__()
        self.body = WithBiasNorm(channels) if norm == "WithBias" else BiasFreeNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class WithBiasNorm(nn.Module):
    """(x − mean) / sqrt(var + 1e-5) · weight + bias over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-5)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class BiasFreeNorm(nn.Module):
    """x / sqrt(var + 1e-5) · weight over the channels of (B, C, H, W); the variance is still that about the mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        variance = torch.var(x, dim=1, correction=0, keepdim=True)
        return x / torch.sqrt(variance + 1e-5) * self.weight[:, None, None]


class Attention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA): attention between channels, linear in the number of pixels.

    Maps (B, C, H, W) to the same shape.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, channels * 3, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(channels * 3, channels * 3, 3, padding=1, groups=channels * 3, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv_dwconv(self.qkv(x))
        q, k, v = rearrange(qkv, "b (qkv heads c) h w -> qkv b heads c (h w)", qkv=3, heads=self.heads).unbind()
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        merged = rearrange(attention @ v, "b heads c (h w) -> b (heads c) h w", h=x.shape[2], w=x.shape[3])
        return self.project_out(merged)


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network (GDFN): (B, C, H, W) → the same shape."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, hidden * 2, 1, bias=False)
        self.dwconv = nn.Conv2d(hidden * 2, hidden * 2, 3, padding=1, groups=hidden * 2, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)

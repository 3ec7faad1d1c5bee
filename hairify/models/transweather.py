"""TransWeather (Valanarasu et al., CVPR 2022): a transformer encoder, a decoder with learned queries, convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hairify.errors import OptionError
from hairify.models._options import check_counts

_EMBED_EPS = 1e-5  # of the norms in patch embeddings and in spatial reduction
_BLOCK_EPS = 1e-6  # of the norms in and after blocks


def transweather(
    *,
    dims: Sequence[int] = (64, 128, 320, 512),
    heads: Sequence[int] = (1, 2, 4, 4),
    depths: Sequence[int] = (2, 2, 2, 2),
    decoder_heads: int = 8,
    decoder_depth: int = 3,
    queries: int = 48,
    drop_path: float = 0.1,
) -> TransWeather:
    """TransWeather; with the defaults the published network of 38,052,078 parameters.

    Args:
        dims: channels of the encoder's four stages, at 1/4 to 1/32 of the resolution.
        heads: attention heads of these stages.
        depths: blocks of these stages.
        decoder_heads: attention heads of the decoder.
        decoder_depth: blocks of the decoder.
        queries: the number of learned task queries.
        drop_path: the largest probability of leaving out a residual branch of an image in training; in encoder and
            decoder it rises from 0 with the depth.

    Raises:
        OptionError: an argument has a value that is not accepted.
    """
    if not len(dims) == len(heads) == len(depths) == 4:
        raise OptionError(
            f"`dims`, `heads` and `depths` have one number for each of 4 stages; got {dims}, {heads}, {depths}."
        )
    check_counts(dims=dims, heads=heads, depths=depths)
    check_counts(decoder_heads=decoder_heads, decoder_depth=decoder_depth, queries=queries)
    if any(dim % h for dim, h in zip((*dims, dims[3]), (*heads, decoder_heads), strict=True)):
        raise OptionError(
            f"`heads` {tuple(heads)} and `decoder_heads` {decoder_heads} must divide the `dims` {tuple(dims)} of their "
            "stages."
        )
    if not 0 <= drop_path < 1:
        raise OptionError(f"`drop_path` is {drop_path}; accepted is a probability below 1.")
    return TransWeather(tuple(dims), tuple(heads), tuple(depths), decoder_heads, decoder_depth, queries, drop_path)


class TransWeather(nn.Module):
    """Encoder `Tenc`, decoder `Tdec`, convolution tail; made by `transweather`.

    Maps images (B, 3, H, W), H and W multiples of 16 from 48 up, to images of the same shape with values in (-1, 1).
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        heads: tuple[int, ...],
        depths: tuple[int, ...],
        decoder_heads: int,
        decoder_depth: int,
        queries: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.Tenc = Encoder(dims, heads, depths, drop_path)
        self.Tdec = Decoder(dims[3], decoder_heads, decoder_depth, queries, drop_path)
        self.convtail = ConvTail(dims)
        self.clean = Conv(nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), H and W multiples of 16 from 48 up, to the same shape."""
        maps = self.Tenc(image)
        return self.clean(self.convtail(self.Tdec(maps[-1]), maps)).tanh()


class Encoder(nn.Module):
    """A mix transformer of four stages; beside the first three runs a block on smaller patches.

    Maps images (B, 3, H, W) to four features, at 1/4, 1/8, 1/16 and 1/32 of the resolution.
    """

    def __init__(
        self, dims: tuple[int, ...], heads: tuple[int, ...], depths: tuple[int, ...], drop_path: float
    ) -> None:
        super().__init__()
        d1, d2, d3, d4 = dims
        rates = iter(_rising(drop_path, sum(depths)))
        of_stages = [list(itertools.islice(rates, depth)) for depth in depths]

        def blocks(stage: int, reduction: int) -> nn.ModuleList:
            return nn.ModuleList(Block(dims[stage], heads[stage], 2, reduction, rate) for rate in of_stages[stage])

        def beside(stage: int, heads: int, reduction: int) -> nn.ModuleList:
            return nn.ModuleList([Block(dims[stage + 1], heads, 2, reduction, of_stages[stage][-1])])

        self.patch_embed1, self.patch_embed2 = PatchEmbed(3, d1, 7, 4), PatchEmbed(d1, d2, 3, 2)
        self.patch_embed3, self.patch_embed4 = PatchEmbed(d2, d3, 3, 2), PatchEmbed(d3, d4, 3, 2)
        self.block1, self.block2, self.block3, self.block4 = blocks(0, 4), blocks(1, 2), blocks(2, 2), blocks(3, 1)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim, _BLOCK_EPS) for dim in dims)

        self.mini_patch_embed1, self.mini_patch_embed2 = PatchEmbed(d1, d2, 3, 2), PatchEmbed(d2, d3, 3, 2)
        self.mini_patch_embed3 = PatchEmbed(d3, d4, 3, 2)
        self.mini_patch_embed4 = PatchEmbed(d1, d4, 3, 2)  # never called; the published checkpoint holds it
        self.patch_block1, self.patch_block2, self.patch_block3 = beside(0, 1, 4), beside(1, 2, 2), beside(2, 2, 2)
        self.pnorm1, self.pnorm2, self.pnorm3 = (nn.LayerNorm(dim, _BLOCK_EPS) for dim in dims[1:])

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed1(image)
        small = _on_tokens(self.mini_patch_embed1(x), self.patch_block1, self.pnorm1)
        map1 = _on_tokens(x, self.block1, self.norm1)
        x = self.patch_embed2(map1) + small
        small = _on_tokens(self.mini_patch_embed2(x), self.patch_block2, self.pnorm2)
        map2 = _on_tokens(x, self.block2, self.norm2)
        x = self.patch_embed3(map2) + small
        small = _on_tokens(self.mini_patch_embed3(x), self.patch_block3, self.pnorm3)
        map3 = _on_tokens(x, self.block3, self.norm3)
        x = self.patch_embed4(map3) + small
        return [map1, map2, map3, _on_tokens(x, self.block4, self.norm4)]


class Decoder(nn.Module):
    """Blocks whose attention asks learned queries: (B, C, h, w) → (B, C, ⌈h/2⌉, ⌈w/2⌉)."""

    def __init__(self, dim: int, heads: int, depth: int, queries: int, drop_path: float) -> None:
        super().__init__()
        rates = _rising(drop_path, max(depth, 16))  # as published: for more blocks than there are
        self.patch_embed1 = PatchEmbed(dim, dim, 3, 2)
        self.block1 = nn.ModuleList(Block(dim, heads, 4, 1, rates[i], queries) for i in range(depth))
        self.norm1 = nn.LayerNorm(dim, _BLOCK_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return _on_tokens(self.patch_embed1(x), self.block1, self.norm1)


def _rising(largest: float, count: int) -> list[float]:
    """`count` drop-path rates from 0 to the largest."""
    return [largest * i / max(count - 1, 1) for i in range(count)]


def _on_tokens(x: Tensor, blocks: Iterable[nn.Module], norm: nn.Module) -> Tensor:
    """Run blocks and a norm on the pixels of a map (B, C, h, w) as tokens (B, h·w, C); a map again."""
    height, width = x.shape[2:]
    tokens = _as_tokens(x)
    for block in blocks:
        tokens = block(tokens, height, width)
    return _as_map(norm(tokens), height, width)


def _as_tokens(x: Tensor) -> Tensor:
    return rearrange(x, "b c h w -> b (h w) c")


def _as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    return rearrange(tokens, "b (h w) c -> b c h w", h=height, w=width)


class PatchEmbed(nn.Module):
    """Overlapping patches, normalised: (B, C, H, W) → (B, out, ⌈H/stride⌉, ⌈W/stride⌉)."""

    def __init__(self, channels: int, out: int, size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, out, size, stride, padding=size // 2)
        self.norm = nn.LayerNorm(out, _EMBED_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return _on_tokens(self.proj(x), (), self.norm)


class Block(nn.Module):
    """Attention, then a feed-forward network, each normalised before and added to its input.

    Maps tokens (B, h·w, C) to the same shape, like all that follows.

    Args:
        dim: C.
        heads: of the attention.
        ratio: hidden channels of the feed-forward network, relative to C.
        reduction: by which keys and values have a lower resolution.
        drop_path: probability of leaving a branch out.
        queries: the number of learned queries; None to take the tokens themselves.
    """

    def __init__(
        self, dim: int, heads: int, ratio: int, reduction: int, drop_path: float, queries: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, _BLOCK_EPS)
        self.attn = Attention(dim, heads, reduction) if queries is None else QueryAttention(dim, heads, queries)
        self.norm2 = nn.LayerNorm(dim, _BLOCK_EPS)
        self.mlp = FeedForward(dim, ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves out a residual branch of an image with a probability."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.probability
        return x * kept / (1 - self.probability)


class Attention(nn.Module):
    """Attention of every token to tokens of a lower resolution."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.sr: nn.Module | None = None
        if reduction > 1:
            self.sr, self.norm = nn.Conv2d(dim, dim, reduction, reduction), nn.LayerNorm(dim, _EMBED_EPS)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        q, reduced = self.q(x), x
        if self.sr is not None:
            reduced = self.norm(_as_tokens(self.sr(_as_map(x, height, width))))
        q, k, v = (_split(t, self.heads) for t in (q, *self.kv(reduced).chunk(2, -1)))
        return self.proj(_merge(F.scaled_dot_product_attention(q, k, v)))


class QueryAttention(nn.Module):
    """Attention whose queries are learned and the same for every image."""

    def __init__(self, dim: int, heads: int, queries: int) -> None:
        super().__init__()
        self.heads = heads
        self.task_query = nn.Parameter(torch.randn(1, queries, dim))
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        q, k, v = (_split(t, self.heads) for t in (self.q(self.task_query), *self.kv(x).chunk(2, -1)))
        q = F.interpolate(q, size=v.shape[-2:]).expand(len(x), -1, -1, -1)  # as many queries as tokens
        return self.proj(_merge(F.scaled_dot_product_attention(q, k, v)))


def _split(tokens: Tensor, heads: int) -> Tensor:
    return rearrange(tokens, "b n (heads c) -> b heads n c", heads=heads)


def _merge(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "b heads n c -> b n (heads c)")


class FeedForward(nn.Module):
    """Two linear layers with a depthwise convolution and GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dwconv = DepthwiseConv(hidden)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), height, width)))


class DepthwiseConv(nn.Module):
    """A depthwise 3×3 convolution of tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return _as_tokens(self.dwconv(_as_map(x, height, width)))


class ConvTail(nn.Module):
    """From the decoder's output up to the image's resolution, the encoder's features added on the way.

    Maps (B, C, H/64, W/64) and four features to (B, 8, H, W).
    """

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        d1, d2, d3, d4 = dims
        self.convd32x, self.convd16x, self.convd8x = _upsample(d4, d4), _upsample(d4, d3), _upsample(d3, d2)
        self.convd4x, self.convd2x, self.convd1x = _upsample(d2, d1), _upsample(d1, 16), _upsample(16, 8)
        self.dense_4, self.dense_3, self.dense_2, self.dense_1 = (
            nn.Sequential(ResidualBlock(dim)) for dim in (d3, d2, d1, 16)
        )
        self.conv_output = Conv(nn.Conv2d(8, 3, 3, padding=1))  # never called; the published checkpoint holds it

    def forward(self, x: Tensor, maps: list[Tensor]) -> Tensor:
        map1, map2, map3, map4 = maps
        x = _cropped(self.convd32x(x), map4) + map4
        x = self.dense_4(_cropped(self.convd16x(x), map3)) + map3
        x = self.dense_3(self.convd8x(x)) + map2
        x = self.dense_2(self.convd4x(x)) + map1
        return self.convd1x(self.dense_1(self.convd2x(x)))


def _upsample(channels: int, out: int) -> Conv:
    """Twice the resolution."""
    return Conv(nn.ConvTranspose2d(channels, out, 4, 2, padding=1))


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    """Without the last row or column where a size was odd before it was halved."""
    return x[:, :, : like.shape[2], : like.shape[3]]


class Conv(nn.Module):
    """Holds a convolution under its published name."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv2d = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d(x)


class ResidualBlock(nn.Module):
    """x + 0.1 · conv(relu(conv(x))); (B, C, H, W) → the same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (Conv(nn.Conv2d(dim, dim, 3, padding=1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.conv2(self.conv1(x).relu())

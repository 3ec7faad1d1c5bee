"""PromptIR (Potlapalli et al., NeurIPS 2023): Restormer's blocks, with learned prompts in the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.errors import OptionError
from hairify.models._options import check_counts
from hairify.models.restormer import FourLevels, NormKind, TransformerBlock

_PROMPTS = 5
_UNUSED = 256  # channels of a layer that is never called


def promptir(
    *,
    dim: int = 48,
    num_blocks: Sequence[int] = (4, 6, 6, 8),
    num_refinement_blocks: int = 4,
    heads: Sequence[int] = (1, 2, 4, 8),
    expansion: float = 2.66,
    norm: NormKind = "WithBias",
    prompt_dims: Sequence[int] = (64, 128, 320),
    prompt_sizes: Sequence[int] = (64, 32, 16),
) -> PromptIR:
    """PromptIR with its prompts; with the defaults the published network of 35,592,263 parameters.

    Args:
        dim: see `restormer`.
        num_blocks: see `restormer`.
        num_refinement_blocks: see `restormer`.
        heads: see `restormer`.
        expansion: see `restormer`.
        norm: see `restormer`.
        prompt_dims: channels of the prompts at decoder levels 1 to 3.
        prompt_sizes: side of these prompts in pixels, before they are resized to the feature.

    Raises:
        OptionError: an argument has a value that is not accepted.
    """
    dims, sizes = tuple(prompt_dims), tuple(prompt_sizes)
    if len(dims) != 3 or len(sizes) != 3:
        raise OptionError(
            f"`prompt_dims` and `prompt_sizes` have one number for each of 3 levels; got {dims}, {sizes}."
        )
    check_counts(prompt_dims=dims, prompt_sizes=sizes)
    return PromptIR(dim, tuple(num_blocks), num_refinement_blocks, tuple(heads), expansion, norm, dims, sizes)


class PromptIR(FourLevels):
    """A four-level encoder-decoder of transformer blocks with prompts; made by `promptir`.

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
        prompt_dims: tuple[int, ...],
        prompt_sizes: tuple[int, ...],
    ) -> None:
        super().__init__(4 * dim, dim, num_blocks, num_refinement_blocks, heads, expansion, norm)
        p1, p2, p3 = prompt_dims
        channels = 2 * dim + p1, 4 * dim + p2, 8 * dim + p3
        if any(c % heads[2] for c in channels):
            raise OptionError(
                f"`heads[2]` is {heads[2]}; it must divide the channels {channels} of the features with their prompts."
            )

        def prompt(level: int, feature: int) -> PromptBlock:
            return PromptBlock(feature, prompt_dims[level], prompt_sizes[level])

        def block(level: int) -> TransformerBlock:
            return TransformerBlock(channels[level], heads[2], expansion, norm)

        def reduce(level: int, out: int) -> nn.Conv2d:
            return nn.Conv2d(channels[level], out, 1, bias=False)

        self.prompt1, self.prompt2, self.prompt3 = prompt(0, 2 * dim), prompt(1, 4 * dim), prompt(2, 8 * dim)
        self.noise_level1, self.noise_level2, self.noise_level3 = block(0), block(1), block(2)
        self.reduce_noise_level1, self.reduce_noise_level2 = reduce(0, 2 * dim), reduce(1, 4 * dim)
        self.reduce_noise_level3 = reduce(2, 4 * dim)
        # Never called; the published checkpoint holds them.
        self.chnl_reduce1, self.chnl_reduce2 = nn.Conv2d(p1, p1, 1, bias=False), nn.Conv2d(p2, p2, 1, bias=False)
        self.chnl_reduce3 = nn.Conv2d(p3, _UNUSED, 1, bias=False)
        self.reduce_noise_channel_1 = nn.Conv2d(dim + p1, dim, 1, bias=False)
        self.reduce_noise_channel_2 = nn.Conv2d(2 * dim + p2, 2 * dim, 1, bias=False)
        self.reduce_noise_channel_3 = nn.Conv2d(4 * dim + _UNUSED, 4 * dim, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), H and W divisible by 8, to the same shape."""
        level1, level2, level3, x = self.encode(image)
        x = self.reduce_noise_level3(self.noise_level3(torch.cat([x, self.prompt3(x)], 1)))
        x = self.decode3(x, level3)
        x = self.reduce_noise_level2(self.noise_level2(torch.cat([x, self.prompt2(x)], 1)))
        x = self.decode2(x, level2)
        x = self.reduce_noise_level1(self.noise_level1(torch.cat([x, self.prompt1(x)], 1)))
        return self.decode1(x, level1) + image


class PromptBlock(nn.Module):
    """A mixture of learned prompts, weighed by the feature: (B, C, H, W) → (B, dim, H, W)."""

    def __init__(self, channels: int, dim: int, size: int) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, _PROMPTS, dim, size, size))
        self.linear_layer = nn.Linear(channels, _PROMPTS)
        self.conv3x3 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.linear_layer(x.mean((2, 3))).softmax(-1)  # (B, 5)
        prompt = torch.einsum("bn,ncij->bcij", weights, self.prompt_param[0])
        return self.conv3x3(F.interpolate(prompt, x.shape[2:], mode="bilinear"))

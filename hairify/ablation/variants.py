"""The four settings of the paper's Table 5: with the DAC or without, with HSNs or without."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.counting import count
from hairify._support.randomness import cpu_generator
from hairify.ablation._settings import VARIANTS, Variant
from hairify.conversion import assemble
from hairify.errors import OptionError
from hairify.model import HairModel
from hairify.networks._embedding import embed
from hairify.nn._hsn import HyperSelectingNet
from hairify.planning._plans import Plan

__all__ = ["VARIANTS", "LearnedGIVs", "NoDAC", "Variant", "make_variant", "with_learned_givs"]


def make_variant(
    variant: str,
    network: nn.Module,
    plan: Plan,
    *,
    example_inputs: Any = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """One setting of the paper's Table 5, from the weights of one network.

    With a plan of `init="preserve"` all of them compute at first what `network` computes.

    Args:
        variant: "static", the network as it is (a); "dac", the GIV as an embedding of ordinary blocks (b), see
            `ConditionalEmbedding`; "hsn", hyper layers whose GIVs are learned and know no image (c), see
            `LearnedGIVs`; "both", the network as `hairify` converts it (d).
        network: is copied.
        plan: of its conversion. It says where the split is and which blocks are concerned, for all settings alike.
        example_inputs: as for `hairify`; "dac" alone runs the network once.
        generator: makes random draws reproducible. The same state gives "dac" and "both" the same DAC.

    Raises:
        OptionError: there is no such variant.
        NetworkError: "dac" finds no channels in what a block returns.
        HairError: see `hairify`.
    """
    if variant == "static":
        return copy_model(network)
    if variant == "dac":
        return embed(network, plan, example_inputs=example_inputs, generator=generator)
    if variant == "hsn":
        return with_learned_givs(network, plan, generator=generator)
    if variant == "both":
        return assemble(network, plan, cpu_generator(generator), inplace=False)
    raise OptionError(f"`variant` is {variant!r}; accepted are {', '.join(map(repr, VARIANTS))}.")


class LearnedGIVs(nn.Module):
    """A learned vector for each block of a level in place of the image's GIV (paper, section 4.3 (c)).

    It stands where a level's HSN stood, and runs it.

    Args:
        net: the level's HSN.
        vectors: one GIV for each block, shape (M, D).
    """

    def __init__(self, net: HyperSelectingNet, vectors: Tensor) -> None:
        super().__init__()
        self.net, self.vectors = net, nn.Parameter(vectors)

    def forward(self, giv: Tensor) -> Tensor:
        """The selecting vectors (1, M, N), the same for every image; `giv` is not looked at."""
        every: Tensor = self.net(self.vectors)  # (M, M, N): each vector through each block's net
        return rearrange(every.diagonal(dim1=0, dim2=1), "n m -> 1 m n")


class NoDAC(nn.Module):
    """In place of the DAC: zeros, whatever the image.

    Args:
        in_channels: channels of F_g.
        giv_dim: D.
    """

    def __init__(self, in_channels: int, giv_dim: int) -> None:
        super().__init__()
        self.giv_dim = giv_dim

    def forward(self, feature: Tensor) -> Tensor:
        """Map F_g of shape (B, C, H, W) to zeros (B, D)."""
        return feature.new_zeros(feature.shape[0], self.giv_dim)


def with_learned_givs(network: nn.Module, plan: Plan, *, generator: torch.Generator | None = None) -> HairModel:
    """A copy of a network converted without a DAC: each block's HSN gets a vector of its own, drawn from N(0, 1).

    `save` and `load` do not know of these vectors.

    Args:
        network: the network.
        plan: of its conversion; its DAC is left out.
        generator: for all random draws.

    Raises:
        HairError: the plan does not fit.
    """
    drawn = cpu_generator(generator)
    blind = dataclasses.replace(plan, dac=NoDAC.__name__, dac_name=None, dac_width=None, dac_source=NoDAC)
    hair = assemble(network, blind, drawn, inplace=False)
    for index, level in enumerate(plan.levels):
        net = cast(HyperSelectingNet, hair.hsn[index])
        vectors = torch.randn(len(level.blocks), plan.giv_dim, generator=drawn)
        hair.hsn[index] = LearnedGIVs(net, vectors.to(next(net.parameters()))).train(network.training)
    before, _ = plan.parameters
    hair.plan = dataclasses.replace(hair.plan, parameters=(before, count(hair)))
    return hair

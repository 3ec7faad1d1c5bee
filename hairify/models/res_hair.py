"""Res-HAIR, the paper's network: Restormer by HAIR, in the form its authors published."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hairify.conversion import hairify
from hairify.errors import CheckpointError
from hairify.model import HairModel
from hairify.models._checkpoints import read_state
from hairify.models.restormer import NormKind, restormer
from hairify.nn._published_dac import DegradationAwareClassifier
from hairify.planning._choices import Init

_HSN_LAYERS = ("0", "2", "4", "6")  # the published HSN is a sequence with activations in between


def res_hair(
    *,
    dim: int = 48,
    num_blocks: Sequence[int] = (4, 6, 6, 8),
    num_refinement_blocks: int = 4,
    heads: Sequence[int] = (1, 2, 4, 8),
    expansion: float = 2.66,
    norm: NormKind = "WithBias",
    box_size: Mapping[str, int] | None = None,
    init: Init = "preserve",
    generator: torch.Generator | None = None,
) -> HairModel:
    """The published Res-HAIR; with the defaults it has 28,559,846 parameters.

    It is what `hairify` makes of Restormer with the published neck: the split after `down3_4`, a GIV of 2C
    numbers from a DAC of width 1.5C, and N = 9, 6, 7, 5, 5 for the latent level, the decoder levels and
    refinement. (The paper's text has N = 7 at decoder level 3.)

    Args:
        dim: see `restormer`.
        num_blocks: the published numbers of blocks.
        num_refinement_blocks: see `restormer`.
        heads: see `restormer`.
        expansion: see `restormer`.
        norm: see `restormer`.
        box_size: {level: N}; None for M + 1 blocks, and M at decoder level 3.
        init: see `hairify`, like `generator`.
        generator: for the fresh weights of the added parts.
    """
    network = restormer(
        dim=dim,
        num_blocks=num_blocks,
        num_refinement_blocks=num_refinement_blocks,
        heads=heads,
        expansion=expansion,
        norm=norm,
        hair_neck=True,
    )
    return hairify(
        network,
        inplace=True,
        preset="published",
        split_at="down3_4",
        targets="families",
        exclude=("up4_3", "up3_2"),  # with this neck they are alike, and would be taken for a family of two
        box_size=box_size or {"decoder_level3": num_blocks[2]},
        dac=lambda channels, giv_dim: DegradationAwareClassifier(channels, giv_dim, width=3 * dim // 2),
        giv_dim=2 * dim,
        init=init,
        generator=generator,
    )


def load_published(source: str | os.PathLike[str] | Mapping[str, Any]) -> HairModel:
    """Res-HAIR with the parameters of a checkpoint that its authors published.

    Args:
        source: path of the checkpoint file, or what it holds, as for `load_weights`.

    Returns:
        The model in evaluation mode, in the parameters' dtype; its configuration is read off their shapes.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not one of Res-HAIR.
    """
    state = read_state(source)
    try:
        config = _configuration(state)
        converted = _converted_state(state)
        hair = res_hair(**config, init="random").to(state["output.weight"].dtype)
        hair.load_state_dict(converted | hair.standardization.state_dict(prefix="standardization."))
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint is not one of the published Res-HAIR: {type(error).__name__}: {error}"
        ) from error
    return hair.eval()


def _configuration(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `res_hair` that give parameters of these shapes."""
    encoders = [f"encoder_level{level}" for level in (1, 2, 3)]
    dim = state["patch_embed.proj.weight"].shape[0]
    levels = [key.removesuffix(".kernel_box") for key in state if key.endswith(".kernel_box")]
    hidden = [(state[f"{name}.0.ffn.project_out.weight"].shape[1], dim * 2**i) for i, name in enumerate(encoders)]
    hidden += [_widths(state, name) for name in levels]
    return {
        "dim": dim,
        "num_blocks": [*(_count(state, name) for name in encoders), _count(state, "latent.blocks")],
        "num_refinement_blocks": _count(state, "refinement.blocks"),
        "heads": [
            *(state[f"{name}.0.attn.temperature"].shape[0] for name in encoders),
            state["latent.blocks.0.attn.temperature"].shape[0],
        ],
        # hidden = int(channels · expansion) at every level: the least expansion that fits them all
        "expansion": max(h / channels for h, channels in hidden) + 1e-9,
        "norm": "WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        "box_size": {name: state[f"{name}.kernel_box"].shape[0] for name in levels},
    }


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """The number of blocks under a prefix."""
    return 1 + max(int(m[1]) for key in state if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key)))


def _widths(state: Mapping[str, Tensor], level: str) -> tuple[int, int]:
    """Hidden channels h of a hyper level's feed-forward networks, and channels C."""
    channels = state[f"{level}.blocks.0.norm1.body.weight"].shape[0]
    # P = 3C² + 27C + C² + 2hC + 18h + hC, of which only h is unknown
    hidden = (state[f"{level}.kernel_box"].shape[1] - 4 * channels**2 - 27 * channels) // (3 * channels + 18)
    return hidden, channels


def _converted_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state_dict in the layout of a HairModel."""
    levels = [key.removesuffix(".kernel_box") for key in state if key.endswith(".kernel_box")]
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        level = next((name for name in levels if key.startswith(f"{name}.")), None)
        if key.startswith("feature."):
            converted[f"dac.{key.removeprefix('feature.')}"] = value
        elif level is None:
            converted[f"base.{key}"] = value
        elif key.startswith(f"{level}.blocks."):
            converted[f"base.{level}.{key.removeprefix(f'{level}.blocks.')}"] = value
    for index, level in enumerate(levels):
        converted |= {f"boxes.{index}.{name}": rows for name, rows in _split_box(state, level).items()}
        for layer, published in enumerate(_HSN_LAYERS):
            for name in ("weight", "bias"):
                stacked = [
                    state[f"{level}.extracts.{block}.net.{published}.{name}"]
                    for block in range(_count(state, f"{level}.extracts"))
                ]
                converted[f"hsn.{index}.layers.{layer}.{name}"] = torch.stack(stacked)
    return converted


def _split_box(state: Mapping[str, Tensor], level: str) -> dict[str, Tensor]:
    """The rows (N, P) of a published box, by layer and in the layers' shapes."""
    hidden, channels = _widths(state, level)
    shapes = {
        "attn.qkv": (3 * channels, channels, 1, 1),
        "attn.qkv_dwconv": (3 * channels, 1, 3, 3),
        "attn.project_out": (channels, channels, 1, 1),
        "ffn.project_in": (2 * hidden, channels, 1, 1),
        "ffn.dwconv": (2 * hidden, 1, 3, 3),
        "ffn.project_out": (channels, hidden, 1, 1),
    }
    parts = state[f"{level}.kernel_box"].split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {
        f"{name}.weight": part.unflatten(1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }

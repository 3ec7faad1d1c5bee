"""Baked restorers as checkpoints of the original network, for programs that know nothing of hairify."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hairify._support.files import replacing
from hairify.errors import CheckpointError
from hairify.model import HairModel
from hairify.networks._named import SPANDREL, Network
from hairify.sharing._single_files import check_path, tensors_of, write_tensors

ENDINGS = (".pth", ".safetensors")

_IN_PARAMS = ("HAT", "KBNet", "NAFNet", "Restormer", "RetinexFormer", "SwinIR", "Swin2SR", "res_hair", "restormer")
_IN_STATE_DICT = ("MixDehazeNet", "Uformer")
_FORMS = dict.fromkeys(_IN_PARAMS, ("params", "")) | dict.fromkeys(_IN_STATE_DICT, ("state_dict", "module."))
"""Where published code looks for weights, and what stands before their names; other networks' takes them bare."""


def save_baked(static: nn.Module, network: Network, path: Path) -> None:
    """Write a static network, such as a baked one, as its own community loads it.

    A .pth file holds the state_dict as the network's published code loads it, as far as that is known: under "params"
    where it was made with BasicSR, under "state_dict" for some, bare for all others. A .safetensors file holds the
    tensors. Names are those of the original network; nothing in the file is of hairify.

    Args:
        static: the network.
        network: what it was made from.
        path: ending in .pth or .safetensors.

    Raises:
        OptionError: the ending is another, or there is no such folder.
        CheckpointError: the network is a HairModel, or the file cannot be written.
    """
    check_path(path, ENDINGS)
    if isinstance(static, HairModel):
        raise CheckpointError("The network has weights for each image; bake it first: `hair.bake(giv=...)`.")
    if network.name == SPANDREL:
        from hairify.networks._spandrel import original

        static = original(static)
    state = tensors_of(static)
    if path.suffix.lower() == ".safetensors":
        write_tensors(state, path)
        return
    kind = str(network.options["architecture"]) if network.name == SPANDREL else network.name
    key, prefix = _FORMS.get(kind, ("", ""))
    state = {prefix + name: tensor for name, tensor in state.items()}
    with replacing(path) as file:
        torch.save({key: state} if key else state, file)

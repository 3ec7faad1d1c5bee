"""Baked restorers as checkpoints of the original network, for programs that know nothing of hairify."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from hairify._support.files import is_utf8, replacing
from hairify.errors import CheckpointError, OptionError
from hairify.model import HairModel
from hairify.networks._named import SPANDREL, Network

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
    check_path(path)
    if isinstance(static, HairModel):
        raise CheckpointError("The network has weights for each image; bake it first: `hair.bake(giv=...)`.")
    if network.name == SPANDREL:
        from hairify.networks._spandrel import original

        static = original(static)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in static.state_dict().items()}
    kind = str(network.options["architecture"]) if network.name == SPANDREL else network.name
    try:
        with replacing(path) as file:
            if path.suffix.lower() == ".safetensors":
                safetensors.torch.save_file(state, file)
            else:
                key, prefix = _FORMS.get(kind, ("", ""))
                state = {prefix + name: tensor for name, tensor in state.items()}
                torch.save({key: state} if key else state, file)
    except safetensors.SafetensorError as error:  # in place of an OSError, as on a full disk
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def check_path(path: Path, endings: tuple[str, ...] = ENDINGS) -> None:
    """Refuse a file that cannot be written, before it is made.

    Raises:
        OptionError: its ending is another, its name is no UTF-8, it is a folder, or there is none for it.
    """
    if path.suffix.lower() not in endings:
        raise OptionError(f"The file is {path}; accepted is the ending {' or '.join(endings)}.")
    if not path.parent.is_dir() or path.is_dir():
        wrong = "that is a folder" if path.is_dir() else f"there is no folder {path.parent}; make it first"
        raise OptionError(f"The file is {path}, but {wrong}.")
    if not is_utf8(path):
        raise OptionError(f"The file is {path}, whose name is no UTF-8; give a file and folder with other names.")

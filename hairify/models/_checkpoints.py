"""Reading the checkpoints that authors publish."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hairify.errors import CheckpointError
from hairify.models._state_dicts import opened, renamed, state_in
from hairify.models.airnet import QUEUE, AirNet, batch_size_of

_MOST_NAMED = 3


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
    """Load a published checkpoint into a network of this package, strictly: every name and shape must fit.

    Args:
        model: the network; it keeps its dtype, device and mode.
        source: path of the checkpoint file, or what it holds: a state_dict, or a dict with one under "state_dict",
            "params", "model_state_dict", "net" and the like, or in a dict under these; averaged weights ("params_ema",
            "ema", ...) come before others. What wrappers and training code put before names (`module.`, `model.`,
            `net_g.`, `_orig_mod.`, ...) is dropped, and so are the counters `n_averaged`, `total_ops` and
            `total_params`. Behind a prefix, the network may lie beside others, such as a discriminator. A file ending
            in `.safetensors` is read as such, others by `torch.load` with `weights_only=True`: no code in either is
            run. Options, scores and the like beside the weights are passed over.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit; the model is then as it was.
    """
    own = model.state_dict()
    state = read_state(source, own)
    if any(tensor.is_meta for tensor in own.values()):
        raise CheckpointError(
            f"{type(model).__name__} is on the meta device, where it has no memory to load into. Make it on another "
            "one, or move it by `to_empty(device=...)` first."
        )
    if problems := _misfits(own, state):
        raise CheckpointError(
            f"The checkpoint does not fit {type(model).__name__}: {'; '.join(problems)}. {_way_out(model, state)}"
        )
    try:
        # Converted first: whatever cannot be, fails before the model is touched.
        converted = {key: torch.empty_like(tensor).copy_(state[key]) for key, tensor in own.items()}
    except RuntimeError as error:
        raise CheckpointError(f"The checkpoint's tensors cannot be copied: {error}") from error
    model.load_state_dict(converted)


def read_state(source: str | os.PathLike[str] | Mapping[str, Any], own: Collection[str] = ()) -> dict[str, Tensor]:
    """The state_dict in a checkpoint, without wrapping and prefixes.

    Args:
        source: see `load_weights`.
        own: keys of the model; where one of them begins with a prefix, that is its own and stays.

    Raises:
        CheckpointError: the file cannot be read, or holds no state_dict.
    """
    checkpoint = source if isinstance(source, Mapping) else opened(Path(source))
    return renamed(state_in(checkpoint, own), own)


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected and of another shape, in words."""
    other = [
        f"{key!r} {tuple(state[key].shape)} in place of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = {
        "missing": [repr(key) for key in own if key not in state],
        "unexpected": [repr(key) for key in state if key not in own],
        "of another shape": other,
    }
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def _way_out(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    queue = state.get(QUEUE)
    other = isinstance(model, AirNet) and queue is not None and queue.shape != model.state_dict()[QUEUE].shape
    if other and queue is not None and (batch_size := batch_size_of(queue)) is not None:
        return f"Its queue is that of `airnet(batch_size={batch_size})`."
    one = max(model.state_dict(), key=len, default="")
    behind = [key.removesuffix(one) for key in state if key.endswith(f".{one}")]
    for prefix in behind:
        if all(prefix + name in state for name in model.state_dict()):
            return f"All of its names stand behind {prefix!r} there: give the state_dict without that."
    return "Make the network with the options with which that of the checkpoint was made, or give a checkpoint of it."

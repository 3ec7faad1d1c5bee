"""The optimizer of the recipe, and its state as named tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hairify.model import HairModel
from hairify.training.settings import TrainingSettings
from hairify.training.sharding import like, whole


def adamw(network: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with the paper's betas, of the parameters that are trained.

    The factors of a HairModel's low-rank boxes get no weight decay, see `HairModel.parameter_groups`.
    """
    decay = settings.weight_decay
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "weight_decay": decay}]
    if isinstance(network, HairModel):
        groups = network.parameter_groups(decay)
    trained = [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    return torch.optim.AdamW(
        [group for group in trained if group["params"]], lr=settings.learning_rate, betas=(0.9, 0.999)
    )


def state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Its state: {parameter's name.state's name: tensor}, gathered on the CPU. All processes call it."""
    return {
        f"{name}.{key}": whole(value)
        for name, parameter in _parameters(optimizer, network)
        for key, value in optimizer.state[parameter].items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Go on from what `state_tensors` returned."""
    saved: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".")
        saved[name][kind] = tensor
    state = {
        index: {kind: value if kind == "step" else like(parameter, value) for kind, value in saved[name].items()}
        for index, (name, parameter) in enumerate(_parameters(optimizer, network))
        if name in saved
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Its parameters in its order, with their names in the network."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]

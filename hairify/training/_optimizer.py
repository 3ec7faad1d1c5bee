"""The optimizer of the recipe, and its state as named tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.training._settings import PARTS, TrainingSettings
from hairify.training._sharding import like, whole

RELATIVE_RATE = "relative_rate"
"""Key of a parameter group: its learning rate relative to that of the step."""

_RATE_OF_WEIGHTS = 10.0  # the logarithms of losses' weights have some units to go; weights of networks, hundredths


def adamw(
    network: nn.Module,
    settings: TrainingSettings,
    others: Iterable[nn.Parameter] = (),
    weights: Iterable[nn.Parameter] = (),
) -> torch.optim.AdamW:
    """AdamW with the paper's betas, of the parameters that are trained.

    The factors of a HairModel's low-rank boxes get no weight decay, see `HairModel.parameter_groups`; its parts may
    have learning rates of their own.

    Args:
        network: the network.
        settings: the recipe.
        others: parameters that are trained beside it.
        weights: those of losses, which are trained beside it, faster and without weight decay.
    """
    decay = settings.weight_decay
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "weight_decay": decay}]
    if isinstance(network, HairModel):
        groups = network.parameter_groups(decay)
    rates = _relative_rates(network, settings)
    base = settings.rates.get("base", 1.0)
    parted = [
        group | {"params": [p for p in group["params"] if rates.get(id(p), base) == relative], RELATIVE_RATE: relative}
        for group in groups
        for relative in dict.fromkeys((base, *rates.values()))
    ]
    parted.append({"params": list(others), "weight_decay": decay, RELATIVE_RATE: 1.0})
    parted.append({"params": list(weights), "weight_decay": 0.0, RELATIVE_RATE: _RATE_OF_WEIGHTS})
    trained = [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in parted]
    return torch.optim.AdamW(
        [group for group in trained if group["params"]], lr=settings.learning_rate, betas=(0.9, 0.999)
    )


def parts_without(network: nn.Module, settings: TrainingSettings) -> list[str]:
    """The parts of `settings.rates` that a network does not have; one that is not converted is all base."""
    return [part for part in settings.rates if part != "base" and part not in _added_parts(network)]


def _added_parts(network: nn.Module) -> dict[str, nn.Module]:
    """What was added to a network, by the names of `PARTS`."""
    if not isinstance(network, (HairModel, ConditionalEmbedding)):
        return {}
    return {name: part for name, part in network.named_children() if name in PARTS and name != "base"}


def _relative_rates(network: nn.Module, settings: TrainingSettings) -> dict[int, float]:
    """The relative learning rates of what was added to a network, by the parameters' ids."""
    return {
        id(parameter): settings.rates.get(name, 1.0)
        for name, part in _added_parts(network).items()
        for parameter in part.parameters()
    }


def state_tensors(optimizer: torch.optim.Optimizer, objective: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state, {parameter's name.state's name: tensor}, gathered on the CPU. All processes call it."""
    return {
        f"{name}.{key}": whole(value)
        for name, parameter in _parameters(optimizer, objective)
        for key, value in optimizer.state[parameter].items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, objective: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Go on from what `state_tensors` returned."""
    saved: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".")
        saved[name][kind] = tensor
    state = {
        index: {kind: value if kind == "step" else like(parameter, value) for kind, value in saved[name].items()}
        for index, (name, parameter) in enumerate(_parameters(optimizer, objective))
        if name in saved
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer, objective: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The optimizer's parameters in its order: (name in the network, or in `objective` outside of it, parameter)."""
    names = {id(parameter): name.removeprefix("network.") for name, parameter in objective.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]

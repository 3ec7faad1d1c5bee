"""What a loss can train, found by trial passes on copies of the network."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.isolation import SEED, isolated, pass_on_lack_of_memory
from hairify.errors import HairError, TrainingError
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.training._losses import Loss

_PASSES = 8


def added_parameters(network: nn.Module) -> set[str] | None:
    """Names of the parameters that were added to a network to make it depend on its GIV; None where it has none."""
    if not isinstance(network, (HairModel, ConditionalEmbedding)):
        return None
    return {name for name, _ in network.named_parameters() if not name.startswith("base.")}


def reached(network: nn.Module, loss: Loss, degraded: Tensor, clean: Tensor, wanted: Collection[str]) -> set[str]:
    """Names of parameters that get a gradient, by passes on copies until one of those that are wanted is among them.

    One pass does not tell what is trained: blocks may be skipped at random, or be run for some images only. So there
    are up to eight, each with random numbers of its own, which are the same in all processes. The second is in
    evaluation mode, in which nothing is skipped.

    Args:
        network: left as it is, in training mode.
        loss: what it is trained with.
        degraded: (B, 3, H, W) in [0, 1].
        clean: of the same shape and range.
        wanted: names of parameters.

    Raises:
        TrainingError: the network cannot be run, or not be trained, on such images.
    """
    found: set[str] = set()
    for attempt in range(_PASSES):
        evaluating = attempt == 1
        try:
            found |= _reached_once(network, loss, degraded, clean, SEED + attempt, evaluating=evaluating)
        except HairError:
            if not evaluating:
                raise
        except Exception as error:  # networks fail in every possible way
            pass_on_lack_of_memory(error)
            if not evaluating:  # a loss may need what a network returns in training alone
                height, width = degraded.shape[2:]
                raise TrainingError(
                    f"The network cannot be trained on patches of {width}×{height} pixels: {type(error).__name__}: "
                    f"{error}. Networks with windows or several resolutions need multiples of 8, 16, ... as "
                    "`patch_size`, and those made for one size that one."
                ) from error
        if found.intersection(wanted):
            break
    return found


def _reached_once(
    network: nn.Module, loss: Loss, degraded: Tensor, clean: Tensor, seed: int, *, evaluating: bool
) -> set[str]:
    copy = copy_model(network)
    with isolated(copy, seed), torch.enable_grad():
        value = loss(copy.train(not evaluating) if evaluating else copy, degraded, clean).mean()
        if value.requires_grad:
            value.backward()
    return {name for name, parameter in copy.named_parameters() if parameter.grad is not None}


def teaches_giv(network: HairModel | ConditionalEmbedding, loss: Loss, degraded: Tensor, clean: Tensor) -> bool:
    """Whether a loss on the GIVs of a step's images would train anything.

    Found by forward passes on copies, as many as it takes up to eight: what runs before the split may be skipped at
    random in one of them.

    Args:
        network: left as it is.
        loss: what it is trained with.
        degraded: (B, 3, H, W) in [0, 1].
        clean: of the same shape and range.
    """

    def once(seed: int) -> bool:
        copy = copy_model(network)
        givs: list[Tensor] = []
        copy.standardization.register_forward_hook(lambda module, args, giv: givs.append(giv))
        with isolated(copy, seed), torch.enable_grad():
            loss(copy, degraded, clean)
        return bool(givs) and givs[0].requires_grad and len(givs[0]) == len(degraded)

    return any(once(SEED + attempt) for attempt in range(_PASSES))

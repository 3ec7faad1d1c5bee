"""Modules that FSDP2 (`fully_shard`) has sharded."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's parameters are whole during its call alone, or never."""
    for parameter in module.parameters():
        if hasattr(parameter, "to_local"):
            return True
        break  # they are sharded together
    if torch.compiler.is_compiling():
        return False
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who shards has imported it, which takes long
    return fsdp is not None and isinstance(module, (fsdp.FSDPModule, fsdp.FullyShardedDataParallel))


def free_gathered(network: nn.Module, found: Tensor) -> None:
    """Have the parts of a network free what they gathered for a forward that was ended before they returned.

    Where gradients are recorded, they gather it again in the backward pass of what was found.

    Args:
        network: sharded or not.
        found: what the forward was run for.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who shards has imported it, which takes long
    if fsdp is None:
        return
    sharded: list[Any] = [part for part in network.modules() if isinstance(part, fsdp.FSDPModule)]
    gathered = [part for part in sharded if not all(hasattr(p, "to_local") for p in part.parameters())]
    for part in gathered:
        part.reshard()

    def gather(_: Tensor) -> None:
        for part in gathered:
            part.unshard()

    if gathered and found.requires_grad:
        found.register_hook(gather)

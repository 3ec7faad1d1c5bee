"""Sizes of networks."""

from __future__ import annotations

from torch import nn


def count(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())

"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hairify.training._sharding import like, whole


class WeightAverage:
    """Moving average of the parameters that are trained; everything else of a network is as it last was.

    At step t it keeps min(decay, (1 + t) / (10 + t)) of itself: at the start it forgets fresh weights sooner.

    Args:
        network: its parameters may be sharded; the averages are sharded alike.
        decay: in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        kept = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._trained.items():
            self._averages[name].lerp_(parameter, 1 - kept)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the parameters' names, gathered on the CPU. All processes call it."""
        return {name: whole(average) for name, average in self._averages.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        for name, average in self._averages.items():
            if name in tensors:  # else a run of hairify before this version did not train it
                average.copy_(like(average, tensors[name]))

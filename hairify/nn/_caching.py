"""What is made for one GIV, kept for the forwards that use the same one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hairify._support.torch_internals import version

Weights: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight (B, *shape) and bias (B, out) of one hyper layer for each image."""


@dataclass
class WeightCache:
    """Selecting vectors and weights of one GIV, kept as long as the parameters that made them do not change.

    They are those of one CUDA stream: work on another would have to wait for it, which nobody would know.
    """

    _selecting: list[Tensor] = field(default_factory=list)
    """Selecting vectors of each level, (1, M, N); empty until they are made."""
    _weights: dict[tuple[int, int, str], Weights] = field(default_factory=dict)
    """By level, block and layer name."""
    _versions: list[tuple[int, ...]] = field(default_factory=list)
    """CUDA streams; of parameters and buffers identity, place in memory, and how often they were written to."""
    _kept_alive: list[Tensor] = field(default_factory=list)
    """These parameters and buffers: were they freed, others could get the same identity and place."""

    def refresh(self, *parts: nn.Module) -> bool:
        """Forget everything where a parameter or buffer of the parts has changed.

        Args:
            parts: the modules that make selecting vectors and weights.

        Returns:
            Whether changes can be seen; else the cache must not be used.
        """
        made_of = list(itertools.chain(*((*part.parameters(), *part.buffers()) for part in parts)))
        if any(t.is_inference() for t in made_of):  # PyTorch does not count how often these are written to
            return False
        devices = {t.device for t in made_of if t.is_cuda}
        streams = [(torch.cuda.current_stream(device).cuda_stream,) for device in devices]
        versions = [*streams, *((id(t), t.data_ptr(), version(t)) for t in made_of)]
        if versions != self._versions:
            self._versions, self._selecting, self._weights = versions, [], {}
            self._kept_alive = [*made_of, *(t.detach() for t in made_of)]
        return True

    def selecting_vectors(self, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Selecting vectors of each level, made at the first call."""
        if not self._selecting:
            with _ordinary_tensors():
                self._selecting = make()
        return self._selecting

    def weights(self, level: int, block: int, layer_name: str, make: Callable[[], Weights]) -> Weights:
        """The weights of one hyper layer, made at the first call for it."""
        key = (level, block, layer_name)
        if key not in self._weights:
            with _ordinary_tensors():
                self._weights[key] = make()
        return self._weights[key]


@contextlib.contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Without gradients, but what is made may be used where some are recorded."""
    with torch.inference_mode(False), torch.no_grad():
        yield

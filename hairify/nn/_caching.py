"""What is made for one GIV, kept for the forwards that use the same one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hairify._support.comparing import Numbers
from hairify._support.torch_internals import own_buffers, own_modules, own_parameters

Weights: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight (B, *shape) and bias (B, out) of one hyper layer for each image."""


@dataclass
class WeightCache:
    """Selecting vectors and weights of one GIV, kept as long as the numbers that made them are the same.

    The numbers themselves are compared, with a copy. PyTorch's count of writes to a tensor would tell of most changes
    for nothing, but not of those by fused optimizers, through `parameter.data` or NumPy, or by other processes.

    They are those of one CUDA stream: work on another would have to wait for it, which nobody would know.
    """

    _selecting: list[Tensor] = field(default_factory=list)
    """Selecting vectors of each level, (1, M, N); empty until they are made."""
    _weights: dict[tuple[int, int, str], Weights] = field(default_factory=dict)
    """By level, block and layer name."""
    _streams: list[int] = field(default_factory=list)
    """CUDA streams, of which there is one for each device."""
    _made_of: Numbers | None = None
    """Those of the parameters and buffers that made selecting vectors and weights."""

    def refresh(self, *parts: nn.Module) -> bool:
        """Forget everything where a number of the parts has changed.

        Args:
            parts: the modules that make selecting vectors and weights.

        Returns:
            Whether the numbers can be compared; else the cache must not be used.
        """
        tensors = [tensor for part in parts for tensor in _members(part)]
        devices = sorted({t.device.index for t in tensors if t.is_cuda})
        streams = [torch.cuda.current_stream(device).cuda_stream for device in devices]
        if self._made_of is not None and streams == self._streams and self._made_of.are_still_held(tensors):
            return True
        self._selecting, self._weights, self._made_of = [], {}, None
        if not Numbers.can_be_compared(tensors):
            return False
        self._streams, self._made_of = streams, Numbers(tensors)
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


def _members(module: nn.Module) -> Iterator[Tensor]:
    """All parameters and buffers, several times faster than by `parameters()` and `buffers()`."""
    for members in (own_parameters(module), own_buffers(module)):
        for tensor in members.values():
            if tensor is not None:
                yield tensor
    for child in own_modules(module).values():
        if child is not None:
            yield from _members(child)


@contextlib.contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Without gradients, but what is made may be used where some are recorded."""
    with torch.inference_mode(False), torch.no_grad():
        yield

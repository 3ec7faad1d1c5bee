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
from hairify.nn._boxes import BlockWeights

Made: TypeAlias = tuple[list[Tensor], list[list[BlockWeights]]]
"""Selecting vectors of each level, (1, M, N), and what the layers of its blocks compute with."""


@dataclass
class WeightCache:
    """Selecting vectors and weights of one GIV, kept as long as the numbers that made them are the same.

    The numbers themselves are compared, with a copy. PyTorch's count of writes to a tensor would tell of most changes
    for nothing, but not of those by fused optimizers, through `parameter.data` or NumPy, or by other processes.

    They are those of one CUDA stream: work on another would have to wait for it, which nobody would know.
    """

    _made: Made | None = None
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
        self._made = self._made_of = None
        if not Numbers.can_be_compared(tensors):
            return False
        self._streams, self._made_of = streams, Numbers(tensors)
        return True

    def kept(self, make: Callable[[], Made]) -> Made:
        """What `make` returned at the first call."""
        if self._made is None:
            with _ordinary_tensors():
                self._made = make()
        return self._made


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

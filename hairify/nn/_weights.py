"""What the layers of one block compute with, for the time of one forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from hairify._support.torch_internals import backward_pass
from hairify.functional._kernels import Chooser
from hairify.functional._operations import Prepare

Weights: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight (B, *shape) and bias (B, out) of one hyper layer for each image."""


class Box(Protocol):
    """The Weight Box of a level, as its blocks know it."""

    def __call__(self, layer_name: str, selecting: Tensor, block: int = 0, *operation: Any, **settings: Any) -> Any:
        """One layer's weights, or what it computes by them; to be called where parameters exist during a call alone."""

    def compute(
        self,
        selecting: Tensor,
        parameters: tuple[Tensor, ...],
        prepare: Prepare,
        input: Tensor,
        settings: Mapping[str, Any],
        tuning: Chooser | None = None,
    ) -> Tensor:
        """What one layer computes."""


@dataclass(eq=False)
class BlockWeights:
    """The weights of one block's layers for each image, or what they are made of.

    Attributes:
        box: of the block's level.
        block: position of the block in its level.
        selecting: its selecting vectors, shape (B, N).
        tuning: chooses kernels; None for the rules.
        shared: by layer, a weight and bias without a dimension of images: those of a single GIV, for all images.
        parameters: by layer, the block's part of the box, for weights that are made when the layer runs; of layers
            that stand in neither, the box is called for it.
        with_gradients: whether gradients were recorded where the above was made.
    """

    box: Box
    block: int
    selecting: Tensor
    tuning: Chooser | None = None
    shared: dict[str, Weights] = field(default_factory=dict)
    parameters: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    with_gradients: bool = field(default_factory=torch.is_grad_enabled)

    def for_all(self, layer_name: str) -> Weights | None:
        """A layer's weight (*shape) and bias (out), if all images have the same; else None."""
        return self.shared.get(layer_name) if self._is_recorded() else None

    def of(self, layer_name: str) -> Weights:
        """A layer's weight (B, *shape) and bias (B, out)."""
        weights: Weights = self.box(layer_name, self.selecting, self.block)
        return weights

    def compute(self, layer_name: str, prepare: Prepare, input: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """What a layer computes, each image with its own weights.

        Args:
            layer_name: name of the layer within the block.
            prepare: makes the operation.
            input: shape (k·B, ...).
            settings: of the operation.
        """
        if self._is_recorded() and (parameters := self.parameters.get(layer_name)) is not None:
            return self.box.compute(self.selecting, parameters, prepare, input, settings, self.tuning)
        output: Tensor = self.box(layer_name, self.selecting, self.block, prepare, input, **settings)
        return output

    def _is_recorded(self) -> bool:
        """Whether what was made knows of the gradients that are recorded here: networks may switch them on inside."""
        return self.with_gradients or not torch.is_grad_enabled()


class BlockSlot(threading.local):
    """Where a block's layers find their weights, of the forward that runs in this thread.

    Each block has one of its own, which its layers hold. So a program that was compiled of one block reads, in another
    of the same kind, that one's weights: positions and names of blocks would be constants in it.

    Attributes:
        weights: None outside of forwards, and before the split has run.
        within_backward: number of the backward pass within which the forward started, -1 where in none.
    """

    def __init__(self) -> None:  # runs in each thread; compilers compile anew once an absent attribute appears
        self.weights: BlockWeights | None = None
        self.within_backward = -1

    def __reduce__(self) -> tuple[Callable[[], BlockSlot], tuple[()]]:
        return BlockSlot, ()

    def current(self) -> BlockWeights | None:
        """The weights; None where a backward pass runs a part of another forward again, too."""
        return self.weights if self.within_backward == backward_pass() else None

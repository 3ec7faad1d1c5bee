"""What of a converted network's time goes into making weights, and how much more work it has at the least."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.variants import Pair
from hairify import HairModel


@dataclass(frozen=True)
class Work:
    """Multiplications of one forward.

    Attributes:
        static: of the unconverted network.
        generation: of making weights: N for each of the P numbers, for each block and image.
        classifier: of the DAC.
    """

    static: int
    generation: int
    classifier: int

    @property
    def total(self) -> int:
        """All multiplications of the converted network."""
        return self.static + self.generation + self.classifier

    @property
    def lower_bound(self) -> float:
        """The least ratio to the unconverted network, were every multiplication equally quick."""
        return self.total / self.static


def work(pair: Pair, images: Tensor) -> Work:
    """Counted without computing, on the meta device.

    Of a training step all parts are three times as much, with weights that are kept: the ratio stays.
    """
    inputs = images.to("meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(pair.static).to("meta")(inputs)
    feature = feature_of(pair.hair, images[:1]).to("meta").expand(images.shape[0], -1, -1, -1)
    of_dac = FlopCounterMode(display=False)
    with of_dac, torch.no_grad():
        copy.deepcopy(pair.hair.dac).to("meta")(feature)
    made = sum(level.box_size * level.row_parameters * len(level.blocks) for level in pair.hair.plan.levels)
    return Work(counter.get_total_flops() // 2, images.shape[0] * made, of_dac.get_total_flops() // 2)


def feature_of(hair: HairModel, images: Tensor) -> Tensor:
    """F_g as the DAC gets it."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].detach())

    hook = hair.dac.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            hair.giv(images)
    finally:
        hook.remove()
    return seen[0]


def generator(hair: HairModel, giv: Tensor) -> Callable[[], None]:
    """A call that makes the weights of all hyper layers, and nothing else."""
    hypernetwork = hair._hypernetwork

    def generate() -> None:
        with torch.inference_mode():
            for blocks in hypernetwork.weights_of_blocks(hypernetwork.selecting_vectors(giv)):
                for block in blocks:
                    for parameters in block.parameters.values():  # of layers for which nothing was made ahead
                        block.box._generate(block.selecting, *parameters)

    return generate


def classifier(hair: HairModel, feature: Tensor) -> Callable[[], None]:
    """A call of the DAC alone."""

    def classify() -> None:
        with torch.inference_mode():
            hair.dac(feature)

    return classify

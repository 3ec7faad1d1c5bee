"""The networks that are trained, in any width: an unconverted one may have as many parameters as a converted one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from benchmarks.networks import GatedUNet
from hairify.models import restormer, unet

Build = Callable[[int], nn.Module]

NETWORKS: Mapping[str, tuple[Build, int, int]] = {
    "unet": (lambda width: unet(width=width), 12, 1),  # nothing in it pools over the whole image
    "nafnet": (lambda width: GatedUNet(width, (1, 2), 3, (2, 1)), 12, 1),
    "restormer": (
        lambda width: restormer(dim=width, num_blocks=(1, 1, 2, 2), num_refinement_blocks=1, heads=(1, 2, 4, 8)),
        8,
        4,
    ),
    "restormer24": (  # for a GPU
        lambda width: restormer(dim=width, num_blocks=(1, 2, 2, 4), num_refinement_blocks=2, heads=(1, 2, 4, 8)),
        24,
        8,
    ),
    "tiny": (lambda width: unet(width=width), 4, 1),  # for `--quick`
}
"""By name: what builds it in a width, its own width, and by how much widths grow."""


def build(name: str, width: int | None = None) -> nn.Module:
    """A network, in its own width unless another is given."""
    make, usual, _ = NETWORKS[name]
    return make(width or usual)


def widened(name: str, parameters: int) -> int:
    """The least width at which it has so many parameters."""
    make, width, step = NETWORKS[name]
    while count(make(width)) < parameters:
        width += step
    return width


def count(network: nn.Module) -> int:
    """The number of its parameters."""
    return sum(p.numel() for p in network.parameters())

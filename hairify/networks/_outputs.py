"""Which of several images that a network returns is the restored one.

Networks return the results of all their stages, or the noise that they found beside the image without it. The restored
one comes last, so that most of the network leads to it: the one behind the largest share of the weights is taken, in a
converted network of those that depend on the GIV. Of equals it is the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from hairify._support.copying import copy_model
from hairify._support.isolation import SEED, isolated, pass_on_lack_of_memory
from hairify._support.nested import all_tensors
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.networks._trial import USUAL, trial_image, trial_size

_PASSES = 8  # in training, where blocks may be skipped at random

_CHOSEN: WeakKeyDictionary[nn.Module, dict[tuple[bool, int], int]] = WeakKeyDictionary()
"""By network, its mode, and the number of images that it returns: which of them is the restored one."""


def images_among(output: object, shape: torch.Size) -> list[Tensor]:
    """The tensors of one shape in what a network returns."""
    return [tensor for tensor in all_tensors(output) if tensor.shape == shape]


def restored_among(network: nn.Module, inputs: int, images: Tensor, count: int) -> int:
    """Which of `count` images is the restored one. Found once, by runs of a copy on small images.

    Args:
        network: in the mode in which it returned them.
        inputs: how many images its forward requires.
        images: (B, 3, H, W), that it was run on.
        count: of the images that it returned.
    """
    known = _CHOSEN.setdefault(network, {})
    key = network.training, count
    if key not in known:
        known[key] = _choose(network, inputs, images, count)
    return known[key]


def _choose(network: nn.Module, inputs: int, images: Tensor, count: int) -> int:
    copy = copy_model(network)
    for parameter in copy.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    small = (trial_image(trial_size(multiple), count=2).to(images) for multiple in USUAL)
    for tried in (*small, images):
        behind = [_behind(copy, inputs, tried, SEED + attempt) for attempt in range(_PASSES if copy.training else 1)]
        counted = [sets for sets in behind if len(sets) == count]
        if counted:
            ranks = [_rank(copy, set().union(*sets)) for sets in zip(*counted, strict=True)]
            return ranks.index(max(ranks))
    return 0


def _behind(network: nn.Module, inputs: int, tried: Tensor, seed: int) -> list[set[str]]:
    """Of each image that a network returns, the parameters on which it depends; of none where the network fails."""
    with isolated(network, seed), torch.enable_grad():
        try:
            found = images_among(network(*[tried] * inputs), tried.shape)
        except Exception as error:  # networks refuse sizes in every possible way
            pass_on_lack_of_memory(error)
            return []
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    used = [depends_on(image, [*trained.values()]) for image in found]
    return [{name for name, is_used in zip(trained, of_one, strict=True) if is_used} for of_one in used]


def _rank(network: nn.Module, behind: set[str]) -> tuple[bool, int]:
    """Whether an image depends on what makes the GIV and uses it, and on how many weights it depends."""
    has_giv = isinstance(network, (HairModel, ConditionalEmbedding))
    of_giv = has_giv and any(not name.startswith("base.") for name in behind)
    return of_giv, sum(network.get_parameter(name).numel() for name in behind)


def depends_on(output: Tensor, parameters: Sequence[Tensor]) -> list[bool]:
    """Of each parameter, whether an output depends on it, as far as autograd's graph shows it.

    Args:
        output: with its gradient history.
        parameters: that require gradients.
    """
    waiting: list[Node | None] = [output.grad_fn]
    met: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in met:
            met.add(node)
            waiting += [following for following, _ in node.next_functions]
    return [get_gradient_edge(parameter).node in met for parameter in parameters]

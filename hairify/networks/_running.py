"""Any network on images."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, MutableMapping
from types import FunctionType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.isolation import isolated
from hairify._support.nested import all_tensors
from hairify._support.wrappers import unwrapped
from hairify.errors import NetworkError
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.networks._outputs import images_among, restored_among

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def apply(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network on images, whatever the number of its inputs and outputs.

    Args:
        network: takes the images as its only input, or as each of those that it requires (AirNet takes two).
        images: (B, 3, H, W).

    Returns:
        (B, 3, H, W): of the output's tensors the one that has this shape. Where several have, as those of a network
        that returns the results of all its stages, it is the one behind the largest share of the network's weights, in
        a converted network of those that depend on the GIV; of equals the first.

    Raises:
        NetworkError: there is none.
    """
    inputs = number_of_inputs(network)
    output = network(*[images] * inputs)
    found = images_among(output, images.shape)
    if not found:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in all_tensors(output)) or "no tensor"
        raise NetworkError(
            f"{type(original_of(network)).__name__} made {shapes} of images {tuple(images.shape)}; needed is a network "
            "that returns images of the shape that it takes."
        )
    return found[0 if len(found) == 1 else restored_among(unwrapped(network), inputs, images, len(found))]


def settle_output(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """Decide which of the images that a network returns `apply` takes, before it is sharded or exported.

    Args:
        network: in the mode in which it will run; left as it is.
        images: (B, 3, H, W), as for `apply`.

    Returns:
        Which it is, counted from 0, and how many there are.

    """
    plain, inputs = unwrapped(network), number_of_inputs(network)
    copy = copy_model(plain)
    with isolated(copy), torch.no_grad():
        count = len(images_among(copy(*[images] * inputs), images.shape))
    return (restored_among(plain, inputs, images, count) if count > 1 else 0), count


def original_of(network: nn.Module) -> nn.Module:
    """The user's network within HairModel, DDP, `torch.compile` and the like."""
    while isinstance(network := unwrapped(network), (HairModel, ConditionalEmbedding)):
        network = network.base
    return network


def number_of_inputs(network: nn.Module) -> int:
    """How many images a network's forward requires, 1 at least."""
    forward = original_of(network).forward
    function = getattr(forward, "__func__", None)
    if not isinstance(function, FunctionType):  # that of a method: all networks of a class have the same
        return _required(forward)
    if function not in _REQUIRED:
        _REQUIRED[function] = _required(forward)
    return _REQUIRED[function]


_REQUIRED: MutableMapping[FunctionType, int] = WeakKeyDictionary()
"""What was found of methods: to look takes as long as a small layer, and is done for each tile and step."""


def _required(forward: Callable[..., object]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(forward).parameters.values()
    return max(sum(p.kind in kinds and p.default is p.empty for p in parameters), 1)


def for_network(network: nn.Module, images: Tensor) -> Tensor:
    """Images where a network's parameters are, in the precision of most of them.

    Some of them may be complex or whole numbers, or have a precision of their own. Without real ones, the images keep
    theirs.
    """
    counts: Counter[torch.dtype] = Counter()
    for parameter in network.parameters():
        counts[parameter.dtype] += parameter.numel() if parameter.dtype in _REAL else 0
    device = next((p.device for p in network.parameters()), images.device)
    dtype, count = counts.most_common(1)[0] if counts else (images.dtype, 0)
    return images.to(device, dtype if count else images.dtype)

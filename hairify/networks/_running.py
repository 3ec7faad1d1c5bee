"""Any network on images."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from hairify._support.modes import evaluation_mode
from hairify._support.nested import all_tensors
from hairify._support.wrappers import unwrapped
from hairify.errors import NetworkError
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)

_LEAST_SIDE = 48  # of images on which multiples are tried: windows and a few downsamplings fit into it


def apply(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network on images, whatever the number of its inputs and outputs.

    Args:
        network: takes the images as its only input, or as each of those that it requires (AirNet takes two).
        images: (B, 3, H, W).

    Returns:
        (B, 3, H, W): of the output's tensors the first that has this shape.

    Raises:
        NetworkError: there is none.
    """
    output = network(*[images] * number_of_inputs(network))
    found = [output] if isinstance(output, Tensor) else all_tensors(output)
    restored = next((tensor for tensor in found if tensor.shape == images.shape), None)
    if restored is None:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found) or "no tensor"
        raise NetworkError(
            f"{type(original_of(network)).__name__} made {shapes} of images {tuple(images.shape)}; needed is a network "
            "that returns images of the shape that it takes."
        )
    return restored


def original_of(network: nn.Module) -> nn.Module:
    """The user's network within HairModel, DDP, `torch.compile` and the like."""
    while isinstance(network := unwrapped(network), (HairModel, ConditionalEmbedding)):
        network = network.base
    return network


def number_of_inputs(network: nn.Module) -> int:
    """How many images a network's forward requires, 1 at least."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(original_of(network).forward).parameters.values()
    return max(sum(p.kind in kinds and p.default is p.empty for p in parameters), 1)


def smallest_multiple(network: nn.Module) -> int:
    """The least number of which an image's sides must be multiples, found by trying; images are padded to it.

    The network runs in evaluation mode on its own device, without gradients, and is put back into its mode.

    Raises:
        NetworkError: no multiple up to 128 works.
    """
    like = next(network.parameters(), torch.empty(0))
    failure: Exception | None = None
    with evaluation_mode(network):
        for multiple in _MULTIPLES:
            # Odd numbers of multiples: even ones would be multiples of twice as much.
            count = max(_LEAST_SIDE // multiple, 1) | 1
            size = count * multiple, (count + 2) * multiple
            image = torch.linspace(0, 1, size[0] * size[1]).expand(3, -1).reshape(1, 3, *size).to(like)
            try:
                with torch.no_grad():
                    apply(network, image)
            except Exception as error:  # networks refuse sizes in every possible way
                failure = error
            else:
                return multiple
    raise NetworkError(
        f"{type(original_of(network)).__name__} runs on images of no size that was tried, up to multiples of "
        f"{_MULTIPLES[-1]}. The last failure: {type(failure).__name__}: {failure}"
    ) from failure

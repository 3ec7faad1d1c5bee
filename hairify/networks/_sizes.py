"""Which sizes of images a network takes, found by trying."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hairify._support.memory import is_lack_of_memory
from hairify._support.modes import evaluation_mode
from hairify.errors import NetworkError
from hairify.networks._running import apply, for_network, number_of_inputs, original_of
from hairify.networks._trial import USUAL, Size, trial_image, trial_size

_LARGE = 256  # height in pixels of an image that is still small for a photograph, about; as are tiles
_PLANNED: Size = (64, 96)  # what `hairify.plan` tries first
_LARGEST = 256  # of the multiples that are tried
_UNUSUAL = (*(n for n in range(3, 129) if n not in USUAL), *(n for n in range(136, _LARGEST, 8)))
# Sides that every number of which no multiple of a usual one is tried divides: whoever takes only these takes squares.
_SQUARES = (16, 32, 64, 128, 256)
_OTHER_SQUARES = (48, 96, 112, 160, 192, 224, 320, 384, 512)


def smallest_multiple(network: nn.Module) -> int:
    """The least number of which an image's sides must be multiples, found by trying; images are padded to it.

    The network runs in evaluation mode on its own device, without gradients, and is put back into its mode.

    Raises:
        NetworkError: it does not run on images of all sizes that are multiples of some number up to 256, lying and
            upright, small and large; or there is not the memory for a small one.
    """
    with evaluation_mode(network):
        failure = ""
        for multiples, squares in ((USUAL, _SQUARES), (_UNUSUAL, _OTHER_SQUARES)):
            for multiple in multiples:
                if not (failure := _failure(network, trial_size(multiple))):
                    _check_large(network, multiple)
                    return multiple
            if running := [side for side in squares if not _failure(network, (side, side))]:
                raise _only_squares(network, running, failure)
    raise NetworkError(
        f"{_name(network)} runs on images of no size that was tried, up to multiples of {_LARGEST}. The last failure: "
        f"{failure}"
    )


def unusual_example(network: nn.Module) -> tuple[Tensor, ...] | None:
    """Images on which a network can be planned, where it takes none of the default's size or precision.

    Returns:
        One for each input; None where the default serves, or no size is found, so that planning may try others.
    """
    size = _PLANNED
    try:
        with evaluation_mode(network):
            failure = _failure(network, size)
        if failure:
            size = trial_size(smallest_multiple(network), size[0])
    except NetworkError:
        return None
    image = for_network(network, trial_image(size))
    precision = next((p.dtype for p in network.parameters() if p.is_floating_point()), image.dtype)
    return (image,) * number_of_inputs(network) if failure or precision != image.dtype else None


def _failure(network: nn.Module, size: Size) -> str:
    """Why a network does not run on an image of some size, lying or upright; nothing where it does.

    Raises:
        NetworkError: there is not the memory for it.
    """
    for shape in dict.fromkeys((size, size[::-1])):
        try:
            with torch.no_grad():
                apply(network, for_network(network, trial_image(shape)))
        except Exception as error:  # networks refuse sizes in every possible way
            if is_lack_of_memory(error):
                raise NetworkError(
                    f"There is not the memory to run {_name(network)} on an image of {shape[1]}×{shape[0]} pixels: "
                    f"{error}"
                ) from error
            return f"{type(error).__name__}: {error}"
    return ""


def _check_large(network: nn.Module, multiple: int) -> None:
    """Make sure that larger images can be restored, too, as far as there is memory.

    Raises:
        NetworkError: they cannot.
    """
    small, large = trial_size(multiple), trial_size(multiple, _LARGE)
    try:
        failure = _failure(network, large)
    except NetworkError:  # of memory, which says nothing of the network
        return
    if failure:
        raise NetworkError(
            f"{_name(network)} runs on images of {small[1]}×{small[0]} pixels, but not of {large[1]}×{large[0]}: "
            f"{failure}. Photographs have any size. {_ANY_SIZE}"
        )


def _only_squares(network: nn.Module, sides: list[int], failure: str) -> NetworkError:
    those = ", ".join(f"{side}×{side}" for side in sides)
    if len(sides) > 1:
        return NetworkError(
            f"{_name(network)} runs on squares only, such as {those} pixels; of other images: {failure}. Photographs "
            "are no squares. Let its forward pad images to squares, and cut its result; docs/how-to/own-network.md "
            "shows how."
        )
    return NetworkError(
        f"{_name(network)} runs on images of one size only, {those} pixels, of those that were tried; of others: "
        f"{failure}. Photographs have any size. {_ANY_SIZE}"
    )


_ANY_SIZE = (
    "Let its forward take any size: what belongs to positions, as a map of embeddings, can be brought to the image's "
    "size by `torch.nn.functional.interpolate`; docs/how-to/own-network.md shows how."
)


def _name(network: nn.Module) -> str:
    return type(original_of(network)).__name__

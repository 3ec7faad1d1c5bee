"""Which sizes a network takes: found by trying, refused where photographs would not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.errors import NetworkError
from hairify.evaluation import score
from hairify.networks import apply, smallest_multiple
from hairify.networks._running import for_network
from hairify.restoring import TilingSettings, restore_tiled, restore_whole


class Convolved(nn.Module):
    """A network that is one function and a convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.last = function, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x))


def windows(side: int) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, side), side)


def multiples(height: int, width: int) -> Callable[[Tensor], Tensor]:
    def check(x: Tensor) -> Tensor:
        if x.shape[2] % height or x.shape[3] % width:
            raise ValueError("no multiple")
        return x

    return check


def at_least(side: int) -> Callable[[Tensor], Tensor]:
    def check(x: Tensor) -> Tensor:
        if min(x.shape[2:]) < side:
            raise ValueError("too small")
        return x

    return check


def one_size(side: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x + torch.zeros(3, side, side)


def up_to(side: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x + torch.zeros(3, side, side)[:, : x.shape[2], : x.shape[3]]


def squares(x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    side = int(tokens.shape[-1] ** 0.5)
    return tokens.view(*tokens.shape[:2], side, side)


def lying(x: Tensor) -> Tensor:
    if x.shape[2] > x.shape[3]:
        raise ValueError("upright")
    return x


@pytest.mark.parametrize("side", [1, 3, 6, 7, 11, 12, 14, 24, 28, 80, 96, 100, 160, 256])
def test_any_multiple_is_found_and_photographs_are_padded_to_it(side: int) -> None:
    network = Convolved(windows(side))
    assert smallest_multiple(network) == side
    image = torch.rand(1, 3, 61, 83)
    expected = network.last(image).clamp(0, 1)[..., :-1, :-1]  # at the edges it sees the padding
    tiles = TilingSettings(tile=side * 2, overlap=0)
    for restored in (restore_whole(network, image, side), restore_tiled(network, image, tiles, side)):
        assert restored.shape == image.shape
    assert torch.allclose(restore_whole(network, image, side)[..., :-1, :-1], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("takes", "multiple"),
    [(multiples(8, 12), 24), (multiples(12, 8), 24), (multiples(1, 16), 16), (at_least(60), 64), (at_least(200), 256)],
)
def test_sides_that_differ_and_least_sides(takes: Callable[[Tensor], Tensor], multiple: int) -> None:
    assert smallest_multiple(Convolved(takes)) == multiple


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        (squares, r"squares only, such as 16×16.*docs/how-to/own-network.md"),
        (lambda x: multiples(16, 16)(squares(x)), "squares only"),
        (lambda x: multiples(48, 48)(squares(x)), r"squares only, such as 48×48, 96×96, 192×192"),
        (one_size(64), r"one size only, 64×64 .*interpolate"),
        (one_size(48), r"one size only, 48×48 "),
        (one_size(100), "no size that was tried"),
        (up_to(128), r"images of 51×49 pixels, but not of 259×257: .*interpolate"),
        (lambda x: multiples(8, 8)(up_to(200)(x)), "but not of"),
        (lying, "upright"),
        (lambda x: x[..., ::2, ::2], "needed is a network that returns images of the shape"),
    ],
)
def test_what_photographs_do_not_fit_is_refused_with_a_way_out(takes: Callable[[Tensor], Tensor], message: str) -> None:
    network = Convolved(takes).train()
    with pytest.raises(NetworkError, match=message):
        smallest_multiple(network)
    assert network.training


@pytest.mark.parametrize("least", [0, 200])
def test_lack_of_memory_says_nothing_of_the_sizes(least: int) -> None:
    """A larger image need not fit. A small one must."""

    def lacking(x: Tensor) -> Tensor:
        if x.shape[2] > least:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return windows(4)(x)

    if least:
        assert smallest_multiple(Convolved(lacking)) == 4
    else:
        with pytest.raises(NetworkError, match="not the memory to run Convolved on an image of 51×49 pixels"):
            smallest_multiple(Convolved(lacking))


ODD: dict[str, Callable[[], nn.Parameter]] = {
    "complex": lambda: nn.Parameter(torch.ones(5, dtype=torch.cfloat)),
    "whole": lambda: nn.Parameter(torch.zeros(500, dtype=torch.long), requires_grad=False),
    "bytes": lambda: nn.Parameter(torch.zeros(500, dtype=torch.uint8), requires_grad=False),
    "bool": lambda: nn.Parameter(torch.zeros(5, dtype=torch.bool), requires_grad=False),
    "double": lambda: nn.Parameter(torch.ones((), dtype=torch.float64)),
    "half": lambda: nn.Parameter(torch.ones((), dtype=torch.float16)),
}


class Odd(nn.Module):
    """Its first parameter is of another kind than the rest."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.odd = ODD[kind]()
        self.last = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return windows(2)(self.last(x))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_have_the_precision_of_most_weights(kind: str, dtype: torch.dtype) -> None:
    network, image = Odd(kind), torch.rand(1, 3, 31, 43)
    network.last.to(dtype)
    assert smallest_multiple(network) == 2
    restored = restore_whole(network, image, 2)
    assert (restored.dtype, restored.shape) == (torch.float32, image.shape)
    tiled = restore_tiled(network, image, TilingSettings(tile=16, overlap=8), 2)
    assert torch.allclose(restored, tiled, atol=1e-6 if dtype != torch.bfloat16 else 1e-2)
    assert score(restored[0], image[0]).psnr > 0


def test_without_real_parameters_images_keep_theirs() -> None:
    image = torch.rand(1, 3, 8, 8).double()
    assert for_network(nn.Identity(), image) is image
    assert torch.equal(apply(nn.Identity(), for_network(nn.Identity(), image)), image)

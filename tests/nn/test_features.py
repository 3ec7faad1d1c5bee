"""Which tensor is F_g, and how it becomes a map (B, C, h, w)."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.fx
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from hairify._support.nested import Size, image_size, tensors
from hairify.nn import Feature
from hairify.nn._features import Layout, find_feature, read_feature, token_grid

IMAGE = (64, 96)
CHANNELS = 97  # a side of no feature below, and far from the aspect ratio with any


@st.composite
def scaled(draw: st.DrawFn) -> tuple[Size, Size]:
    """A feature's size and the image's, of the very same aspect ratio; no squares."""
    size = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    assume(size[0] != size[1])
    scale = draw(st.integers(1, 16))
    return size, (size[0] * scale, size[1] * scale)


def arrange(feature: Tensor, layout: Layout) -> Tensor:
    """A map as a network of another layout would hold it."""
    if layout == "tokens":
        return feature.flatten(2).transpose(1, 2)
    if layout == "channels_last":
        return feature.permute(0, 2, 3, 1)
    return feature if layout == "map" else feature[:, :, 0, 0]


@given(
    sizes=scaled(),
    batch=st.integers(1, 3),
    strict=st.booleans(),
    layout=st.sampled_from(["map", "channels_last", "tokens"]),
)
def test_what_keeps_the_aspect_ratio_is_recognised_and_read(
    sizes: tuple[Size, Size], batch: int, strict: bool, layout: Layout
) -> None:
    size, image = sizes
    assume(layout != "tokens" or size[1] > 1)  # (B, h, 1) is as good a sequence as (B, h·1, C)
    feature = torch.randn(batch, CHANNELS, *size)
    output = arrange(feature, layout)
    found = find_feature([tuple(output.shape)], batch, image, strict=strict)
    assert found == Feature(0, layout, (CHANNELS, *size))
    assert (found.channels, found.area) == (CHANNELS, size[0] * size[1])
    assert torch.equal(read_feature(output, 0, layout, image), feature)


def test_few_channels_of_many_tokens_are_not_read_as_tokens() -> None:
    assert find_feature([(1, 6, 64 * 96)], 1, IMAGE, strict=True) is None
    assert find_feature([(1, 64 * 96, 6)], 1, IMAGE, strict=True) == Feature(0, "tokens", (6, 64, 96))
    # Both dimensions fit the image: those of a ViT with patches of 16 pixels
    assert find_feature([(1, 24, 384)], 1, IMAGE, strict=True) == Feature(0, "tokens", (384, 4, 6))


def test_a_shape_that_fits_both_ways_is_a_map_where_that_is_known() -> None:
    shape = (1, 6, 9, 12)  # of a map of 8×12 that is padded to 9×12; channels last, 6×9 would fit better
    assert find_feature([shape], 1, (16, 24), strict=True) == Feature(0, "channels_last", (12, 6, 9))
    for strict in (True, False):
        assert find_feature([shape], 1, (16, 24), strict=strict, are_maps=True) == Feature(0, "map", (6, 9, 12))


@pytest.mark.parametrize(("image", "size"), [((100, 150), (13, 19)), ((101, 67), (13, 9)), ((97, 130), (24, 32))])
def test_sides_may_be_rounded_from_four_up(image: Size, size: Size) -> None:
    assert find_feature([(1, CHANNELS, *size)], 1, image, strict=True) == Feature(0, "map", (CHANNELS, *size))
    assert find_feature([(1, *size, CHANNELS)], 1, image, strict=True) == Feature(0, "channels_last", (CHANNELS, *size))
    assert find_feature([(1, size[0] * size[1], CHANNELS)], 1, image, strict=True) == Feature(
        0, "tokens", (CHANNELS, *size)
    )
    assert find_feature([(1, CHANNELS, 3, 5)], 1, image, strict=True) is None


REFUSED: dict[str, tuple[int, ...]] = {  # for one image of 64×96
    "windows": (24, 8, 8, 32),
    "flat windows": (24, 64, 32),
    "the only window": (1, 8, 8, 32),
    "flat, the only window": (1, 64, 32),
    "attention of windows": (24, 4, 64, 64),
    "attention of positions": (1, 4, 96, 96),
    "attention of channels": (1, 8, 48, 48),
    "pooled": (1, 32, 1, 1),
    "pooled, channels last": (1, 1, 1, 32),
    "pooled along one side": (1, 32, 64, 1),
    "pooled vector": (1, 32),
    "pooled sequence": (1, 1, 32),
    "class token beside the positions": (1, 97, 32),
    "number": (),
    "one number per image": (1,),
    "video": (1, 32, 4, 8, 12),
    "empty": (1, 0, 8, 12),
    "another batch": (2, 32, 8, 12),
}


@pytest.mark.parametrize("shape", REFUSED.values(), ids=REFUSED)
def test_what_is_no_feature_is_refused(shape: tuple[int, ...]) -> None:
    assert find_feature([shape], 1, IMAGE, strict=True) is None


@pytest.mark.parametrize("shape", [(1, 32, 1, 1), (1, 1, 1, 32), (1, 1, 32), (1, 32)])
def test_a_pooled_vector_is_refused_on_square_images_too(shape: tuple[int, ...]) -> None:
    assert find_feature([shape], 1, (64, 64), strict=True) is None


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((1, 32, 1, 1), IMAGE, Feature(0, "map", (32, 1, 1))),
        ((1, 8, 8, 32), IMAGE, Feature(0, "map", (8, 8, 32))),
        ((1, 32), IMAGE, Feature(0, "vector", (32, 1, 1))),
        ((1, 97, 32), IMAGE, Feature(0, "tokens", (32, 1, 97))),
        ((1, 96, 32), None, Feature(0, "tokens", (32, 96, 1))),
        ((1, 32, 8, 12), None, Feature(0, "map", (32, 8, 12))),
        ((1, 32), None, Feature(0, "vector", (32, 1, 1))),
        ((2, 32, 8, 12), IMAGE, None),
        ((1, 32, 4, 8, 12), IMAGE, None),
        ((1, 0), IMAGE, None),
        ((1,), IMAGE, None),
    ],
)
def test_what_a_person_chose_is_accepted(shape: tuple[int, ...], image: Size | None, expected: Feature | None) -> None:
    assert find_feature([shape], 1, image, strict=False) == expected


@pytest.mark.parametrize("shape", [(1, 32, 8, 12), (1, 8, 12, 32), (1, 96, 32), (1, 32)])
def test_without_an_image_nothing_is_taken_for_a_feature(shape: tuple[int, ...]) -> None:
    assert find_feature([shape], 1, None, strict=True) is None


def test_the_lowest_resolution_is_taken_and_the_first_of_equals() -> None:
    shapes = [(1, 8, 32, 48), (1, 32, 1, 1), (1, 16, 8, 12), (1, 96, 20), (1, 8, 12, 24), (1, 9, 16, 24)]
    assert find_feature(shapes, 1, IMAGE, strict=True) == Feature(2, "map", (16, 8, 12))
    assert find_feature(shapes[3:], 1, IMAGE, strict=True) == Feature(0, "tokens", (20, 8, 12))
    assert find_feature(shapes[4:], 1, IMAGE, strict=True) == Feature(0, "channels_last", (24, 8, 12))
    assert find_feature(shapes, 1, IMAGE, strict=False) == Feature(1, "map", (32, 1, 1))
    assert find_feature([], 1, IMAGE, strict=False) is None
    assert find_feature(shapes, 2, IMAGE, strict=False) is None


@given(sizes=scaled())
def test_token_grid_has_the_aspect_ratio_of_the_image(sizes: tuple[Size, Size]) -> None:
    size, image = sizes
    assert token_grid(size[0] * size[1], image) == size


@given(length=st.integers(1, 3000), image=st.tuples(st.integers(1, 500), st.integers(1, 500)))
def test_token_grid_is_complete_and_the_nearest(length: int, image: Size) -> None:
    h, w = token_grid(length, image)
    assert h * w == length
    ideal = (length * image[0] / image[1]) ** 0.5
    rounded = max(1, round(ideal))
    if length % rounded == 0:  # the rule for symbolic sizes, which the search must not contradict
        assert h == rounded
    divisors = [n for n in range(1, length + 1) if length % n == 0]
    nearest = min(abs(math.log(n / ideal)) for n in divisors)
    assert abs(h - ideal) <= 0.5 or abs(w - length / ideal) <= 0.5 or abs(math.log(h / ideal)) <= nearest + 1e-9


@given(length=st.integers(1, 3000))
def test_token_grid_without_an_image(length: int) -> None:
    assert token_grid(length, None) == (length, 1)


LAYOUTS: list[Layout] = ["map", "channels_last", "tokens", "vector"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_feature_is_a_copy_that_passes_gradients(layout: Layout) -> None:
    feature = torch.randn(2, 5, *((1, 1) if layout == "vector" else (4, 6)))
    leaf = arrange(feature, layout).clone().requires_grad_()
    output = leaf * 1
    read = read_feature(output, 0, layout, IMAGE)
    output.zero_()  # as `ReLU(inplace=True)` and `x += skip` may do after the split
    assert torch.equal(read, feature)
    read.square().sum().backward()
    assert torch.equal(leaf.grad, 2 * leaf)


def test_vectors_become_maps_of_one_position() -> None:
    vector = torch.randn(2, 5)
    assert torch.equal(read_feature(vector, 0, "vector", None), vector.reshape(2, 5, 1, 1))


def test_tokens_without_an_image_become_a_column() -> None:
    tokens = torch.randn(2, 96, 5)
    assert torch.equal(read_feature(tokens, 0, "tokens", None), tokens.transpose(1, 2).unsqueeze(3))


def test_a_prime_number_of_tokens_becomes_a_row_or_a_column() -> None:
    tokens = torch.randn(2, 97, 5)
    assert torch.equal(read_feature(tokens, 0, "tokens", (64, 96)), tokens.transpose(1, 2).unsqueeze(2))
    assert torch.equal(read_feature(tokens, 0, "tokens", (96, 64)), tokens.transpose(1, 2).unsqueeze(3))


a, b, c = (torch.randn(2, 5, 4 * n, 6 * n) for n in (2, 1, 3))
OUTPUTS: list[Any] = [
    [a, b, c],
    (a, (b, c)),
    {"z": a, "a": b, "m": c},
    OrderedDict(z=a, a=[b], m=c),
    (None, a, "name", [3, {"low": b}], (), c),
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_nested_outputs(output: Any) -> None:
    found = tensors(output)
    assert [id(t) for t in found] == [id(t) for t in (a, b, c)]
    feature = find_feature([tuple(t.shape) for t in found], 2, IMAGE, strict=True)
    assert feature == Feature(1, "map", (5, 4, 6))
    assert torch.equal(read_feature(output, feature.index, feature.layout, IMAGE), b)


def test_image_size_is_that_of_the_first_image() -> None:
    image, other, step = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 5, 7), torch.rand(2)
    assert image_size((image, other), {}) == (8, 12)
    assert image_size((step, other), {"x": image}) == (5, 7)
    assert image_size((3, None), {"step": step, "x": image}) == (8, 12)
    assert image_size((step, torch.rand(2, 8, 12)), {"name": "x"}) is None
    assert image_size((), {}) is None


def test_image_size_of_a_symbolic_image() -> None:
    graph = torch.fx.Graph()
    proxy = torch.fx.Proxy(graph.placeholder("x"))
    height, width = image_size((proxy,), {})
    assert isinstance(height, torch.fx.Proxy)
    assert isinstance(width, torch.fx.Proxy)

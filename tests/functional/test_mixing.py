"""Which side of the distributive law is taken, and how much of the generated weights is in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import NETWORKS
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.multiprocessing.reductions import StorageWeakRef
from util import assert_close, perturb, published

from hairify import HairModel
from hairify.functional._mixing import outputs_are_cheaper
from hairify.functional._operations import Convolution, Linear, Operation
from hairify.nn import _boxes as boxes

pytestmark = pytest.mark.usefixtures("made_when_layers_run")

POINT = Convolution((1, 1), (0, 0), (1, 1), 1, (1, 1))
DENSE = Convolution((1, 1), (1, 1), (1, 1), 1, (3, 3))
STRIDED = Convolution((2, 2), (0, 0), (1, 1), 1, (2, 2))
TRANSPOSED = Convolution((2, 2), (0, 0), (1, 1), 1, (2, 2), transposed=True)


@functools.cache
def converted(name: str, box: str = "full") -> HairModel:
    return perturb(published(NETWORKS[name]().double().eval(), box=box))


def images(batch: int, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.rand(batch, 3, *size, dtype=torch.float64)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def decided(operation: Operation, batch: int, row: tuple[int, ...], size: int, rows: int = 1) -> bool:
    """For N = `size` and as many rows of input for each image."""
    weight = meta(size, 64, 64, *getattr(operation, "kernel", ()))
    return outputs_are_cheaper(operation, meta(batch * rows, *row), meta(batch, size), weight)


@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize(
    ("operation", "row", "size", "outputs"),
    [
        (POINT, (64, 1, 1), 4, True),  # pooled features
        (POINT, (64, 2, 2), 4, True),  # 4 uses of each of 4 rows
        (POINT, (64, 2, 3), 4, False),
        (POINT, (64, 1, 1), 17, False),
        (POINT, (64, 32, 32), 4, False),
        (Linear(), (64,), 4, True),
        (Linear(), (4, 64), 4, True),
        (Linear(), (5, 64), 4, False),
        (DENSE, (64, 4, 4), 4, True),  # 16 uses
        (DENSE, (64, 4, 5), 4, False),
        (STRIDED, (64, 8, 8), 4, True),
        (STRIDED, (64, 8, 10), 4, False),
        (TRANSPOSED, (64, 4, 4), 4, True),
        (TRANSPOSED, (64, 4, 5), 4, False),
    ],
)
def test_outputs_are_mixed_where_weights_are_hardly_used(
    operation: Operation, row: tuple[int, ...], size: int, outputs: bool, batch: int
) -> None:
    assert decided(operation, batch, row, size) == outputs
    assert not decided(operation, 1, row, size)  # one image: weights of one set are cheap
    assert not decided(operation, 1, row, size, rows=batch)


def test_rows_of_one_image_use_its_weights_together() -> None:
    assert decided(POINT, 2, (64, 1, 1), 4, rows=4)
    assert not decided(POINT, 2, (64, 1, 1), 4, rows=5)


def test_open_sizes_and_mixed_precision_mix_weights() -> None:
    n = ShapeEnv().create_unbacked_symint()  # raises where Python decides by it
    weight = meta(4, 64, 64, 1, 1)
    assert outputs_are_cheaper(POINT, meta(2, 64, 1, 1), meta(2, 4), weight)
    pooled, vectors, rows = torch.rand(2, 64, 1, 1), torch.rand(2, 4), torch.rand(4, 64, 64, 1, 1)
    assert outputs_are_cheaper(POINT, pooled, vectors, rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert not outputs_are_cheaper(POINT, pooled, vectors, rows)

    class Sizes:  # shape and dtype are all that is asked for
        dtype = torch.float32

        def __init__(self, *shape: Any) -> None:
            self.shape = shape

    for input, selecting in (
        (Sizes(n, 64, 1, 1), Sizes(n, 4)),
        (Sizes(2, 64, n, 1), Sizes(2, 4)),
        (Sizes(2, 64, 1, n), Sizes(2, 4)),
    ):
        assert not outputs_are_cheaper(POINT, input, selecting, weight)
    assert not outputs_are_cheaper(POINT, meta(2, 64, 1, 1, dtype=torch.bfloat16), meta(2, 4), weight)


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, tuple[int, ...]]]:
    """Decision and input's shape of each layer that runs from now on."""
    found: list[tuple[bool, tuple[int, ...]]] = []

    def recorded(operation: Operation, input: Tensor, *others: Tensor) -> bool:
        found.append((outputs_are_cheaper(operation, input, *others), tuple(input.shape[2:])))
        return found[-1][0]

    monkeypatch.setattr(boxes, "outputs_are_cheaper", recorded)
    return found


def test_pooled_features_of_a_network(decisions: list[tuple[bool, tuple[int, ...]]]) -> None:
    hair = converted("nafnet")
    hair(images(2))
    pooled = sum(len(level.blocks) for level in hair.plan.levels)  # one in each block
    assert [size for outputs, size in decisions if outputs] == [(1, 1)] * pooled
    decisions.clear()
    hair(images(1))
    assert not decisions  # a single image's weights are made for all layers at once


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_both_sides_agree_in_whole_networks(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hair, x = converted(name), images(batch)
    found: list[tuple[Tensor, ...]] = []
    for outputs in (True, False):
        monkeypatch.setattr(boxes, "outputs_are_cheaper", lambda *args, outputs=outputs: outputs)
        parameters = [p for p in hair.parameters() if p.requires_grad]
        output = hair(x)
        found.append((output.detach(), *torch.autograd.grad(output.square().mean(), parameters, allow_unused=True)))
    scale = max(float(g.abs().max()) for g in found[1][1:] if g is not None)
    assert_close(found[0][0], found[1][0], 1e-12)
    for got, expected in zip(found[0][1:], found[1][1:], strict=True):
        assert (got is None) == (expected is None)
        assert expected is None or (got - expected).abs().max() <= 1e-10 * scale


class Alive:
    """Bytes of mixed weights and biases in memory, at most at any time."""

    def __init__(self) -> None:
        self.made: list[tuple[int, StorageWeakRef]] = []
        self.most = 0

    def add(self, mixed: Tensor) -> Tensor:
        storage = mixed.untyped_storage()
        self.made.append((storage.nbytes(), StorageWeakRef(storage)))
        self.most = max(self.most, self.now())
        return mixed

    def now(self) -> int:
        return sum(size for size, reference in self.made if not reference.expired())


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Alive:
    record = Alive()
    for name in ("mix", "mix_low_rank"):
        original: Callable[..., Tensor] = getattr(boxes, name)
        monkeypatch.setattr(boxes, name, lambda *args, original=original: record.add(original(*args)))
    return record


def largest_layer(hair: HairModel, batch: int) -> int:
    """Bytes of the weights and biases of one layer for a batch."""
    found = []
    for level in hair.plan.levels:
        for layer in level.layers:
            module = hair.base.get_submodule(f"{level.blocks[0]}.{layer}".rstrip("."))
            address, selecting = module.hair_address, torch.ones(1, level.box_size)
            weight, bias = hair.boxes[address.level](address.layer_name, selecting, address.block)
            found.append((weight.numel() + (0 if bias is None else bias.numel())) * batch * weight.element_size())
    return max(found)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("box", ["full", "low_rank"])
@pytest.mark.parametrize("name", ["restormer", "nafnet", "window"])
def test_weights_of_one_layer_are_in_memory_at_a_time(
    name: str, box: str, mode: Callable[[], Any], alive: Alive
) -> None:
    batch, hair = 4, converted(name, box)
    with mode():
        bound = largest_layer(hair, batch)
        alive.made.clear()
        alive.most = 0
        hair.recompute_weights(True)
        hair(images(batch))
        hair.recompute_weights()
    assert len(alive.made) >= sum(len(level.blocks) * len(level.layers) for level in hair.plan.levels) // 2
    assert 0 < alive.most <= bound
    assert alive.now() == 0
    largest_block = max(level.row_parameters for level in hair.plan.levels) * batch * 8
    assert bound <= largest_block

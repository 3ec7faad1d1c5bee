"""Compiled for a GPU, with CUDA graphs too, a model computes what it computes eagerly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import gpu
import pytest
import torch
from gpu import DEVICE
from torch import Tensor
from util import START, Conditioned, assert_close

from hairify import HairModel

pytestmark = gpu.needed

TOLERANCE = START[torch.float64]


@pytest.fixture
def full_precision() -> None:
    """Nothing is switched off in place of the other fixture of this name: all is in float64, and Inductor asks."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def hair() -> HairModel:
    return copy.deepcopy(gpu.converted("all kinds")).to(DEVICE)


def batch(number: int) -> Tensor:
    return gpu.images(number).to(DEVICE)


def test_batches_of_any_size(hair: HairModel) -> None:
    """The second size has the number of images left open."""
    compiled = torch.compile(hair, fullgraph=True)
    with torch.no_grad():
        for number in (2, 3, 5, 1):
            assert_close(compiled(batch(number)), hair(batch(number)), TOLERANCE)


def test_with_cuda_graphs(hair: HairModel) -> None:
    compiled = torch.compile(hair, fullgraph=True, mode="reduce-overhead", dynamic=False)
    with torch.no_grad():
        for power in (1, 2, 3, 4):  # the first calls warm up and record, the later ones replay
            x = batch(3) ** power
            assert_close(compiled(x).clone(), hair(x), TOLERANCE)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_conditioned(hair: HairModel, mode: str) -> None:
    compiled, x = torch.compile(Conditioned(hair), fullgraph=True, mode=mode, dynamic=False), batch(3)
    with torch.no_grad():
        for giv in hair.giv(x).split(1):
            for _ in range(2):
                assert_close(compiled(x, giv).clone(), hair.bake(giv=giv)(x), TOLERANCE)


def gradients(call: Callable[[Tensor], Tensor], hair: HairModel, x: Tensor) -> Tensor:
    hair.zero_grad()
    call(x).square().mean().backward()
    return torch.cat([p.grad.flatten().clone() for p in hair.parameters() if p.grad is not None])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_training_step(hair: HairModel, mode: str) -> None:
    compiled = torch.compile(hair, fullgraph=True, mode=mode, dynamic=False)
    for power in (1, 2, 3):
        x = batch(3) ** power
        got = gradients(compiled, hair, x)
        assert_close(got, gradients(hair, hair, x), TOLERANCE)

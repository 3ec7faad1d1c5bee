"""The variants of a network that are compared, ready to be called."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import Case, Variant
from benchmarks.networks import build
from hairify import HairModel, hairify, plan
from hairify.functional import _kernels as kernels
from hairify.functional._kernels import Kernel
from hairify.functional._operations import Linear, Operation
from hairify.nn import _boxes as boxes


@dataclass
class Pair:
    """A network, and its conversion.

    Attributes:
        static: unconverted.
        hair: converted.
        seconds: that planning and conversion took.
    """

    static: nn.Module
    hair: HairModel
    seconds: float


def convert(network: str, box_factor: int | None, device: str, clock: Callable[[], float]) -> Pair:
    """Build a network and convert it; N is as `hairify` chooses it, or a multiple of M in a level of M blocks."""
    static = build(network)
    start = clock()
    planned = plan(static)
    if box_factor is not None:
        sizes = {level.name: box_factor * len(level.blocks) for level in planned.levels}
        planned = plan(static, box_size=sizes)
    hair = hairify(static, plan=planned)
    seconds = clock() - start
    return Pair(static.to(device), hair.to(device), seconds)


def _grouped_kernel(operation: Operation, batch: int, *others: object) -> Kernel:
    if batch == 1:
        return "plain"
    return "matmul" if isinstance(operation, Linear) else "grouped"


def _never(*arguments: object) -> bool:
    return False


@contextlib.contextmanager
def as_the_field_does(hair: HairModel) -> Iterator[None]:
    """Within it, all convolutions are grouped over the batch, and all generated weights kept for the backward pass.

    That is how dynamic convolutions are usually written. Linear layers, which have no groups, are batched products.
    """
    before = [box.recompute for box in hair.boxes]
    with (
        mock.patch.object(kernels, "choose_kernel", _grouped_kernel),
        mock.patch.object(boxes, "outputs_are_cheaper", _never),
    ):
        hair.recompute_weights(False)
        try:
            yield
        finally:
            for box, value in zip(hair.boxes, before, strict=True):
                box.recompute = value


@dataclass
class Runner:
    """One variant of a case.

    Attributes:
        model: the network of the variant.
        run: one forward or training step.
        within: the context to run it in, of no weight in its time.
    """

    model: nn.Module
    run: Callable[[], object]
    within: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


@contextlib.contextmanager
def runners(case: Case, pair: Pair, images: Tensor) -> Iterator[dict[Variant, Runner]]:
    """The variants of a case, in its order."""
    if case.compiled:
        torch.compiler.reset()  # so many cases as there are would reach the limit on compiling the same code anew
    pair.static.train(case.mode == "training")
    pair.hair.train(case.mode == "training")
    with ExitStack() as stack:
        made: dict[Variant, Runner] = {}
        for variant in case.variants:
            model = _model(variant, case, pair, images, stack)
            # Compiled apart: with kernels of its own, the grouped variant is another program.
            mode = "reduce-overhead" if case.graphs else "default"
            called = torch.compile(model, dynamic=case.dynamic, mode=mode) if case.compiled else model
            made[variant] = Runner(model, _step(case, model, called, images))
            if variant == "grouped":
                made[variant].within = lambda: as_the_field_does(pair.hair)
        yield made


def _model(variant: Variant, case: Case, pair: Pair, images: Tensor, stack: ExitStack) -> nn.Module:
    if variant == "static":
        return pair.static
    if variant == "tuned":
        with torch.autocast(case.device, torch.bfloat16, enabled=case.bfloat16):
            return copy.deepcopy(pair.hair).tune(images)
    if variant == "baked":
        return pair.hair.bake(images[:1])
    if variant == "conditioned":  # a copy, since entering it counts for the whole case
        model = copy.deepcopy(pair.hair)
        with torch.no_grad():
            stack.enter_context(model.conditioned_on(model.giv(images[:1])))
        return model
    return pair.hair


def _step(case: Case, model: nn.Module, called: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], object]:
    target = torch.rand_like(images)

    def compute() -> Tensor:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.bfloat16):
            return called(images)

    def forward() -> None:
        with torch.inference_mode():
            compute()

    def train() -> None:
        F.l1_loss(compute().float(), target).backward()
        model.zero_grad(set_to_none=True)

    return forward if case.mode == "forward" else train

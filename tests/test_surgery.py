"""The cases of module surgery that go wrong elsewhere: converted rightly, or left alone with a reason."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from util import assert_close, assert_unchanged, perturb, snapshot

from hairify import hairify
from hairify.errors import SplitError
from hairify.nn import HyperLayer


class Body(nn.Module):
    """head, split, then a body that each test fills."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.split = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, 2, 1)
        self.last = nn.Conv2d(6, 12, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return x

    def forward(self, image: Tensor) -> Tensor:
        return image + F.pixel_shuffle(self.last(self.body(self.split(self.head(image)))), 2)


class TwoNames(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(6, 6, 3, padding=1)
        self.second = self.first

    def body(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


class TwoParents(Body):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.Conv2d(6, 6, 3, padding=1)
        self.left, self.right = nn.Sequential(shared, nn.GELU()), nn.Sequential(nn.Conv2d(6, 6, 1), shared)

    def body(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class PlainList(Body):
    """The layer is also kept where no module registry sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.stages = [self.conv, torch.tanh]

    def body(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class BlockTwice(Body):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 6, 1))

    def body(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class SplitTwice(Body):
    """The split runs again after it set the GIV."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.split(self.conv(x)), scale_factor=2)


@pytest.mark.parametrize("make", [TwoNames, TwoParents, PlainList, BlockTwice, SplitTwice])
def test_what_is_shared_stays_shared(make: type[nn.Module]) -> None:
    model, x = make().double().eval(), torch.rand(3, 3, 32, 48).double()
    hair = hairify(model, split_at="split")
    assert_close(hair(x), model(x), 1e-10)
    plain = {m for m in hair.base.modules() if isinstance(m, nn.Conv2d) and not isinstance(m, HyperLayer)}
    assert plain == {hair.base.head, hair.base.split}, "a layer after the split was not converted"
    perturb(hair)
    with torch.no_grad():
        static = hair.bake(x[:1])
        assert_close(hair(x)[:1], static(x[:1]), 1e-10)
        assert_close(hair(x), torch.cat([hair(x[i : i + 1]) for i in range(3)]), 1e-10)
    assert list(static.state_dict()) == list(model.state_dict())
    if make is TwoNames:
        assert static.first is static.second
    if make is TwoParents:
        assert static.left[0] is static.right[1]
    if make is PlainList:
        assert static.conv is static.stages[0]
        assert hair.base.conv is hair.base.stages[0]


@pytest.mark.parametrize("model", [nn.Conv2d(3, 3, 3, padding=1), nn.Linear(96, 96)])
def test_a_model_that_is_one_layer_is_refused(model: nn.Module) -> None:
    before = snapshot(model)
    with pytest.raises(SplitError, match="itself a single layer"):
        hairify(model, inplace=True)
    assert_unchanged(model, before)


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_kept_module_by_module(training: bool) -> None:
    model = BlockTwice().train(training)
    model.block.train(not training)
    hair = hairify(model)
    assert {n: m.training for n, m in hair.base.named_modules()} == {n: m.training for n, m in model.named_modules()}
    assert hair.training == hair.dac.training == hair.boxes.training == training
    assert not any(m.training for m in hair.eval().modules())


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, *args: object) -> None:
        self.calls += 1


def test_hooks_on_replaced_layers_still_run() -> None:
    model = BlockTwice().double()
    before, after, backward = Counter(), Counter(), Counter()
    layer = model.block[0]
    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)
    layer.register_full_backward_hook(backward)
    layer.register_forward_hook(lambda module, args, output: output + 1)
    expected, x = copy.deepcopy(model), torch.rand(2, 3, 32, 48).double()
    hair = hairify(model, inplace=True)
    assert_close(hair(x), expected(x), 1e-10)
    before.calls = after.calls = backward.calls = 0
    hair(x).sum().backward()
    assert (before.calls, after.calls, backward.calls) == (2, 2, 2)


def test_state_dict_of_the_base_keeps_its_names() -> None:
    model = BlockTwice()
    hair = hairify(model)
    converted = {n for level in hair.plan.levels for layer in level.layers for n in level.layer_names(layer)}
    expected = [k for k in model.state_dict() if k.rpartition(".")[0] not in converted]
    assert [k.removeprefix("base.") for k in hair.state_dict() if k.startswith("base.")] == expected


def test_a_layer_of_a_users_class_comes_back_as_that_class() -> None:
    class Tagged(nn.Conv2d):
        tag = "mine"

    model = nn.Sequential(
        OrderedDict(
            head=nn.Conv2d(3, 6, 3, 2, 1),
            body=Tagged(6, 6, 3, padding=1),
            last=nn.Conv2d(6, 12, 1),
            up=nn.PixelShuffle(2),
        )
    )
    hair = hairify(model, split_at="head")
    assert isinstance(hair.base.body, HyperLayer)
    static = hair.bake(torch.rand(1, 3, 32, 48))
    assert type(static.body) is Tagged


class FreshWeightNorm(Body):
    """Old weight_norm keeps a tensor with a gradient history as an attribute: a bare deepcopy raises."""

    def __init__(self) -> None:
        super().__init__()
        with pytest.warns(FutureWarning):
            self.normed = nn.utils.weight_norm(nn.Conv2d(6, 6, 1))

    def body(self, x: Tensor) -> Tensor:
        return self.normed(x)


def test_a_model_that_deepcopy_cannot_copy_is_converted() -> None:
    model, x = FreshWeightNorm().double(), torch.rand(2, 3, 32, 48).double()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    hair = hairify(model)
    assert_close(hair(x), model(x), 1e-10)
    assert_close(hair.bake(x[:1])(x), model(x), 1e-10)


class Marks(Body):
    """A forward that leaves marks wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        self.mean = image.mean((1, 2, 3), keepdim=True)
        self.calls += 1
        image -= self.mean
        self.feature = self.norm(self.drop(self.split(self.head(image))))
        return image + F.pixel_shuffle(self.last(self.feature + torch.rand(())), 2)


def test_probing_leaves_no_mark() -> None:
    model, example = Marks().train(), torch.rand(2, 3, 32, 48)
    kept, before = example.clone(), snapshot(model)
    hair = hairify(model, example_inputs=example)
    assert_unchanged(model, before)
    assert torch.equal(example, kept)
    assert hair.base.calls == 0
    assert not hasattr(hair.base, "feature")

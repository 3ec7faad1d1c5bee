"""Activation checkpointing: by hairify it gives the same gradients, by the network itself it works or is told."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import MethodType

import pytest
import torch
from networks import NETWORKS, Chain, Pooled, UNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from util import assert_close, bytes_kept, perturb, published

from hairify import HairModel, hairify, plan
from hairify.errors import GIVError, NothingToConvertError, OutsideForwardError, RecomputationError

Grads = dict[str, Tensor]


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 32, 48, dtype=torch.float64)


def converted(name: str = "unet", preset: str = "published", **options: object) -> HairModel:
    return perturb(hairify(NETWORKS[name]().double().train(), preset=preset, **options))


def loss(hair: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(3)  # for dropout
    return (hair(x) - x).square().mean()


def gradients(hair: nn.Module) -> Grads:
    return {name: p.grad.clone() for name, p in hair.named_parameters() if p.grad is not None}


def assert_same(got: Grads, expected: Grads) -> None:
    assert got.keys() == expected.keys()
    assert any(name.startswith("dac") for name in got)
    assert any(name.startswith("base") for name in got)
    for name, gradient in expected.items():
        # relative to the largest gradient of all: behind a norm the true gradient of a bias is zero
        scale = max(float(g.abs().max()) for g in expected.values())
        assert (got[name] - gradient).abs().max() <= 1e-12 * scale, name


@pytest.mark.parametrize("options", [{}, {"preset": "default", "dac": "published"}], ids=["full", "low_rank"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same(name: str, options: dict[str, object]) -> None:
    hair, x = converted(name, **options), images()
    other = copy.deepcopy(hair).checkpoint_blocks()
    loss(hair, x).backward()
    loss(other, x).backward()
    assert_same(gradients(other), gradients(hair))
    buffers = dict(other.named_buffers())
    for key, buffer in hair.named_buffers():  # running statistics have moved once, not twice
        assert_close(buffers[key], buffer, 1e-12)  # weights that are made ahead are rounded otherwise


def test_draws_are_repeated() -> None:
    body = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.Dropout()) for _ in "12")
    hair = perturb(published(Chain(*body).double().train()))
    other, x = copy.deepcopy(hair).checkpoint_blocks(), images()
    loss(hair, x).backward()
    loss(other, x).backward()
    assert_same(gradients(other), gradients(hair))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["restormer", "window"])
def test_it_saves_memory(name: str) -> None:
    hair, x = converted(name), images(4)
    before = bytes_kept(hair, x)
    assert bytes_kept(hair.checkpoint_blocks(), x) < 0.75 * before  # the DAC and all before the split stay
    assert bytes_kept(hair.checkpoint_blocks(False), x) == before


def test_two_forwards_before_one_backward() -> None:
    hair, (x, y) = converted("restormer"), (images(), images(3))
    other = copy.deepcopy(hair).checkpoint_blocks()
    for model in (hair, other):
        first, second = loss(model, x), loss(model, y)
        (first + 2 * second).backward()
    assert_same(gradients(other), gradients(hair))


def test_a_forward_in_between_does_not_matter() -> None:
    hair, x = converted("restormer"), images()
    other = copy.deepcopy(hair).checkpoint_blocks()
    loss(hair, x).backward()
    waiting = loss(other, x)
    with other.conditioned_on(torch.randn(1, 64, dtype=torch.float64)):
        other(images(3))
        waiting.backward()
    assert_same(gradients(other), gradients(hair))


def test_the_backward_pass_may_run_in_another_thread() -> None:
    hair, x = converted("restormer"), images()
    other = copy.deepcopy(hair).checkpoint_blocks()
    loss(hair, x).backward()
    waiting = loss(other, x)
    thread = threading.Thread(target=waiting.backward)  # as that of CUDA does
    thread.start()
    thread.join()
    assert_same(gradients(other), gradients(hair))


def test_under_a_giv_of_ones_own() -> None:
    hair, x = converted("window"), images()
    given = torch.randn(2, 64, dtype=torch.float64, requires_grad=True)
    found = []
    for model in (hair, copy.deepcopy(hair).checkpoint_blocks()):
        with model.conditioned_on(given):
            found.append(torch.autograd.grad(loss(model, x), given)[0])
    assert_close(found[1], found[0], 1e-12)
    assert found[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_checkpoint_their_own_blocks(again: Callable[[nn.Module], nn.Module]) -> None:
    hair, x = converted("restormer").checkpoint_blocks(), images()
    loss(hair, x).backward()
    expected = gradients(hair)
    hair.zero_grad()
    other = again(hair)
    loss(other, x).backward()
    assert_same(gradients(other), expected)
    assert not gradients(hair)
    assert bytes_kept(other, x) == bytes_kept(hair, x)


def test_what_leaves_the_model_is_not_checkpointed() -> None:
    hair, x = converted().checkpoint_blocks(), images(1)
    hair.eval()
    with torch.no_grad():
        expected = hair(x)
        static = hair.bake(x)
        assert_close(static(x), expected, 1e-12)
        assert_close(hair.graph()(x), expected, 1e-12)
    assert not any("forward" in module.__dict__ for module in static.modules())
    assert any("forward" in module.__dict__ for module in hair.base.modules())


def test_turning_it_off_gives_back_what_stood_there() -> None:
    hair = converted("restormer")
    block = hair.base.decoder_level3[0]
    seen = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return type(block).forward(block, x)

    block.forward = forward
    hair.checkpoint_blocks().checkpoint_blocks()
    hair(images())
    assert len(seen) == 1
    hair.checkpoint_blocks(False)
    assert block.__dict__["forward"] is forward
    assert "forward" not in hair.base.decoder_level3[1].__dict__


@pytest.mark.slow
def test_blocks_compile() -> None:
    hair, x = converted(dac=Pooled).checkpoint_blocks(), images()
    loss(hair, x).backward()
    expected = gradients(hair)
    hair.zero_grad()
    loss(torch.compile(hair, backend="aot_eager"), x).backward()
    assert_same(gradients(hair), expected)


class Checkpointing(Chain):
    """Checkpoints a part of itself, as networks with an option `use_checkpoint` do."""

    def __init__(self, part: str, reentrant: bool) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.part, self.reentrant = part, reentrant

    def run(self, part: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return checkpoint(function, x, use_reentrant=self.reentrant) if part == self.part else function(x)

    def forward(self, image: Tensor) -> Tensor:
        x = self.run("head", self.head, image)
        x = self.run("split", self.split, x)
        x = self.run("body", self.middle, x)
        return image + nn.functional.pixel_shuffle(self.last(x), 2)


@pytest.mark.parametrize("part", ["split", "body"])
def test_the_networks_own_checkpoints_are_told(part: str) -> None:
    hair, x = perturb(published(Checkpointing(part, False).double().train(), split_at="split")), images()
    result = loss(hair, x)
    with pytest.raises(OutsideForwardError, match=r"run again during a backward pass.*checkpoint_blocks"):
        result.backward()


@pytest.mark.parametrize("part", ["split", "body"])
def test_the_reentrant_kind_switched_on_after_conversion_is_told(part: str) -> None:
    hair, x = perturb(published(Checkpointing("nothing", True).double().train(), split_at="split")), images()
    hair.base.part = part
    x.requires_grad_()
    with pytest.raises(OutsideForwardError, match="run again during a backward pass"):
        loss(hair, x).backward()


def test_what_the_reentrant_kind_holds_is_left_alone() -> None:
    """Within it no gradient is recorded, so nothing shows what depends on the split."""
    skipped = plan(Checkpointing("body", True), split_at="split").skipped
    assert "does not depend" in skipped["body.0"]
    assert "does not depend" in skipped["body.1"]
    with pytest.raises(NothingToConvertError):
        plan(Checkpointing("split", True), split_at="split")


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_networks_own_checkpoints_before_the_split_work(reentrant: bool) -> None:
    hair, x = perturb(published(Checkpointing("head", reentrant).double().train(), split_at="split")), images()
    x.requires_grad_()  # the reentrant kind wants that
    loss(hair, x).backward()
    expected = gradients(hair)
    hair.zero_grad()
    hair.base.part = "nothing"
    loss(hair, x).backward()
    assert_same(gradients(hair), expected)


@pytest.mark.parametrize("part", ["split", "body"])
def test_a_backward_pass_within_another_forward_takes_no_foreign_giv(part: str) -> None:
    hair = perturb(published(Checkpointing(part, False).double().train(), split_at="split"))
    waiting = loss(hair, images())

    def backward(*_: object) -> None:
        handle.remove()
        waiting.backward()

    handle = (hair.base.head if part == "split" else hair.base.last).register_forward_hook(backward)
    with pytest.raises(OutsideForwardError, match="run again during a backward pass"):
        hair(images())


def test_a_layer_that_is_a_block_is_checkpointed() -> None:
    hair = perturb(published(UNet().double().train(), targets="layers")).checkpoint_blocks()
    assert {"forward" in hair.base.get_submodule(b).__dict__ for v in hair.plan.levels for b in v.blocks} == {True}


def chain(*block: Callable[[], nn.Module], count: int = 3) -> HairModel:
    """A network whose level is made of such blocks."""
    body = (nn.Sequential(*(make() for make in block)) for _ in range(count))
    return perturb(published(Chain(*body).double().train(), include=("body",), split_at="split", dac=Pooled))


def conv() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1)


def norm() -> nn.Module:
    return nn.BatchNorm2d(8)


def test_a_block_that_writes_into_its_input_is_told() -> None:
    hair = chain(lambda: nn.LeakyReLU(0.2, inplace=True), conv)
    hair(images())
    with pytest.raises(RecomputationError, match=r"'body\.0' was written to in place"):
        hair.checkpoint_blocks()(images())


class WritesLater(Chain):
    def middle(self, x: Tensor) -> Tensor:
        for block in self.body:
            x += block(x)
        return x


def test_an_input_that_is_written_to_later_is_told() -> None:
    body = (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3), nn.ReLU()) for _ in range(3))
    hair, x = perturb(published(WritesLater(*body).double().train(), dac=Pooled)), images()
    loss(hair, x).backward()  # without checkpoints nothing needs these inputs again
    result = loss(hair.checkpoint_blocks(), x)
    with pytest.raises(RecomputationError, match="written to in place"):
        result.backward()


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Holds(nn.Module):
    """A norm that is a child of the block, which uses it by another way."""

    def __init__(self, norm: nn.Module, way: str) -> None:
        super().__init__()
        self.conv, self.norm, self.name = conv(), norm, way
        self.way = {
            "list": [self.norm],
            "dict of tuples": {"norms": (self.norm,)},
            "bound method": self.norm.forward,
            "partial": functools.partial(self.scaled, scale=0.5),
        }[way]

    def scaled(self, x: Tensor, scale: float) -> Tensor:
        return scale * self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        x, way = self.conv(x), self.way
        if self.name == "dict of tuples":
            return way["norms"][0](x)
        return way[0](x) if self.name == "list" else way(x)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": norm,
    "own": lambda: OwnNorm(8),
    "instance": lambda: nn.InstanceNorm2d(8, track_running_stats=True),
    "synchronised": lambda: nn.SyncBatchNorm(8),
    "nested": lambda: nn.Sequential(nn.Sequential(norm())),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((kind, "list") for kind in NORMS),
        *(("batch", way) for way in ("dict of tuples", "bound method", "partial")),
    ],
)
def test_norms_move_once_however_a_block_holds_them(kind: str, way: str, compiled: bool) -> None:
    hair, x = chain(lambda: Holds(NORMS[kind](), way)), images()
    assert len(hair.plan.levels[0].blocks) == 3  # with their norms
    other = copy.deepcopy(hair).checkpoint_blocks()
    if compiled:
        for block in other.base.body:
            block[0].norm.compile(backend="eager")
    for model in (hair, other):
        before = copy.deepcopy(dict(model.named_buffers()))
        loss(model, x).backward()
    assert_same(gradients(other), gradients(hair))
    for (name, one), (_, two) in zip(hair.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(one, two), name
        assert "running" not in name or not torch.equal(one, before[name]), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_norms_move_once_with_checkpointing_around_the_model(reentrant: bool) -> None:
    hair, x = chain(conv, norm), images().requires_grad_()
    other = copy.deepcopy(hair)
    hair(x).square().mean().backward()
    checkpoint(other, x, use_reentrant=reentrant).square().mean().backward()
    assert_same(gradients(other), gradients(hair))
    for (name, one), (_, two) in zip(hair.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
def test_blocks_with_buffers_start_again_from_those_of_the_first_run() -> None:
    hair, x = chain(conv, norm, lambda: nn.utils.spectral_norm(conv())), images()
    hair(x)  # a fresh spectral_norm cannot be copied
    with torch.no_grad():
        hair(x)
    other = copy.deepcopy(hair).checkpoint_blocks()
    for model in (hair, other):
        value = loss(model, x)
        for _ in range(2):  # gradients add up
            value.backward(retain_graph=True)
    assert_same(gradients(other), gradients(hair))
    buffers = dict(other.named_buffers())
    assert all(torch.equal(buffers[key], buffer) for key, buffer in hair.named_buffers())


def test_threads_share_blocks_with_buffers() -> None:
    hair, x = chain(conv, norm).checkpoint_blocks(), images()
    before = {name: id(b) for name, b in hair.named_buffers()}
    counting = threading.Lock()

    def step() -> None:
        with counting:  # BatchNorm's own count of batches loses some where threads add to it at the same time
            value = loss(hair, x)
        value.backward()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(step) for _ in range(16)]:
            done.result()
    assert {name: id(b) for name, b in hair.named_buffers()} == before
    assert {int(b) for name, b in hair.named_buffers() if name.endswith("num_batches_tracked")} == {16}


def test_a_replaced_forward_runs_on_the_buffers_of_the_first_run_too() -> None:
    hair, x = chain(conv, norm), images()
    for block in hair.base.body:
        block.forward = MethodType(lambda self, x: 2 * type(self).forward(self, x), block)
    other = copy.deepcopy(hair)
    loss(hair, x).backward()
    loss(other.checkpoint_blocks(), x).backward()
    assert_same(gradients(other), gradients(hair))
    assert all(torch.equal(a, b) for a, b in zip(hair.buffers(), other.buffers(), strict=True))
    other.checkpoint_blocks(False).base.body[1].forward = lambda x: x
    with pytest.raises(RecomputationError, match=r"'body\.1', which has buffers, was replaced"):
        other.checkpoint_blocks()
    assert isinstance(other.base.body[0].forward, MethodType)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_around_the_whole_model(reentrant: bool) -> None:
    hair, x = chain(conv), images().requires_grad_()
    given = torch.randn(1, 64, dtype=torch.float64)

    def conditioned(x: Tensor) -> Tensor:
        with hair.conditioned_on(given):
            return hair(x)

    for function in (hair, conditioned):
        found = []
        for run in (function, lambda x, f=function: checkpoint(f, x, use_reentrant=reentrant)):
            hair.zero_grad()
            run(x).square().mean().backward()
            found.append(gradients(hair))
        assert found[0].keys() == found[1].keys()
        assert all(torch.allclose(found[1][name], g, rtol=1e-10, atol=1e-14) for name, g in found[0].items())
    message = r"where this GIV is not known. Enter `conditioned_on` within"
    with hair.conditioned_on(given), pytest.raises(OutsideForwardError, match=message):
        checkpoint(hair, x, use_reentrant=reentrant)
    with hair.conditioned_on(given), torch.no_grad():
        assert torch.equal(checkpoint(hair, x.detach(), use_reentrant=reentrant), conditioned(x))  # never run again


def gradient(x: Tensor, *functions: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.detach().clone().requires_grad_()
    sum(f(x).square().mean() for f in functions).backward()
    return x.grad


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_conditioned_steps_and_checkpointing_around_the_model_take_turns(reentrant: bool, training: bool) -> None:
    hair, x = chain(conv).train(training), images()
    givens = torch.randn(2, 1, 64, dtype=torch.float64)

    def conditioned(x: Tensor, which: int = 0) -> Tensor:
        with hair.conditioned_on(givens[which]):
            return hair(x)

    def again(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: checkpoint(function, 2 * x, use_reentrant=reentrant)

    def once(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: function(2 * x)

    def other(x: Tensor) -> Tensor:
        return conditioned(x, 1)

    plans = [[hair], [conditioned], [hair, conditioned], [conditioned, hair], [other, hair, conditioned]]
    for functions in plans * 2:
        expected = gradient(x, *map(once, functions))
        assert_close(gradient(x, *map(again, functions)), expected, 1e-12)
        mixed = [again(f) if f is hair else once(f) for f in functions]
        assert_close(gradient(x, *mixed), expected, 1e-12)
        y = x.clone().requires_grad_()
        loss = sum(f(y).square().mean() for f in map(again, functions))
        with hair.conditioned_on(givens[1]):  # around the backward pass, for which it is not meant
            loss.backward()
        assert_close(y.grad, expected, 1e-12)


def test_inputs_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        scale = torch.rand(1, dtype=torch.float64)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.conv(x) * scale.clone()

    class Net(Chain):
        def middle(self, x: Tensor) -> Tensor:
            for block in self.body:
                x = block(x, scale)
            return x

    hair, x = perturb(published(Net(Scaled(), Scaled(), Scaled()).double(), split_at="split", dac=Pooled)), images()
    loss(hair, x).backward()
    expected = gradients(hair)
    hair.zero_grad()
    loss(hair.checkpoint_blocks(), x).backward()
    assert_same(gradients(hair), expected)


def test_data_parallel_is_refused_by_name() -> None:
    hair = chain(conv)
    with hair.conditioned_on(torch.zeros(1, 64)), pytest.raises(GIVError, match=r"`nn\.DataParallel`"):
        hair._replicate_for_data_parallel()
    with pytest.raises(RecomputationError, match=r"`nn\.DataParallel`"):
        hair.checkpoint_blocks()._replicate_for_data_parallel()


def test_a_layer_compiled_by_itself_within_a_checkpointed_block() -> None:
    hair, x = chain(conv, nn.ReLU, conv), images()
    loss(hair, x).backward()
    expected = gradients(hair)
    hair.zero_grad()
    hair.checkpoint_blocks().base.body[1][0].compile(backend="aot_eager")
    loss(hair, x).backward()
    assert_same(gradients(hair), expected)

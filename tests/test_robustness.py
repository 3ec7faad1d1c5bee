"""Networks and circumstances that once went wrong, or might."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Chain, UNet, small_restormer
from torch import Tensor, nn
from util import assert_close, assert_differs, perturb

from hairify import HairModel, functional, hairify, plan
from hairify._support.randomness import own_generators
from hairify.errors import ExampleInputError, GraphError, ShapeError
from hairify.nn import HyperLayer


def conv(cls: type[nn.Conv2d] = nn.Conv2d, **options: Any) -> nn.Conv2d:
    return cls(8, 8, 3, padding=1, **options)


X = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)).double()


def converted(net: nn.Module) -> HairModel:
    """With the split by name, checked for the exact start."""
    net = net.double().eval()
    hair = hairify(net, split_at="split", targets="layers")
    with torch.no_grad():
        assert_close(hair(X), net(X), 1e-10)
    return hair


def test_other_threads_run_their_models_while_one_plans() -> None:
    bystander, failures, done = UNet().eval(), [], threading.Event()
    x = torch.rand(1, 3, 16, 16)
    expected = bystander(x)

    def work() -> None:
        while not done.is_set():
            try:
                assert torch.equal(bystander(x), expected)
            except Exception as error:
                failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        hair = hairify(small_restormer(), example_inputs=torch.rand(1, 3, 32, 48))
        hair.graph()
    finally:
        done.set()
        worker.join()
    assert not failures


class OwnSeed(nn.Module):
    """A network that seeds, and draws by operations of several kinds."""

    def __init__(self, *, seeds: bool) -> None:
        super().__init__()
        self.inner, self.seeds = UNet(), seeds

    def forward(self, x: Tensor) -> Tensor:
        if self.seeds:
            torch.manual_seed(3)
        x = x + 0.01 * torch.randn_like(x) * torch.rand(()) + 0.01 * torch.randint(3, ())
        return self.inner(F.dropout(x, 0.1))


@pytest.mark.parametrize("preset", ["default", "published"])
def test_no_draw_of_another_thread_is_drawn_again(preset: Any) -> None:
    drawn, done = [], threading.Event()

    def draw() -> None:
        while not done.is_set():
            drawn.append(tuple(torch.rand(4).tolist()))

    worker = threading.Thread(target=draw)
    worker.start()
    try:
        hairify(OwnSeed(seeds=False), preset=preset)
    finally:
        done.set()
        worker.join()
    assert len(drawn) > 100
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("drawn", [0, 5])
@pytest.mark.parametrize("seeds", [False, True])
def test_a_network_that_seeds_leaves_the_random_state(seeds: bool, drawn: int) -> None:
    network = OwnSeed(seeds=seeds)
    torch.manual_seed(3)
    torch.rand(drawn)
    state = torch.get_rng_state()
    hairify(network)
    assert torch.equal(torch.get_rng_state(), state)


DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(5),
    "like": lambda: torch.randn_like(torch.ones(5)),
    "permutation": lambda: torch.randperm(9),
    "from low": lambda: torch.randint(3, 90, (5,)),
    "dropout": lambda: F.dropout(torch.ones(50), 0.5),
    "fused": lambda: torch.native_dropout(torch.ones(50), 0.5, True)[0],
    "of features": lambda: F.feature_alpha_dropout(torch.ones(2, 9, 3), 0.5, training=True),
    "attention": lambda: F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 9, 9), dropout_p=0.5),
    "recurrent": lambda: nn.LSTM(3, 3, 2, dropout=0.5)(torch.ones(2, 1, 3))[0],
    "distribution": lambda: torch.distributions.Dirichlet(torch.ones(5)).sample(),
    "in place": lambda: torch.empty(5).random_(),
    "of a layer": lambda: nn.Linear(3, 3).weight,
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_repeatable_and_leave_the_global_generator(name: str) -> None:
    state = torch.get_rng_state()
    with own_generators(1):
        first = DRAWS[name]()
    with own_generators(1):
        second, third = DRAWS[name](), DRAWS[name]()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(second, third)


def test_generators_that_are_given_are_drawn_from() -> None:
    with own_generators(1):
        got = torch.rand(5, generator=torch.Generator().manual_seed(2)), torch.rand(5)
    assert torch.equal(got[0], torch.rand(5, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(got[1], torch.rand(5, generator=torch.Generator().manual_seed(1)))


def test_threads_plan_at_once() -> None:
    models, plans = [UNet() for _ in range(3)], []
    state = torch.get_rng_state()
    threads = [threading.Thread(target=lambda m=m: plans.append(plan(m))) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.tracer for p in plans] == ["fx"] * 3
    assert torch.equal(torch.get_rng_state(), state)


class Tokens(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def test_a_transformer_of_torch_does_without_its_fused_path() -> None:
    """The path would read weights past the layers' calls, and sees by them that it must not run."""
    model = Chain(conv(), Tokens(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))).eval()
    hair = converted(model)
    assert isinstance(hair.base.body[1].inner.linear1, HyperLayer)
    hair.train()(X).sum().backward()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_close(hair.eval()(X), model(X), 1e-10)


class AsksForBias(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x) + (0 if self.body[0].bias is not None else 100)


def test_a_layer_whose_bias_is_asked_for_is_left_alone() -> None:
    hair = converted(AsksForBias(conv(), conv()))
    assert [isinstance(layer, HyperLayer) for layer in hair.base.body] == [False, True]


class WritesInPlace(Chain):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__(*body)
        self.relu = nn.ReLU(inplace=True)

    def middle(self, x: Tensor) -> Tensor:
        y = self.body[0](x)
        y.add_(x)
        self.relu(y)
        F.relu(y, inplace=True)
        return self.body[1](y)


class Optional(Chain):
    def forward(self, image: Tensor, scale: Tensor | None = None, flag: bool = True) -> Tensor:  # type: ignore[override]
        return super().forward(image) * (1 if scale is None else scale) if flag else image


class WritesByOperators(Chain):
    """`+=` and `*=`, of which an earlier name and a view know."""

    def middle(self, x: Tensor) -> Tensor:
        skip = x
        x += self.body[0](x)
        half = x[:, ::2]
        half *= 2
        torch.add(x, 1, out=x)
        return self.body[1](x) + skip


class Clips(nn.Module):
    """Torch.fx cannot enter it, and nobody uses what it returns."""

    def forward(self, x: Tensor) -> None:
        if x.abs().max() > 0.1:
            x.clamp_(-0.1, 0.1)


class WritesInALeaf(Chain):
    def middle(self, x: Tensor) -> Tensor:
        y = self.body[0](x)
        self.body[2](y)
        return self.body[1](y)


class Steps(Chain):
    """Buffers that move, by assignment and in place."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__(*body)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def middle(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        return super().middle(x) * self.steps + self.mean[:, None, None]


GRAPHS = [WritesInPlace, WritesByOperators, WritesInALeaf, Steps, Optional]


@pytest.mark.parametrize("make", GRAPHS)
def test_the_graph_keeps_in_place_changes_buffers_and_default_arguments(make: type[Chain]) -> None:
    hair = perturb(converted(make(conv(), conv(), *([Clips()] if make is WritesInALeaf else []))))
    graph = hair.graph()
    again = pickle.loads(pickle.dumps(graph))
    with torch.no_grad():
        for _ in range(2):
            expected = hair(X)
            assert_close(graph(X), expected, 1e-12)
            assert_close(again(X), expected, 1e-12)


def test_hooks_that_a_graph_would_lose_are_told() -> None:
    hair = converted(Chain(conv(), conv()))
    for module in (hair, hair.base.split):
        handle = module.register_forward_hook(lambda module, args, output: 2 * output)
        with pytest.raises(GraphError, match="hooks"):
            hair.graph()
        handle.remove()
    hair.base.register_forward_hook(lambda module, args, output: 2 * output)
    with torch.no_grad():
        assert_close(hair.graph()(X), hair(X), 1e-12)


class Variadic(Chain):
    def forward(self, *images: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(sum(images))


def test_what_has_no_graph_is_told_with_its_cause() -> None:
    hair = hairify(Variadic(conv()), example_inputs=torch.rand(1, 3, 32, 48), split_at="split")
    with pytest.raises(GraphError, match=r"cannot follow the model \(Variadic\): \w+"):
        hair.graph()


class Final(nn.Conv2d):
    def __init_subclass__(cls, **options: Any) -> None:
        raise TypeError("no subclasses")


class Busy(nn.Conv2d):
    """Names that a hyper layer might want for itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.source, self.plain, self.context, self.address = "a", "b", "c", "d"

    def generated(self) -> str:
        return "mine"


def test_classes_that_resist_are_left_alone_and_busy_ones_keep_their_names() -> None:
    hair = converted(Chain(conv(Busy), conv(Final)))
    assert "cannot be subclassed (TypeError: no subclasses)" in hair.plan.skipped["body.1"]
    for twin in (hair, copy.deepcopy(hair), pickle.loads(pickle.dumps(hair))):
        layer = twin.base.body[0]
        assert isinstance(layer, Busy)
        assert (layer.source, layer.plain, layer.context, layer.address, layer.generated()) == (
            "a",
            "b",
            "c",
            "d",
            "mine",
        )
        assert torch.equal(twin(X), hair(X))
        assert type(twin.bake(X[:1]).body[0]) is Busy


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 5)

    def forward(self, feature: Tensor) -> Tensor:
        return self.fc(feature.mean((2, 3)))


def test_a_users_dac_is_copied() -> None:
    dac = Pooled().eval()
    first = hairify(Chain(conv()).double(), dac=dac, split_at="split")
    second = hairify(Chain(conv()), dac=dac, split_at="split")
    assert first.dac is not dac
    assert dac.fc.weight.dtype == torch.float32
    assert not dac.training
    assert first(X).dtype == torch.float64
    assert second(X.float()).dtype == torch.float32


class WithConstant(Chain):
    def forward(self, image: Tensor, gain: Tensor) -> Tensor:  # type: ignore[override]
        if gain.shape != (1, 3, 1, 1):
            raise ValueError("the gain must be (1, 3, 1, 1)")
        return super().forward(image) * gain


def test_what_is_batched_follows_from_the_examples_own_batch() -> None:
    gain = torch.rand(1, 3, 1, 1)
    hair = hairify(WithConstant(conv()), example_inputs=(torch.rand(2, 3, 32, 48), gain), split_at="split")
    assert hair(X.float(), gain).shape == X.shape
    with pytest.raises(ExampleInputError, match="a batch of two"):
        hairify(WithConstant(conv()), example_inputs=(torch.rand(1, 3, 32, 48), gain), split_at="split")


def test_baked_parameters_are_frozen_where_their_rows_are() -> None:
    net = Chain(conv(), conv())
    net.body[0].weight.requires_grad_(False)
    static = hairify(net, split_at="split", targets="layers").bake(X[:1].float())
    assert [p.requires_grad for p in static.body.parameters()] == [False, True, True, True]


class Gate(nn.Module):
    """A pooled side branch that scales the features (an enhanced spatial attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.inside, self.expand = nn.Conv2d(24, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.inside(F.avg_pool2d(self.squeeze(x), 4))
        return x * torch.sigmoid(self.expand(F.interpolate(low, size=x.shape[-2:])))


def test_the_split_is_not_put_into_a_side_branch() -> None:
    blocks = [
        nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.GELU(), nn.Conv2d(24, 24, 3, padding=1), Gate())
        for _ in range(6)
    ]
    net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.Sequential(*blocks), nn.Conv2d(24, 3, 3, padding=1))
    made = plan(net)
    assert made.split == "1.2"  # half-way through the six blocks
    assert made.levels[0].blocks == ("1.3", "1.4", "1.5")


class OtherDice(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x) + random.random() + float(np.random.rand())


def test_other_random_states_are_left_alone() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist()
    hairify(OtherDice(conv()), split_at="split")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_no_other_device_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` seeds all of them, and nothing puts those back on which the model does not lie."""
    seeded: list[int] = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)
    torch.manual_seed(1)
    assert seeded == [1]
    hairify(OtherDice(conv()), split_at="split").graph()
    assert seeded == [1]


def test_parameters_over_the_same_memory_are_left_alone() -> None:
    """A deep copy keeps them apart, and planning works on one."""
    net = Chain(conv(), conv(), conv())
    net.body[0].weight.data = net.body[1].weight.data
    hair = hairify(net, split_at="split", targets="layers")
    assert hair.plan.skipped["body.0"] == "its weight is tied to that of 'body.1'"
    assert hair.plan.skipped["body.1"] == "its weight is tied to that of 'body.0'"


def test_a_module_answers_to_all_its_names() -> None:
    net = Chain(conv(), conv())
    net.alias, net.second = net.split, net.body[1]
    made = plan(net, split_at="alias", exclude=("second",), targets="layers")
    assert made.split == "split"
    assert made.skipped["body.1"] == "ruled out by `include` or `exclude`"


def test_levels_have_names_of_their_own() -> None:
    kinds = [conv(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 5, padding=2)]
    made = plan(Chain(*(copy.deepcopy(kind) for _ in range(3) for kind in kinds)), split_at="split", targets="families")
    assert [len(level.blocks) for level in made.levels] == [3, 3, 3]  # three families with one parent
    assert len({level.name for level in made.levels}) == 3


def test_torchscript_is_named() -> None:
    with pytest.raises(ExampleInputError, match=r"'body\.0' is TorchScript"):
        hairify(Chain(torch.jit.script(nn.Sequential(conv()))), split_at="split")


def test_shapes_that_do_not_fit_are_named() -> None:
    x, weight = torch.rand(2, 3, 5, 5), torch.rand(2, 4, 3, 3, 3)
    for bias in (torch.rand(4), torch.rand(4, 2), torch.rand(2, 1), torch.rand(1, 4)):
        with pytest.raises(ShapeError, match=r"with this weight it is \(2, 4\)"):
            functional.hyper_conv2d(x, weight, bias)
    with pytest.raises(ShapeError, match=r"it is \(1, 4\)"):
        functional.hyper_conv2d(x, weight[:1], torch.rand(2, 4))
    for selecting, bias in ((torch.rand(2, 3), None), (torch.rand(2, 1), None), (torch.rand(2, 2), torch.rand(3, 4))):
        with pytest.raises(ShapeError, match="N must be the same in all"):
            functional.mixture(functional.hyper_conv2d, x, selecting, weight, bias, strategy="mix_outputs")


def test_a_perturbed_copy_differs() -> None:
    hair = converted(Chain(conv(), conv()))
    start = hair(X)
    assert_differs(perturb(hair)(X), start, 1e-6)

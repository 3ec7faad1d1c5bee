"""A converted network goes through everything that PyTorch users do with a network."""

from __future__ import annotations

import copy
import gc
import importlib
import io
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest
import torch
from networks import NETWORKS, Chain
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from util import assert_close, assert_differs, perturb, residual, rms, scaled

from hairify import HairModel, hairify

Duplicate: TypeAlias = Callable[[nn.Module], Any]


def images(batch: int = 2, size: tuple[int, int] = (24, 32)) -> Tensor:
    """From dark to bright, so that their selecting vectors differ."""
    return torch.rand(batch, 3, *size).double() * torch.linspace(0.2, 1, batch).double().view(-1, 1, 1, 1)


def converted(name: str, seed: int = 0) -> HairModel:
    """In float64 and evaluation mode, its weights made to depend on the image."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = NETWORKS[name]().double().eval()
        for parameter in model.parameters() if name == "unet" else ():
            parameter.mul_(2)  # signals fade in it by PyTorch's own start
        return perturb(hairify(model, example_inputs=images(1)))


@pytest.fixture(scope="module", params=["unet", "nafnet", "window"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def only(*names: str) -> pytest.MarkDecorator:
    """Some of the networks are enough for a slow test of what does not depend on the network's kind."""
    return pytest.mark.parametrize("name", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def template(name: str) -> HairModel:
    hair, x = converted(name), images()
    with torch.no_grad():
        assert_differs(hair.bake(x[:1])(x[1:]), hair(x[1:]), 1e-2)
    return hair


@pytest.fixture
def hair(template: HairModel) -> HairModel:
    return copy.deepcopy(template)


def loss(output: Tensor) -> Tensor:
    return output.square().mean()


def step(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss(model(x)).backward()
    optimizer.step()


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    loss(model(x)).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Relative to the largest of all: some, as that of a bias before a norm, are zero but for rounding."""
    assert got.keys() == expected.keys()
    assert all(g is not None for g in expected.values())
    largest = max(g.abs().max() for g in expected.values())
    for name, gradient in got.items():
        error = (gradient - expected[name]).abs().max()
        assert error <= 1e-10 * largest, f"the gradient of {name} is off by {error / largest:.3g} of the largest"


def through_torch(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


duplicates = pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_torch]
)


@pytest.mark.slow
@duplicates
def test_a_copy_lives_without_the_original(template: HairModel, duplicate: Duplicate) -> None:
    original, x = copy.deepcopy(template), images()
    expected = original(x).detach()
    twin = duplicate(original)
    alive = [weakref.ref(module) for module in original.modules()]
    del original
    gc.collect()
    assert not any(module() for module in alive), "the copy holds on to parts of the original"
    assert torch.equal(twin(x), expected)
    step(twin, x, torch.optim.SGD(twin.parameters(), 1e-3))
    assert_differs(twin(x), expected)


@duplicates
def test_training_one_of_two_copies_leaves_the_other(hair: HairModel, duplicate: Duplicate) -> None:
    twin, x = duplicate(hair), images()
    expected, state = hair(x).detach(), copy.deepcopy(hair.state_dict())
    for trained, still in ((twin, hair), (hair, duplicate(hair))):
        step(trained, x, torch.optim.SGD(trained.parameters(), 1e-3))
        assert torch.equal(still(x), expected)
        assert all(torch.equal(value, state[name]) for name, value in still.state_dict().items())
        assert_differs(trained(x), expected)


@duplicates
def test_conditioning_ends_at_the_copy(hair: HairModel, duplicate: Duplicate) -> None:
    x = images()
    free, swapped = hair(x).detach(), hair.giv(x).flip(0).detach()
    with hair.conditioned_on(swapped):
        conditioned = hair(x).detach()
        twin = duplicate(hair)
        assert torch.equal(twin(x), free)
        with twin.conditioned_on(hair.giv(x)):
            assert torch.equal(twin(x), free)
            assert torch.equal(hair(x), conditioned)
    assert_differs(conditioned, free)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_a_moving_average_of_the_parameters(hair: HairModel, decay: float | None) -> None:
    averaged = AveragedModel(hair, multi_avg_fn=decay and get_ema_multi_avg_fn(decay))
    optimizer, x = torch.optim.Adam(hair.parameters(), 1e-3), images()
    seen: list[dict[str, Tensor]] = []
    for _ in range(3):
        step(hair, x, optimizer)
        averaged.update_parameters(hair)
        seen.append({name: p.detach().clone() for name, p in hair.named_parameters()})
    shares = [1 / 3] * 3 if decay is None else [decay**2, decay * (1 - decay), 1 - decay]
    by_hand = copy.deepcopy(hair)
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            parameter.copy_(sum(share * state[name] for share, state in zip(shares, seen, strict=True)))
        assert_close(averaged(x), by_hand(x), 1e-10)
        assert_differs(averaged(x), hair(x), 1e-4)
    giv = averaged.module.giv(x)
    with averaged.module.conditioned_on(giv):
        assert_close(averaged(x), by_hand(x), 1e-10)


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_goes_into_a_fresh_conversion(name: str, hair: HairModel, assign: bool) -> None:
    fresh, x = converted(name, seed=1), images()
    expected = hair(x).detach()
    assert_differs(fresh(x), expected)
    state = through_a_file(hair.state_dict())
    fresh.load_state_dict(state, assign=assign)
    assert torch.equal(fresh(x), expected)
    assert all(p.requires_grad for p in fresh.parameters())
    mine = dict(fresh.named_parameters())
    assert all((mine[key].data_ptr() == state[key].data_ptr()) == assign for key in mine)


@pytest.mark.parametrize("materialize", ["assign", "empty"])
def test_a_state_goes_into_a_conversion_without_memory(hair: HairModel, materialize: str) -> None:
    """The way of large models: built on the meta device, where there is nothing to initialise."""
    blank, x = copy.deepcopy(hair).to("meta"), images()
    assert blank(x.to("meta")).shape == x.shape
    if materialize == "empty":
        blank.to_empty(device="cpu")
    blank.load_state_dict(hair.state_dict(), assign=materialize == "assign")
    assert torch.equal(blank(x), hair(x))


def test_a_state_in_another_precision(name: str, hair: HairModel) -> None:
    single, x = copy.deepcopy(hair).float(), images()
    double = converted(name, seed=1)
    double.load_state_dict(single.state_dict())
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert torch.equal(double(x), copy.deepcopy(single).double()(x))
    single.load_state_dict(double.state_dict())
    assert_close(single(x.float()).double(), double(x), 1e-4)


def test_channels_last(name: str, hair: HairModel) -> None:
    x = images()
    expected, wanted = hair(x).detach(), gradients(hair, x)
    hair.to(memory_format=torch.channels_last)
    last = x.to(memory_format=torch.channels_last)
    kernels = [p for p in hair.base.parameters() if p.dim() == 4 and p.shape[1] > 1 and p[0, 0].numel() > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert_close(hair(last), expected, 1e-10)
    assert_same_gradients(gradients(hair, last), wanted)
    fresh = converted(name, seed=1)
    fresh.load_state_dict(hair.state_dict())
    assert_close(fresh(x), expected, 1e-10)
    assert_close(hair.bake(x[:1])(x[:1]), expected[:1], 1e-10)


def test_a_run_is_resumed_as_if_it_had_not_stopped() -> None:
    """Model and optimizer go through a file in the middle of a training run."""

    def start(seed: int) -> tuple[HairModel, torch.optim.Optimizer]:
        hair = converted("unet", seed).train()
        added, kept = {"params": hair.hair_parameters(), "lr": 1e-3}, {"params": hair.base_parameters(), "lr": 1e-4}
        return hair, torch.optim.AdamW([added, kept])

    batches = [images() for _ in range(4)]
    hair, optimizer = start(0)
    for x in batches[:2]:
        step(hair, x, optimizer)
    saved = through_a_file({"model": hair.state_dict(), "optimizer": optimizer.state_dict()})
    again, again_optimizer = start(1)
    again.load_state_dict(saved["model"])
    again_optimizer.load_state_dict(saved["optimizer"])
    for x in batches[2:]:
        step(hair, x, optimizer)
        step(again, x, again_optimizer)
    for name, value in hair.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, rtol=1e-12, atol=1e-12), name


precisions = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
networks = pytest.mark.parametrize("name", ["unet", "nafnet", "restormer", "window"])


@pytest.mark.slow
@precisions
@networks
def test_under_autocast_it_starts_as_exact_as_the_original(name: str, dtype: torch.dtype) -> None:
    model, x = scaled(NETWORKS[name]), images().float()
    hair = hairify(model, example_inputs=x)
    exact = residual(copy.deepcopy(model).double(), x)
    with torch.autocast("cpu", dtype):
        own, ours = residual(model, x) - exact, residual(hair, x) - exact
        assert hair(x).dtype == model(x).dtype
        assert rms(own) > 1e-5 * rms(exact), "autocast does nothing"
        assert rms(ours) <= 1.5 * rms(own)
        loss(perturb(hair)(x)).backward()
    for parameter in hair.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.dtype == torch.float32


@pytest.mark.slow
@precisions
@networks
@pytest.mark.parametrize("first", ["cast", "convert"])
def test_a_network_in_half_precision_starts_as_exact_as_the_original(name: str, dtype: torch.dtype, first: str) -> None:
    model, x = scaled(NETWORKS[name]), images().float()
    low = copy.deepcopy(model).to(dtype)
    exact, example = residual(copy.deepcopy(model).double(), x), x.to(dtype)
    hair = hairify(low, example_inputs=example) if first == "cast" else hairify(model, example_inputs=x).to(dtype)
    x = example
    assert rms(residual(hair, x) - exact) <= 1.5 * rms(residual(low, x) - exact)

    perturb(hair, 0.1)
    loss(hair(x)).backward()
    assert all(p.dtype == dtype and p.grad is not None and p.grad.isfinite().all() for p in hair.parameters())
    static = hair.bake(x[:1])
    assert {p.dtype for p in static.parameters()} == {dtype}
    assert_close(static(x[:1]), hair(x[:1]), 8 * torch.finfo(dtype).eps)


def test_training_in_float16_with_scaled_gradients() -> None:
    hair, scaler = perturb(hairify(scaled(NETWORKS["unet"]))).train(), torch.amp.GradScaler("cpu", init_scale=256.0)
    groups = [{"params": hair.hair_parameters()}, {"params": hair.base_parameters()}]  # refuses what is in both
    optimizer, before = torch.optim.AdamW(groups, 1e-3), copy.deepcopy(hair.state_dict())
    for _ in range(2):
        x = images().float()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            value = loss(hair(x))
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(hair.parameters(), 1.0)
        assert norm.isfinite()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 256.0, "a step was skipped"
    state = hair.state_dict()
    assert all(state[name].isfinite().all() for name in state)
    assert not any(torch.equal(state[name], before[name]) for name, _ in hair.named_parameters())


def test_threads_train_and_restore_at_once(hair: HairModel) -> None:
    """Eight threads, each with its own images, every other one conditioned, get what one thread alone gets."""
    batches = [images(1 + i % 3) for i in range(8)]
    swapped = hair.giv(images(3)).detach().flip(0)

    def work(i: int) -> tuple[Tensor, ...]:
        x, parameters = batches[i], [*hair.base.parameters(), *hair.boxes.parameters(), *hair.hsn.parameters()]
        if i % 2:
            return (hair(x).detach(), *torch.autograd.grad(loss(hair(x)), parameters))
        with hair.conditioned_on(swapped[: len(x)]):
            return (hair(x).detach(), *torch.autograd.grad(loss(hair(x)), parameters))

    expected = [work(i) for i in range(8)]
    assert_differs(expected[0][0], hair(batches[0]))
    with ThreadPoolExecutor(8) as pool:
        together = [*pool.map(work, range(8))]
    for got, wanted in zip(together, expected, strict=True):
        assert_close(got[0], wanted[0], 1e-10)
        assert_same_gradients(dict(enumerate(got[1:])), dict(enumerate(wanted[1:])))


@pytest.fixture
def replicate(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module, int], list[Any]]:
    """PyTorch's own function that makes the replicas of DataParallel, with copies on the CPU in place of broadcasts."""
    implementation = importlib.import_module("torch.nn.parallel.replicate")

    def broadcast(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[list[Tensor]]:
        return [[(t.detach() if detach else t).clone() for t in tensors] for _ in devices]

    monkeypatch.setattr(implementation, "_broadcast_coalesced_reshape", broadcast)
    return lambda model, count: implementation.replicate(model, [*range(count)])


def test_replicas_in_threads_compute_and_learn_what_one_model_does(
    hair: HairModel, replicate: Callable[[nn.Module, int], list[Any]]
) -> None:
    x = images(4)
    expected, wanted = hair(x).detach(), gradients(hair, x)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):  # the replicas of one forward leave nothing behind for those of the next
            hair.zero_grad()
            output = torch.cat([*pool.map(lambda replica, half: replica(half), replicate(hair, 2), x.chunk(2))])
            assert_close(output, expected, 1e-10)
            loss(output).backward()
            assert_same_gradients({name: p.grad for name, p in hair.named_parameters()}, wanted)
    static, (first, _) = hair.bake(x[:1]), replicate(hair, 2)
    perturb(hair)
    assert_close(first(x), expected, 1e-10)  # with the parts of the replica, not of the model
    with first.conditioned_on(first.giv(x[:1])):
        assert_close(first(x), static(x), 1e-10)


def test_data_parallel(hair: HairModel) -> None:
    x = images(4)
    expected = hair(x).detach()
    assert_close(nn.DataParallel(hair)(x), expected, 1e-10)


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def record(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen.append(output.detach())


def test_features_are_taken_from_the_split_by_a_hook(hair: HairModel) -> None:
    """The usual way to look into a network; baking takes off the hook of hairify alone."""
    recorder, x = Recorder(), images()
    hair.base.get_submodule(hair.plan.split).register_forward_hook(recorder.record)
    hair(x)
    static = hair.bake(giv=hair.giv(x)[:1])
    static(x)
    (hook,) = static.get_submodule(hair.plan.split)._forward_hooks.values()
    assert hook.__self__ is not recorder
    assert torch.equal(hook.__self__.seen[-1], recorder.seen[0])


def test_a_part_that_is_exchanged_is_used(hair: HairModel) -> None:
    x, other = images(), copy.deepcopy(hair)
    with torch.no_grad():
        for parameter in (*other.dac.parameters(), *other.hsn.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert_differs(hair(x), other(x))
    hair.dac, hair.hsn = other.dac, other.hsn
    assert torch.equal(hair(x), other(x))


class Refine(Chain):
    """A network of its own before or after another; both may be converted."""

    def __init__(self, inner: nn.Module, *, inner_first: bool) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
        self.inner, self.inner_first = inner, inner_first

    def own(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def forward(self, image: Tensor) -> Tensor:
        return self.own(self.inner(image)) if self.inner_first else self.inner(self.own(image))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning")  # where the inner model comes last, it counts, too
@only("unet", "nafnet")
@pytest.mark.parametrize("split_at", ["split", None])
@pytest.mark.parametrize("inner_first", [True, False])
def test_a_converted_network_within_a_converted_network(hair: HairModel, inner_first: bool, split_at: Any) -> None:
    model, x = Refine(hair, inner_first=inner_first).double().eval(), images(3)
    before = hair(x).detach()
    outer = hairify(model, split_at=split_at, targets="layers", example_inputs=x[:1])
    assert_close(outer(x), model(x), 1e-10)
    inner = outer.base.inner
    assert isinstance(inner, HairModel)
    perturb(outer)
    assert torch.equal(hair(x), before), "the inner model is not the outer's own"
    free = outer(x).detach()
    assert_close(free, torch.cat([outer(image[None]) for image in x]), 1e-10)

    for i, image in enumerate(x.unsqueeze(1)):
        half = outer.bake(image)
        assert type(half) is Refine
        assert type(half.inner) is HairModel
        assert_close(half(image), free[i : i + 1], 1e-10)
        half.inner = half.inner.bake(image if inner_first else half.own(image))
        assert not any(type(module).__module__.startswith("hairify") for module in half.modules())
        assert_close(half(image), free[i : i + 1], 1e-10)

    seen: list[Tensor] = []
    inner.dac.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    assert torch.equal(outer(x), free)
    inner_giv = seen[-1]
    with outer.conditioned_on(outer.giv(x).flip(0)):
        outer_swapped = outer(x).detach()
    with inner.conditioned_on(inner_giv.flip(0)):
        inner_swapped = outer(x).detach()
        with outer.conditioned_on(outer.giv(x)):
            assert torch.equal(outer(x), inner_swapped)
    assert torch.equal(outer(x), free)
    for one, other in ((outer_swapped, free), (inner_swapped, free), (outer_swapped, inner_swapped)):
        assert_differs(one, other, 1e-4)


class Pair(nn.Module):
    """A bigger training module: two converted networks and a loss."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) - 0.5 * self.b(x)


@only("nafnet")
@pytest.mark.parametrize("duplicate", [lambda model: model, copy.deepcopy, through_torch])
def test_two_converted_networks_in_one_module(name: str, hair: HairModel, duplicate: Duplicate) -> None:
    pair, x = duplicate(Pair(hair, converted("transposed"))), images()
    a, b = pair.a(x).detach(), pair.b(x).detach()
    assert_close(pair(x), a - 0.5 * b, 1e-12)
    swapped = pair.a.giv(x).flip(0).detach()
    with pair.a.conditioned_on(swapped):
        assert_close(pair(x), pair.a(x) - 0.5 * b, 1e-12)
        assert_differs(pair(x), a - 0.5 * b, 1e-3)
        with pair.b.conditioned_on(pair.b.giv(x)[:1]):
            assert_close(pair(x), pair.a(x) - 0.5 * pair.b.bake(x[:1])(x), 1e-10)
    fresh = Pair(converted(name, seed=1), converted("transposed", seed=1))
    fresh.load_state_dict(pair.state_dict())
    assert torch.equal(fresh(x), pair(x))
    assert all(g is not None for g in gradients(pair, x).values())


def test_added_parameters_train_alone(hair: HairModel) -> None:
    """The base stays as it is, bit for bit, whether it is frozen or only not given to the optimizer."""
    x, added = images(), {"hsn", "boxes"}  # the DAC of moments has no parameters
    for frozen in (False, True):
        for parameter in hair.base_parameters():
            parameter.requires_grad_(not frozen)
        before, output = copy.deepcopy(hair.state_dict()), hair(x).detach()
        optimizer = torch.optim.SGD(hair.hair_parameters(), 1e-3)
        step(hair, x, optimizer)
        state = hair.state_dict()
        assert {name.split(".")[0] for name in state if not torch.equal(state[name], before[name])} == added
        assert_differs(hair(x), output)


def test_every_parameter_gets_a_gradient(hair: HairModel) -> None:
    """On images down to a few pixels too: what gets none stops DistributedDataParallel."""
    for size in ((64, 96), (16, 24)):
        assert all(g is not None for g in gradients(hair, images(2, size)).values())


def test_gradients_of_a_giv_are_those_of_finite_differences() -> None:
    hair, x = perturb(hairify(NETWORKS["nafnet"]().double().eval(), giv_dim=6)), images(2, (16, 24))
    ends = torch.randn(x[0].numel(), 3).double() / 30

    def restored(giv: Tensor) -> Tensor:
        with hair.conditioned_on(giv):
            return hair(x).flatten(1) @ ends

    giv = hair.giv(x).detach()
    for given in (giv, giv[:1]):
        assert torch.autograd.grad(restored(given.requires_grad_()).sum(), given)[0].abs().max() > 1e-4
        assert torch.autograd.gradcheck(restored, (given,))


def test_conditioning_on_its_own_giv_learns_what_the_ordinary_forward_learns(hair: HairModel) -> None:
    x = images()
    expected = gradients(hair, x)

    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hair = hair

        def forward(self, x: Tensor) -> Tensor:
            with self.hair.conditioned_on(self.hair.giv(x)):
                return self.hair(x)

    got = gradients(Conditioned(), x)
    assert_same_gradients({name.removeprefix("hair."): g for name, g in got.items()}, expected)


def test_accumulated_gradients_are_those_of_the_whole_batch(hair: HairModel) -> None:
    x, whole = images(4), copy.deepcopy(hair)
    hair.zero_grad()
    for part in x.split([1, 3]):
        (hair(part).square().sum() / x.numel()).backward()
    assert_same_gradients({n: p.grad for n, p in hair.named_parameters()}, gradients(whole, x))
    for model in (hair, whole):
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        assert norm > 1e-2
        torch.optim.SGD(model.parameters(), 1.0).step()
    assert_close(hair(x), whole(x), 1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients(hair: HairModel, mode: Callable[[], Any]) -> None:
    x = images()
    expected, giv = hair(x), hair.giv(x)
    assert expected.requires_grad
    with mode():
        output, found = hair(x), hair.giv(x)
        assert not output.requires_grad
        assert torch.equal(output, expected)
        assert torch.equal(found, giv)
        with hair.conditioned_on(found):
            assert torch.equal(hair(x), expected)
        static = hair.bake(giv=found[:1])
    assert_close(static(x[:1]), expected[:1], 1e-10)
    assert all(g is not None for g in gradients(hair, x).values())


@pytest.fixture
def other(hair: HairModel) -> HairModel:
    return perturb(copy.deepcopy(hair), 0.1)


def test_a_functional_call_is_that_of_a_model_with_these_parameters(hair: HairModel, other: HairModel) -> None:
    x = images()
    mine, theirs = hair(x).detach(), other(x).detach()
    assert_differs(mine, theirs)
    assert torch.equal(functional_call(hair, dict(other.state_dict()), (x,)), theirs)
    with hair.conditioned_on(other.giv(x)):
        assert torch.equal(functional_call(hair, dict(other.state_dict()), (x,)), theirs)
    assert torch.equal(hair(x), mine)
    parameters = {name: p.detach() for name, p in other.named_parameters()}
    functional = torch.func.grad(lambda values: loss(functional_call(hair, values, (x,))))(parameters)
    assert_same_gradients(functional, gradients(other, x))


def test_gradients_for_each_image_by_vmap(hair: HairModel) -> None:
    x, parameters = images(3), {name: p.detach() for name, p in hair.named_parameters()}

    def one(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return loss(functional_call(hair, values, (image[None],)))

    together = torch.func.vmap(torch.func.grad(one), (None, 0))(parameters, x)
    for i in range(len(x)):
        assert_same_gradients({name: g[i] for name, g in together.items()}, gradients(hair, x[i : i + 1]))


def test_an_ensemble_by_vmap(hair: HairModel, other: HairModel) -> None:
    x = images()
    parameters, buffers = torch.func.stack_module_state([hair, other])

    def call(*state: dict[str, Tensor]) -> Tensor:
        return functional_call(hair, state, (x,))

    together = torch.func.vmap(call)(parameters, buffers)
    assert_close(together[0], hair(x), 1e-10)
    assert_close(together[1], other(x), 1e-10)

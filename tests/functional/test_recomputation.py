"""Weights made again in the backward pass: the same gradients as with kept ones, and no weight is kept."""

from __future__ import annotations

import copy
import functools
import importlib
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Chain
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from util import assert_close, assert_differs, bytes_kept, perturb, published

from hairify import HairModel, hairify
from hairify.functional._operations import Convolution, Linear, Operation, convolution
from hairify.functional._recomputation import is_worthwhile
from hairify.nn import WeightBox
from hairify.nn import _boxes as boxes

pytestmark = pytest.mark.usefixtures("made_when_layers_run")
Grads = dict[str, Tensor | None]

LARGE, TINY = (16, 24), (4, 8)  # of images; behind the split of a `Chain` half as wide
every_network = pytest.mark.parametrize("name", NETWORKS)
every_box = pytest.mark.parametrize("box", ["full", "low_rank"])


def images(batch: int = 2, size: tuple[int, int] = LARGE) -> Tensor:
    return torch.rand(batch, 3, *size, dtype=torch.float64)


def converted(name: str = "nafnet", box: str = "full") -> HairModel:
    return copy.deepcopy(_converted(name, box)).train()


@functools.cache
def _converted(name: str, box: str) -> HairModel:
    network = NETWORKS[name]().double().eval()
    return perturb(published(network) if box == "full" else hairify(network, dac="published"))


def chain(*after: Callable[[], nn.Module], bias: bool = True) -> HairModel:
    """Three 3×3 convolutions, each with more behind it."""
    body = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=bias), *(make() for make in after)) for _ in range(3))
    return perturb(published(Chain(*body).double().train()))


def loss(output: Tensor) -> Tensor:
    return (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).square().mean()


def learnt(hair: HairModel, recompute: bool | None, x: Tensor) -> Grads:
    """All gradients of one step on a copy of the model, and that of the input, under the name ""."""
    other, x = copy.deepcopy(hair).recompute_weights(recompute), x.clone().requires_grad_()
    loss(other(x)).backward()
    return {"": x.grad, **{name: p.grad for name, p in other.named_parameters()}}


def assert_same(got: Grads, expected: Grads, tolerance: float = 1e-12) -> None:
    assert got.keys() == expected.keys()
    # relative to the largest gradient of all: behind a norm the true gradient of a bias is zero
    scale = max(float(g.abs().max()) for g in expected.values() if g is not None)
    assert scale > 0
    for name, gradient in expected.items():
        assert (got[name] is None) == (gradient is None), name
        if gradient is not None:
            assert got[name].dtype == gradient.dtype
            assert (got[name] - gradient).abs().max() <= tolerance * scale, name


class Made:
    """What has been mixed since, each with its bytes and a reference that does not keep it; biases are left out."""

    def __init__(self) -> None:
        self.found: list[tuple[int, StorageWeakRef]] = []

    def add(self, mixed: Tensor) -> Tensor:
        if mixed.ndim > 3:  # those of convolutions
            storage = mixed.untyped_storage()
            self.found.append((storage.nbytes(), StorageWeakRef(storage)))
        return mixed

    def alive(self) -> int:
        return sum(not reference.expired() for _, reference in self.found)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    record = Made()
    for name in ("mix", "mix_low_rank", "mix_low_rank_of_blocks"):
        original = getattr(boxes, name)
        monkeypatch.setattr(boxes, name, lambda *args, original=original: record.add(original(*args)))
    return record


@every_box
@every_network
def test_gradients_are_the_same(name: str, box: str) -> None:
    hair, x = converted(name, box), images()
    expected = learnt(hair, False, x)
    for recompute in (True, None):
        assert_same(learnt(hair, recompute, x), expected)


@every_box
@pytest.mark.parametrize("batch", [1, 2])
def test_no_weight_is_kept(box: str, batch: int, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "outputs_are_cheaper", lambda *args: False)
    for recompute in (True, False):
        hair = converted("nafnet", box).recompute_weights(recompute)
        made.found.clear()
        output = hair(images(batch))
        if batch > 1 or recompute:
            assert len(made.found) == sum(len(level.blocks) * len(level.layers) for level in hair.plan.levels)
        assert made.found  # of a single image those of all blocks at once
        assert made.alive() == (0 if recompute else len(made.found))
        before = len(made.found)
        loss(output).backward()
        assert len(made.found) == (2 * before if recompute else before)  # made again, or not
        del output
        assert made.alive() == 0


@every_box
def test_no_copy_in_another_precision_is_kept_either(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "outputs_are_cheaper", lambda *args: False)
    hair, x = converted("nafnet", box).float(), images(4).float()
    numbers = sum(len(level.blocks) * level.row_parameters for level in hair.plan.levels)
    with torch.autocast("cpu", torch.bfloat16):
        saved = bytes_kept(hair.recompute_weights(False), x) - bytes_kept(hair.recompute_weights(True), x)
    assert saved >= 0.9 * 4 * numbers * 2  # 4 images, 2 bytes; biases need not be kept


@every_network
def test_under_autocast(name: str) -> None:
    hair, x = converted(name).float(), images().float()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [copy.deepcopy(hair).recompute_weights(recompute)(x) for recompute in (True, False)]
        found = [learnt(hair, recompute, x) for recompute in (True, False)]
    assert outputs[0].dtype == outputs[1].dtype
    assert_close(outputs[0].float(), outputs[1].float(), 2**-7)
    assert_same(*found, tolerance=2**-5)
    exact = learnt(hair, False, x)
    assert any(not torch.equal(g, exact[key]) for key, g in found[0].items() if g is not None)  # autocast was at work


FROZEN: dict[str, Callable[[HairModel], Any]] = {
    "boxes": lambda hair: hair.boxes.requires_grad_(False),
    "HSNs and DAC": lambda hair: (hair.hsn.requires_grad_(False), hair.dac.requires_grad_(False)),
    "base": lambda hair: hair.base.requires_grad_(False),
    "weights": lambda hair: [p.requires_grad_(p.ndim < 3) for p in hair.boxes.parameters()],
    "biases": lambda hair: [p.requires_grad_(p.ndim > 2) for p in hair.boxes.parameters()],
    "all but the input": lambda hair: hair.requires_grad_(False),
}


@every_box
@pytest.mark.parametrize("frozen", FROZEN)
def test_frozen_parts(frozen: str, box: str) -> None:
    hair, x = converted("nafnet", box), images()
    FROZEN[frozen](hair)
    found = [learnt(hair, recompute, x) for recompute in (True, False)]
    assert_same(*found)
    assert any(g is None for g in found[0].values())


def test_where_nothing_but_selecting_vectors_asks_for_gradients() -> None:
    hair, x = converted().requires_grad_(False), images()
    found = []
    for recompute in (True, False):
        giv = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 64).requires_grad_()
        with hair.recompute_weights(recompute).conditioned_on(giv):
            found.append(torch.autograd.grad(loss(hair(x)), giv)[0])
    assert_close(*found, 1e-12)
    assert found[0].any()


def test_a_layer_without_any_gradient_makes_its_weights_once(made: Made) -> None:
    hair = chain().recompute_weights(True)
    with torch.no_grad():
        hair(images())
    assert len(made.found) == 3
    assert made.alive() == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "after",
    [
        [lambda: nn.ReLU(inplace=True)],
        [lambda: nn.Dropout2d(0.4, inplace=True)],
        [lambda: nn.Unflatten(1, (2, 4)), lambda: nn.ReLU(inplace=True), lambda: nn.Flatten(1, 2)],  # into a view
    ],
    ids=["relu", "dropout", "view"],
)
def test_networks_that_write_into_outputs(after: list[Callable[[], nn.Module]], bias: bool) -> None:
    hair, x, found = chain(*after, bias=bias), images(), []
    for recompute in (True, False):
        torch.manual_seed(3)
        found.append(learnt(hair, recompute, x))
    assert_same(*found)


def test_what_was_written_into_is_told() -> None:
    """The weights of now are not those that the output came from: an error, as of plain layers, not other gradients."""
    for target in (lambda hair: next(hair.boxes.parameters()), lambda hair: [*hair.boxes.parameters()][-2]):
        hair = chain().recompute_weights(True)
        waiting = loss(hair(images()))
        with torch.no_grad():
            target(hair).mul_(1.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            waiting.backward()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("recompute", [True, None])
def test_an_optimizer_step_before_the_backward_pass_is_told(kind: type, recompute: bool | None) -> None:
    hair = converted("dncnn").recompute_weights(recompute)
    optimizer = kind(hair.parameters(), 1e-2)
    loss(hair(images())).backward()
    waiting = loss(hair(images()))
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        waiting.backward()


class Adds(nn.Module):
    """Writes into the input of a layer after it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        y = self.conv(x)
        x += 1
        return x + y


def test_an_input_written_into_is_told() -> None:
    hair = perturb(published(Chain(Adds(), Adds(), Adds()).double().train())).recompute_weights(True)
    waiting = loss(hair(images()))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        waiting.backward()


@pytest.mark.parametrize("name", ["restormer", "window", "unet"])
def test_with_checkpointed_blocks(name: str, made: Made) -> None:
    hair, x = converted(name), images()
    expected = learnt(hair, False, x)
    for recompute in (True, None):
        assert_same(learnt(hair.checkpoint_blocks(), recompute, x), expected)
    made.found.clear()
    hair.recompute_weights(True)
    output = hair(x)
    assert made.alive() == 0
    assert output.requires_grad


def test_two_forwards_before_one_backward() -> None:
    hair, (x, y) = converted("restormer"), (images(), images(3))
    found = []
    for recompute in (True, False):
        other = copy.deepcopy(hair).recompute_weights(recompute)
        (loss(other(x)) + 2 * loss(other(y))).backward()
        found.append({name: p.grad for name, p in other.named_parameters()})
    assert_same(*found)


def test_a_graph_kept_for_a_second_backward_pass() -> None:
    hair, x = converted("restormer"), images()
    once = learnt(hair, False, x)
    hair.recompute_weights(True)
    value = loss(hair(x))
    value.backward(retain_graph=True)
    value.backward()
    assert_same(
        {name: p.grad for name, p in hair.named_parameters()},
        {name: g if g is None else 2 * g for name, g in once.items() if name},
    )


@every_box
@pytest.mark.parametrize("name", ["nafnet", "restormer", "transposed"])
def test_gradients_of_gradients(name: str, box: str) -> None:
    hair, x, found = converted(name, box), images(), []
    for recompute in (True, False):
        other, leaf = copy.deepcopy(hair).recompute_weights(recompute), x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(other(leaf)), leaf, create_graph=True)
        (1e4 * slope.square().sum()).backward()
        found.append({"": leaf.grad, **{key: p.grad for key, p in other.named_parameters()}})
    assert_same(*found, tolerance=1e-10)
    assert any(g is not None and g.any() for key, g in found[0].items() if key.startswith("boxes"))
    assert any(g is not None and g.any() for key, g in found[0].items() if key.startswith("dac"))


def test_function_transforms() -> None:
    hair, x = converted(), images()
    parameters = {name: p.detach() for name, p in hair.named_parameters()}

    def value(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return loss(functional_call(hair, values, (image,)))

    expected = learnt(hair, False, x)
    del expected[""]
    hair.recompute_weights(True)
    assert_same(torch.func.grad(value)(parameters, x), expected)
    each = torch.func.vmap(torch.func.grad(value), (None, 0))(parameters, x[:, None])
    for i in range(len(x)):
        alone = learnt(hair, True, x[i : i + 1])
        del alone[""]
        assert_same({name: g[i] for name, g in each.items()}, alone)
    # the Hessian's product with a direction: forward over reverse
    direction = torch.randn_like(x)
    product = torch.func.jvp(torch.func.grad(lambda t: value(parameters, t)), (x,), (direction,))[1]
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(hair(leaf)), leaf, create_graph=True)
    assert_close(product, torch.autograd.grad(slope, leaf, direction)[0], 1e-10)


def test_a_compiler_keeps_what_it_needs_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    hair, x = chain(nn.ReLU), images()
    expected = learnt(hair, False, x)
    monkeypatch.setattr(boxes, "recomputed", None)  # a call of it would raise
    hair.recompute_weights(True)
    compiled, leaf = torch.compile(hair, backend="aot_eager"), x.clone().requires_grad_()
    loss(compiled(leaf)).backward()
    assert_same({"": leaf.grad, **{name: p.grad for name, p in hair.named_parameters()}}, expected)


def test_forward_mode() -> None:
    hair, x = chain(), images()
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        got = forward_ad.unpack_dual(hair.recompute_weights(True)(forward_ad.make_dual(x, tangent))).tangent
    step = 1e-6
    with torch.no_grad():
        expected = (hair(x + step * tangent) - hair(x - step * tangent)) / (2 * step)
    assert_close(got, expected, 1e-6)


def test_an_input_of_another_precision_is_refused_in_all_modes() -> None:
    hair, x = chain().float(), images()
    for recompute in (True, False):
        hair.recompute_weights(recompute)
        with pytest.raises(RuntimeError, match="same"):
            hair(x.double())
        with torch.no_grad(), pytest.raises(RuntimeError, match="same"):
            hair(x.double())


def test_the_input_of_a_layer_that_is_not_trained_may_be_written_to() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1, dtype=torch.float64)
    box = WeightBox({"": {"weight": nn.Parameter(torch.stack([layer.weight.detach()] * 2), requires_grad=False)}})
    box.recompute = True
    input = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    written = input * 1
    output = box("", torch.full((2, 2), 0.5).double(), 0, convolution, written, padding=1)
    written += 1
    (output.square().sum() + written.sum()).backward()
    again = input.detach().clone().requires_grad_()
    (F.conv2d(again, layer.weight.detach(), padding=1).square().sum() + again.sum()).backward()
    assert_close(input.grad, again.grad, 1e-12)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_keep_the_setting(again: Callable[[HairModel], HairModel], made: Made) -> None:
    hair, x = chain(), images()
    for recompute in (False, True):
        other = again(hair.recompute_weights(recompute))
        made.found.clear()
        output = other(x)
        assert made.alive() == (0 if recompute else 3)
        other.recompute_weights(not recompute)
        assert [box.recompute for box in hair.boxes] == [recompute] * len(hair.boxes)
        del output


def test_it_is_a_setting_of_the_run_not_of_the_weights() -> None:
    hair = chain()
    before = {name: t.clone() for name, t in hair.state_dict().items()}
    assert hair.recompute_weights(True) is hair
    after = hair.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())


@pytest.mark.parametrize("recompute", [True, False])
def test_replicas_in_threads(recompute: bool, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of DataParallel, with copies on the CPU in place of broadcasts."""
    implementation = importlib.import_module("torch.nn.parallel.replicate")

    def broadcast(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[list[Tensor]]:
        return [[(t.detach() if detach else t).clone() for t in tensors] for _ in devices]

    monkeypatch.setattr(implementation, "_broadcast_coalesced_reshape", broadcast)
    hair, x = converted("restormer"), images(4)
    expected = learnt(hair, False, x)
    del expected[""]
    hair.recompute_weights(recompute)
    made.found.clear()
    replicas = implementation.replicate(hair, [0, 1])
    with ThreadPoolExecutor(2) as pool:
        output = torch.cat([*pool.map(lambda replica, half: replica(half), replicas, x.chunk(2))])
    assert made.alive() == (0 if recompute else len(made.found))
    loss(output).backward()
    assert_same({name: p.grad for name, p in hair.named_parameters()}, expected)


def kernel(size: int, stride: int = 1, transposed: bool = False) -> Convolution:
    return Convolution((stride,) * 2, (size // 2,) * 2, (1, 1), 1, (size, size), transposed)


@pytest.mark.parametrize(
    ("operation", "row", "uses"),
    [
        (Linear(), (7, 5, 4), 35),
        (Linear(), (4,), 1),
        (kernel(1), (4, 6, 10), 60),
        (kernel(3), (4, 6, 10), 60),
        (kernel(3, 2), (4, 6, 10), 15),
        (kernel(2, 2, transposed=True), (4, 6, 10), 60),
    ],
)
@pytest.mark.parametrize("per_image", [1, 3])
def test_it_pays_from_four_uses_of_each_number_for_each_term(
    operation: Operation, row: tuple[int, ...], uses: int, per_image: int
) -> None:
    input = torch.empty(2 * per_image, *row, device="meta")
    terms = uses * per_image // 4  # 4·terms ≤ uses of one image
    assert is_worthwhile(operation, input, 2, terms)
    assert not is_worthwhile(operation, input, 2, terms + 1)
    assert not is_worthwhile(operation, input, 1, 1)


@every_box
def test_by_default_weights_are_kept_on_small_maps_and_for_single_givs(
    box: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "outputs_are_cheaper", lambda *arguments: False)  # or there would be none on small maps
    options = {"rank": 4} if box == "low_rank" else {}  # such that both of the sizes lie on either side
    hair = perturb(published(Chain(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))).double(), box=box, **options))
    terms = hair.plan.levels[0].box_size * (1 if box == "full" else (hair.plan.levels[0].rank or 1))
    small = (2, 4)  # positions behind the split
    assert small[0] * small[1] < 4 * terms <= LARGE[0] * LARGE[1] // 4
    for batch, size, kept in ((2, TINY, True), (2, LARGE, False), (1, LARGE, True)):
        made.found.clear()
        output = hair(images(batch, size))
        before = len(made.found)
        assert before == 3 or (batch == 1 and before)  # of a single image those of all blocks at once
        assert made.alive() == (before if kept else 0)
        loss(output).backward()
        assert len(made.found) == (before if kept else 6)
        del output


def test_the_setting_is_followed_where_it_does_not_pay(made: Made) -> None:
    hair = chain()
    for recompute in (True, False):
        for size in (TINY, LARGE):
            made.found.clear()
            output = hair.recompute_weights(recompute)(images(1, size))
            assert made.found
            assert made.alive() == (0 if recompute else len(made.found))
            del output
    assert_differs(hair(images(1)), images(1), 1e-6)

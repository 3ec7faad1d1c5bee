"""Weights of all blocks at once, and where their layers find them: as those of each layer by itself, in few calls."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from typing import Any

import pytest
import torch
from networks import NETWORKS, Chain
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from util import assert_close, assert_differs, perturb, published

from hairify import HairModel, hairify
from hairify.nn import WeightBox, _boxes, _context

every_box = pytest.mark.parametrize("box", ["full", "low_rank"])
both_ways = pytest.mark.usefixtures("small_level")


@pytest.fixture(params=[0, 2**21])
def small_level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes up to which weights of several images are made ahead."""
    monkeypatch.setattr(_boxes, "_SMALL_LEVEL", request.param)


def images(batch: int) -> Tensor:
    return torch.rand(batch, 3, 16, 24, dtype=torch.float64)


@functools.cache
def _converted(name: str, box: str) -> HairModel:
    network = NETWORKS[name]().double().eval()
    return perturb(published(network) if box == "full" else hairify(network, dac="published"))


def converted(name: str, box: str) -> HairModel:
    return copy.deepcopy(_converted(name, box))


def called(hair: HairModel) -> HairModel:
    """A copy whose boxes and HSNs are called one by one, as those with hooks are: the oracle."""
    other = copy.deepcopy(hair)
    for part in (*other.boxes, *other.hsn):
        part.register_forward_hook(lambda *_: None)
    return other


@pytest.mark.slow
@every_box
@pytest.mark.parametrize(("batch", "ahead"), [(1, True), (3, False), (3, True)])
@pytest.mark.parametrize("name", ["nafnet", "window"])
def test_outputs_and_gradients_are_those_of_boxes_called_for_each_layer(
    name: str, batch: int, ahead: bool, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where weights of several images are made before the layers run."""
    hair, x = converted(name, box), images(batch)
    other = called(hair)
    asked = []
    sizes = {False: None, True: 0}
    monkeypatch.setattr(WeightBox, "pays_ahead", lambda *arguments: asked.append(arguments) or sizes[ahead])
    results = []
    for model in (hair, other):
        output = model(x)
        gradients = torch.autograd.grad(output.square().mean(), [*model.parameters()], allow_unused=True)
        results.append((output.detach(), gradients))
    assert len(asked) == len(hair.boxes)
    (got, gradients), (expected, of_each) = results
    assert_close(got, expected, 1e-12)
    scale = max(float(g.abs().max()) for g in of_each if g is not None)
    for one, each in zip(gradients, of_each, strict=True):
        assert (one is None) == (each is None)
        assert one is None or (one - each).abs().max() <= 1e-11 * scale


class FrozenHead(Chain):
    """Until the split it runs without gradients, in whichever mode; behind it, with them."""

    mode: Any = torch.no_grad

    def forward(self, image: Tensor) -> Tensor:
        with self.mode():
            feature = self.split(self.head(image))
        return self.last(self.middle(feature.clone()))


@pytest.mark.parametrize("batch", [1, 3])
@every_box
@both_ways
def test_gradients_that_start_behind_the_split(box: str, batch: int) -> None:
    """They arrive, or autograd says why not; none is lost because weights were made where none are recorded."""
    network = FrozenHead(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))).double()
    options: dict[str, Any] = {"preset": "published"} if box == "full" else {"dac": "published"}
    hair, x = perturb(hairify(network, split_at="split", **options)), images(batch)
    hair(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in hair.boxes.parameters())
    hair.base.mode = torch.inference_mode  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="Inference tensors"):
        hair(x).square().mean().backward()


def box_size(box: nn.Module) -> torch.Size:
    """Blocks and rows."""
    left = next(p for name, p in box.named_parameters() if name.endswith("left"))
    return left.shape[:2]


def test_where_weights_of_several_images_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to so many bytes: on GPUs in all, for several blocks, fewer where they are kept; on CPUs of a level."""
    hair = converted("nafnet", "low_rank")

    def ahead(images: int, device: str) -> list[int]:
        """By level, how many blocks have weights."""
        hypernetwork = copy.deepcopy(hair).to(device)._hypernetwork
        selecting = [torch.rand(images, *box_size(box), dtype=torch.float64, device=device) for box in hair.boxes]
        found = hypernetwork.weights_of_blocks(selecting)
        assert not any(b.shared for blocks in found for b in blocks)
        assert all(bool(b.own) != bool(b.parameters) for blocks in found for b in blocks)
        return [sum(bool(b.own) for b in blocks) for blocks in found]

    blocks = [len(level.blocks) for level in hair.plan.levels]
    several = [n if n > 1 else 0 for n in blocks]
    assert sum(n > 1 for n in blocks) > 1
    assert ahead(3, "meta") == several
    sizes = [3 * 8 * sum(p.numel() for name, p in b.named_parameters() if name.endswith("weight")) for b in hair.boxes]
    for limit in sizes:
        monkeypatch.setattr(_boxes, "_SMALL_LEVEL", limit)
        assert ahead(3, "cpu") == [n if size <= limit else 0 for n, size in zip(blocks, sizes, strict=True)]
    assert len({*sizes}) > 1
    first = next(i for i, n in enumerate(several) if n)
    alone = [n if i == first else 0 for i, n in enumerate(several)]
    monkeypatch.setattr(_context, "_MOST_AHEAD", sizes[first] + 8)
    with torch.no_grad():
        assert ahead(3, "meta") == alone
        assert ahead(4, "meta")[first] == 0
    assert ahead(3, "meta") == several
    monkeypatch.setattr(_context, "_MOST_KEPT", sizes[first] - 8)
    assert ahead(3, "meta")[first] == 0
    hair.recompute_weights(True)
    assert not any(ahead(2, "meta"))


def test_weights_of_several_images_take_as_many_products_as_those_of_one() -> None:
    """Off the CPU: starting products is what small networks wait for."""

    class Products(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func.overloadpacket.__name__ in ("bmm", "baddbmm", "mm")
            return func(*args, **kwargs or {})

    hair = converted("nafnet", "low_rank").to("meta")
    hypernetwork, counts = hair._hypernetwork, []
    for batch in (1, 8):
        selecting = [torch.rand(batch, *box_size(box), dtype=torch.float64, device="meta") for box in hair.boxes]
        with Products() as products:
            found = hypernetwork.weights_of_blocks(selecting)
        several = sum(len(blocks) > 1 for blocks in found)
        counts.append(products.count)
    of_single_blocks = sum(len(level.layers) for level in hair.plan.levels if len(level.blocks) == 1)
    assert several
    assert counts[0] - 2 * of_single_blocks <= counts[1] <= counts[0]


@every_box
def test_a_box_with_hooks_is_called_for_each_layer(box: str) -> None:
    hair, calls = converted("nafnet", box), []
    level = hair.plan.levels[0]
    hair.boxes[0].register_forward_hook(lambda *_: calls.append(None))
    hair(images(2))
    assert len(calls) == len(level.blocks) * len(level.layers)


def test_gradients_of_many_blocks_are_put_together_once() -> None:
    """A block that cuts its part out of the whole box has a gradient as large as that: M of them, M² in all."""
    body = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(12))
    hair = perturb(hairify(Chain(*body).double(), split_at="head", dac="published"))
    output = hair(images(2)).sum()
    seen, kinds = [output.grad_fn], []
    known = {output.grad_fn}
    while seen:
        node = seen.pop()
        kinds.append(type(node).__name__)
        for inner, _ in node.next_functions:
            if inner is not None and inner not in known:
                known.add(inner)
                seen.append(inner)
    assert kinds.count("UnbindBackward0") >= 3
    assert kinds.count("SelectBackward0") == 0


def test_slots_are_empty_outside_of_forwards_and_in_other_threads() -> None:
    hair = converted("nafnet", "low_rank")
    slots = {m.hair_address.slot for m in hair.base.modules() if hasattr(m, "hair_address")}
    blocks = sum(len(level.blocks) for level in hair.plan.levels)
    assert len(slots) == blocks  # one for all layers of a block
    within: list[int] = []
    elsewhere: list[int] = []

    def filled() -> int:
        return sum(slot.weights is not None for slot in slots)

    def look(*_: Any) -> None:
        within.append(filled())
        thread = threading.Thread(target=lambda: elsewhere.append(filled()))
        thread.start()
        thread.join()

    last = [m for m in hair.base.modules() if hasattr(m, "hair_address")][-1]
    last.register_forward_hook(look)
    hair(images(1))
    assert within == [blocks]
    assert elsewhere == [0]
    assert filled() == 0


def test_slots_are_those_of_the_outer_forward_after_one_within_it() -> None:
    hair, x, y = converted("nafnet", "low_rank"), images(1), images(1)
    expected, inner = hair(x).detach(), hair(y).detach()
    assert_differs(expected, inner)
    found: list[Tensor] = []
    layers = [m for m in hair.base.modules() if hasattr(m, "hair_address")]

    def run_another(*_: Any) -> None:
        if not found:
            found.append(torch.empty(0))
            found[0] = hair(y).detach()

    layers[len(layers) // 2].register_forward_hook(run_another)
    assert_close(hair(x).detach(), expected, 1e-12)
    assert_close(found[0], inner, 1e-12)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_have_slots_of_their_own(again: Any) -> None:
    hair, x = converted("nafnet", "low_rank"), images(1)
    other = again(hair)
    with torch.no_grad():
        for p in hair.boxes.parameters():
            p.mul_(1.1)
    ours = {id(m.hair_address.slot) for m in hair.base.modules() if hasattr(m, "hair_address")}
    theirs = {id(m.hair_address.slot) for m in other.base.modules() if hasattr(m, "hair_address")}
    assert len(ours) == len(theirs)
    assert not ours & theirs
    assert_differs(other(x), hair(x))
    assert_close(other(x), _converted("nafnet", "low_rank")(x), 1e-12)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(self.first(x).relu())
        return result


@every_box
@both_ways
def test_a_program_of_one_block_serves_the_others(box: Any) -> None:
    """Regional compilation: blocks compiled one by one, as `block.compile()` does."""
    body = (TwoLayers() for _ in range(10))
    hair = perturb(hairify(Chain(*body).eval(), split_at="head", box=box, dac="published"))
    inputs = {batch: images(batch).float() for batch in (1, 2)}
    programs: list[None] = []

    def backend(module: torch.fx.GraphModule, example: Any) -> Any:
        programs.append(None)
        return module.forward

    torch.compiler.reset()
    with torch.no_grad():
        expected = {batch: hair(x) for batch, x in inputs.items()}
        (blocks,) = (level.blocks for level in hair.plan.levels if len(level.blocks) > 1)
        assert len(blocks) == 10
        for block in blocks:
            hair.base.get_submodule(block).compile(backend=backend)
        for count, (batch, x) in enumerate(inputs.items(), 1):
            assert_close(hair(x), expected[batch], 1e-6)
            # One for a single image, one for several; PyTorch 2.6 has one more, with the number of a block.
            assert len(programs) == count + torch.__version__.startswith("2.6.")
    torch.compiler.reset()

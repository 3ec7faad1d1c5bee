"""Weights of a given GIV are kept while no gradients are recorded: made once, never stale, and gone with the block."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch
from networks import NETWORKS, Chain
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrize
from util import assert_close, assert_differs, perturb, published

from hairify import HairModel, hairify
from hairify.nn import WeightBox
from hairify.nn import _boxes as boxes
from hairify.nn import _context as context
from hairify.nn._hsn import selecting_vectors

SIZE = (16, 24)


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *SIZE, dtype=torch.float64)


def a_giv(seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randn(batch, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def converted(name: str = "nafnet", box: str = "full") -> HairModel:
    return copy.deepcopy(_converted(name, box))


@functools.cache
def _converted(name: str, box: str) -> HairModel:
    network = NETWORKS[name]().double().eval()
    return perturb(published(network) if box == "full" else hairify(network, giv_dim=64))


@pytest.fixture
def hair() -> HairModel:
    return converted()


class Calls:
    """Counts what makes weights and selecting vectors: of each box, and of all HSNs at once."""

    def __init__(self, hair: HairModel) -> None:
        self.boxes = self.hsns = 0
        self._of = {*hair.boxes}

    def _box(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(box: WeightBox, *args: Any, **kwargs: Any) -> Any:
            self.boxes += box in self._of
            return method(box, *args, **kwargs)

        return counted

    def _hsn(self, *args: Any) -> list[Tensor]:
        self.hsns += 1
        return selecting_vectors(*args)

    def of(self, call: Callable[[], Any]) -> tuple[int, int]:
        """Those during one call."""
        before = self.boxes, self.hsns
        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.object(context, "selecting_vectors", self._hsn))
            for name in ("weights_of_blocks", "forward"):  # on the class: boxes with others of their own are called
                patches.enter_context(mock.patch.object(WeightBox, name, self._box(getattr(WeightBox, name))))
            call()
        return self.boxes - before[0], self.hsns - before[1]


def all_of(hair: HairModel) -> tuple[int, int]:
    """The calls of a forward that makes all weights anew."""
    return len(hair.boxes), 1


def uncached(hair: HairModel, giv: Tensor, x: Tensor) -> Tensor:
    """The oracle: a copy of the model, with gradients, so that nothing is kept."""
    other = copy.deepcopy(hair)
    with torch.inference_mode(False), torch.enable_grad(), other.conditioned_on(giv):
        return other(x).detach()


@pytest.mark.slow
@pytest.mark.parametrize("box", ["full", "low_rank"])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_made_once_for_one_giv(name: str, box: str) -> None:
    hair, giv = converted(name, box), a_giv()
    calls, static = Calls(hair), hair.bake(giv=giv)
    with torch.no_grad(), hair.conditioned_on(giv):
        assert calls.of(lambda: hair(images())) == all_of(hair)
        for batch in (1, 3):
            x = images(batch)
            assert calls.of(lambda x=x: hair(x)) == (0, 0)
            assert_close(hair(x), static(x), 1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_do_not_depend_on_what_was_kept(name: str) -> None:
    hair, giv, x = converted(name), a_giv(), images()
    with hair.conditioned_on(giv):
        expected = hair(x).detach()
        with torch.no_grad():
            assert_close(hair(x), expected, 1e-13)
            assert torch.equal(hair(x), hair(x))
            assert_differs(hair(x), expected + 1e-2)
    with torch.no_grad():
        assert_differs(hair(x), expected, 1e-6)  # the images' own GIVs


def first_box(hair: HairModel) -> nn.Parameter:
    return next(hair.boxes.parameters())


def in_place(p: Tensor) -> None:
    with torch.no_grad():
        p.mul_(1.5)


def optimizer_step(hair: HairModel) -> None:
    optimizer = torch.optim.SGD(hair.parameters(), 0.1)
    with torch.enable_grad():
        hair(images()).square().mean().backward()
    optimizer.step()


def fused_step(hair: HairModel) -> None:
    optimizer = torch.optim.AdamW(hair.boxes.parameters(), 1e-2, fused=True)  # moves no count of PyTorch's
    for p in hair.boxes.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def through_numpy(hair: HairModel) -> None:
    first_box(hair).detach().numpy()[...] *= 1.5


def through_storage(hair: HairModel) -> None:
    storage = first_box(hair).untyped_storage()
    storage.copy_((first_box(hair).detach() * 1.5).untyped_storage())


def swapped(hair: HairModel) -> None:
    p = first_box(hair)
    torch.utils.swap_tensors(p, nn.Parameter(p.detach() * 1.5))


def load_other(hair: HairModel, assign: bool = False) -> None:
    state = {name: t + 0.1 if t.is_floating_point() else t for name, t in hair.state_dict().items()}
    hair.load_state_dict(state, assign=assign)


def assign_data(hair: HairModel, times: int = 1) -> None:
    p = first_box(hair)
    for _ in range(times):  # by the second time the first memory is free to be taken again
        p.data = p.data * 1.5


def assign_data_until_the_memory_is_the_same(hair: HairModel) -> None:
    p = first_box(hair)
    before = p.data_ptr()
    for _ in range(8):
        p.data = p.data * 1.1
        if p.data_ptr() == before:
            return


def new_parameter(hair: HairModel) -> None:
    name, p = next(hair.boxes.named_parameters())
    home, _, last = name.rpartition(".")
    setattr(hair.boxes.get_submodule(home), last, nn.Parameter(p.detach() * 1.5))


def precision_and_back(hair: HairModel) -> None:
    hair.float()
    in_place(first_box(hair))
    hair.double()


class Half(nn.Module):
    def forward(self, p: Tensor) -> Tensor:
        return p / 2


def parametrized(hair: HairModel) -> None:
    name, _ = next(hair.hsn.named_parameters())
    home, _, last = name.rpartition(".")
    parametrize.register_parametrization(hair.hsn.get_submodule(home), last, Half())


CHANGES: dict[str, Callable[[HairModel], Any]] = {
    "optimizer step": optimizer_step,
    "load_state_dict": load_other,
    "load_state_dict, assign": lambda hair: load_other(hair, assign=True),
    "data assigned": assign_data,
    "data assigned twice": lambda hair: assign_data(hair, 2),
    "data assigned until memory recurs": assign_data_until_the_memory_is_the_same,
    "in place, box": lambda hair: in_place(first_box(hair)),
    "in place, last box": lambda hair: in_place([*hair.boxes.parameters()][-2]),
    "in place, detached": lambda hair: first_box(hair).detach().mul_(1.5),
    "in place, HSN": lambda hair: in_place(next(hair.hsn.parameters())),
    "in place, one number": lambda hair: in_place(first_box(hair).view(-1)[:1]),
    "set_": lambda hair: first_box(hair).set_(torch.randn_like(first_box(hair))),
    "new parameter": new_parameter,
    "precision and back": precision_and_back,
    "parametrized HSN": parametrized,
    "fused optimizer step": fused_step,
    "data, in place": lambda hair: first_box(hair).data.mul_(1.5),
    "data, in place, one number of an HSN": lambda hair: next(hair.hsn.parameters()).data.view(-1)[-1:].add_(1.0),
    "data, other signs": lambda hair: [p.data.neg_() for p in hair.boxes.parameters()],
    "data, other order": lambda hair: [p.data.copy_(p.data.roll(1)) for p in hair.boxes.parameters()],
    "through NumPy": through_numpy,
    "through the storage": through_storage,
    "swapped": swapped,
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_stale(change: str, mode: Callable[[], Any], hair: HairModel) -> None:
    giv, x = a_giv(), images()
    with hair.conditioned_on(giv):
        with mode():
            before = hair(x).clone()
        for _ in range(2):
            with torch.no_grad():
                CHANGES[change](hair)
            with mode():
                after = hair(x).clone()
            assert_close(after, uncached(hair, giv, x), 1e-13)
            assert_differs(after, before, 1e-9)
            before = after


def test_parameters_made_in_inference_mode(hair: HairModel) -> None:
    with torch.inference_mode():
        hair, giv, x = copy.deepcopy(hair), a_giv(), images()
        assert first_box(hair).is_inference()
        calls = Calls(hair)
        with hair.conditioned_on(giv):
            before = hair(x).clone()
            assert calls.of(lambda: hair(x)) == (0, 0)
            first_box(hair).mul_(1.5)
            assert_differs(hair(x), before, 1e-9)


def test_parts_that_are_no_plain_tensors_are_not_trusted(hair: HairModel) -> None:
    """As sharded ones: of those a process sees a part alone."""

    class Stands(Tensor):
        pass

    hair.hsn[0].layers[0].bias = nn.Parameter(
        first_box(hair).new_zeros(hair.hsn[0].layers[0].bias.shape).as_subclass(Stands)
    )
    assert type(hair.hsn[0].layers[0].bias) is Stands
    x, calls = images(), Calls(hair)
    with torch.no_grad(), hair.conditioned_on(a_giv()):
        for _ in range(2):
            assert calls.of(lambda: hair(x)) == all_of(hair)


class RecordsInside(nn.Module):
    """Records gradients whatever is said outside."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in "abc"),
        )
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        with torch.set_grad_enabled(not torch.is_inference_mode_enabled()):
            for layer in self.body:
                x = x + layer(x)
        return self.tail(x)


def test_what_is_kept_may_be_used_where_gradients_are_recorded() -> None:
    hair, x = published(RecordsInside().double().eval(), split_at="head"), images()
    giv = a_giv()
    with hair.conditioned_on(giv):
        with torch.inference_mode():
            expected = hair(x).clone()
        with torch.no_grad():
            assert_close(hair(x), expected, 1e-13)


def test_a_change_of_dtype_is_followed() -> None:
    hair, giv, x = perturb(published(NETWORKS["nafnet"]().eval())), a_giv(), images()
    with torch.no_grad(), hair.conditioned_on(giv.float()):
        assert hair(x.float()).dtype == torch.float32
        hair.double()
        assert hair(x).dtype == torch.float64
        assert_close(hair(x), uncached(hair, giv.float(), x), 1e-13)


def test_what_is_kept_before_the_split_or_in_the_dac_is_none_of_it(hair: HairModel) -> None:
    giv, x, calls = a_giv(), images(), Calls(hair)
    with torch.no_grad(), hair.conditioned_on(giv):
        before = hair(x)
        for p in [*hair.base.parameters(), *hair.dac.parameters()]:
            p.mul_(1.1)
        assert calls.of(lambda: hair(x)) == (0, 0)  # weights do not depend on them
        assert_close(hair(x), uncached(hair, giv, x), 1e-13)
        assert_differs(hair(x), before)


def test_the_giv_is_the_one_given(hair: HairModel) -> None:
    giv, x = a_giv(), images()
    expected = uncached(hair, giv, x)
    for warm in (True, False):
        owned = giv.clone()
        with torch.no_grad(), hair.conditioned_on(owned):
            if warm:
                hair(x)
            owned.zero_()  # its owner goes on with it
            assert_close(hair(x), expected, 1e-13)


def test_with_grad_nothing_is_kept(hair: HairModel) -> None:
    giv, x, calls = a_giv().requires_grad_(), images(), Calls(hair)
    parameters = [*hair.hsn.parameters(), *hair.boxes.parameters(), giv]
    with hair.conditioned_on(giv):
        with torch.no_grad():
            hair(x)
        for _ in range(2):
            assert calls.of(lambda: hair(x)) == all_of(hair)
        found = torch.autograd.grad(hair(x).square().mean(), parameters)
    with hair.conditioned_on(giv):
        expected = torch.autograd.grad(hair(x).square().mean(), parameters)
    assert all(g.any() for g in found[-1:])
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


class PartlyFrozen(Chain):
    """A network that decides itself where gradients are recorded."""

    grad = True

    def middle(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.grad):
            self.seen = super().middle(x)
        return self.seen


def partly_frozen(grad: bool) -> HairModel:
    hair = perturb(published(PartlyFrozen(*(nn.Conv2d(8, 8, 3, padding=1) for _ in "123")).double()))
    hair.base.grad = grad
    return hair


def test_networks_that_stop_gradients_themselves() -> None:
    hair, giv, x = partly_frozen(False), a_giv(), images()
    with hair.conditioned_on(giv):
        for _ in range(2):
            before = hair(x).detach()
            in_place(first_box(hair))
            assert_close(hair(x).detach(), uncached(hair, giv, x), 1e-13)
            assert_differs(hair(x).detach(), before)


def test_networks_that_record_gradients_themselves() -> None:
    hair, giv, x = partly_frozen(True), a_giv(), images()
    expected, found = uncached(hair, giv, x), []
    with torch.no_grad(), hair.conditioned_on(giv):
        for _ in range(2):
            assert_close(hair(x), expected, 1e-13)
            ends = torch.ones_like(hair.base.seen)
            found.append(torch.autograd.grad(hair.base.seen, [*hair.boxes.parameters()], ends))
    assert all(g.any() and torch.equal(f, g) for f, g in zip(*found, strict=True))


def test_many_givs_are_not_kept(hair: HairModel) -> None:
    x, calls = images(), Calls(hair)
    with torch.no_grad(), hair.conditioned_on(a_giv(batch=2)):
        for _ in range(2):
            assert calls.of(lambda: hair(x)) == all_of(hair)


def test_without_a_given_giv_nothing_is_kept(hair: HairModel) -> None:
    x, calls = images(1), Calls(hair)
    with torch.no_grad():
        for _ in range(2):
            assert calls.of(lambda: hair(x)) == all_of(hair)


def test_blocks_within_blocks(hair: HairModel) -> None:
    x, calls = images(), Calls(hair)
    first, second = (uncached(hair, a_giv(seed), x) for seed in (1, 2))
    assert_differs(first, second, 1e-6)
    with torch.no_grad(), hair.conditioned_on(a_giv(1)):
        assert_close(hair(x), first, 1e-13)
        with hair.conditioned_on(a_giv(2)):
            assert_close(hair(x), second, 1e-13)
            assert_close(hair(x), second, 1e-13)
        with pytest.raises(ZeroDivisionError), hair.conditioned_on(a_giv(2)):
            raise ZeroDivisionError
        assert calls.of(lambda: hair(x)) == (0, 0)  # what the outer block had is still there
        assert_close(hair(x), first, 1e-13)


def test_the_images_own_givs_within_a_block(hair: HairModel) -> None:
    x = images()
    expected = hair.giv(x).detach(), hair.selecting_vectors(x)
    with torch.no_grad(), hair.conditioned_on(a_giv()):
        hair(x)
        assert_close(hair.giv(x), expected[0], 1e-13)
        for name, vector in hair.selecting_vectors(x).items():
            assert_close(vector, expected[1][name].detach(), 1e-13)


def test_threads_keep_their_own(hair: HairModel) -> None:
    x, together = images(), threading.Barrier(2)
    expected = [uncached(hair, a_giv(seed), x) for seed in (1, 2)]

    def work(seed: int) -> list[Tensor]:
        with torch.no_grad(), hair.conditioned_on(a_giv(seed)):
            found = []
            for _ in range(4):
                together.wait(30)
                found.append(hair(x))
            return found

    with ThreadPoolExecutor(2) as pool:
        for outputs, wanted in zip(pool.map(work, (1, 2)), expected, strict=True):
            for output in outputs:
                assert_close(output, wanted, 1e-13)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StorageWeakRef]]:
    """References to all that is mixed from now on, which do not keep it."""
    found: list[StorageWeakRef] = []

    def record(mixed: Tensor) -> Tensor:
        found.append(StorageWeakRef(mixed.untyped_storage()))
        return mixed

    for name in ("mix", "mix_low_rank", "mix_of_blocks", "mix_low_rank_of_blocks"):
        original = getattr(boxes, name)
        monkeypatch.setattr(boxes, name, lambda *args, original=original: record(original(*args)))
    return found


def alive(made: list[StorageWeakRef]) -> int:
    return sum(not reference.expired() for reference in made)


@pytest.mark.parametrize("box", ["full", "low_rank"])
def test_nothing_is_kept_after_the_block(box: str, made: list[StorageWeakRef]) -> None:
    hair, x = converted(box=box), images()
    made.clear()
    with torch.no_grad():
        with hair.conditioned_on(a_giv(1)):
            hair(x)
            kept = alive(made)
            assert kept >= sum(len(level.layers) for level in hair.plan.levels)
            with hair.conditioned_on(a_giv(2)):
                hair(x)
                assert alive(made) == 2 * kept
            assert alive(made) == kept
            in_place(first_box(hair))
            hair(x)
            assert alive(made) == kept  # in place of the stale ones
        assert alive(made) == 0
    assert alive(made) == 0


def test_modes_in_turn_within_one_block(hair: HairModel) -> None:
    giv, x = a_giv(), images()
    expected = uncached(hair, giv, x)
    other = copy.deepcopy(hair)
    with hair.conditioned_on(giv):
        for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode, torch.enable_grad, torch.no_grad):
            with mode():
                assert_close(hair(x).clone().detach(), expected, 1e-13)
        hair(x).square().mean().backward()
    with other.conditioned_on(giv):
        other(x).square().mean().backward()
    for p, q in zip(hair.parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)


def test_a_giv_made_in_inference_mode(hair: HairModel) -> None:
    x = images(1)
    with torch.inference_mode():
        giv, expected = hair.giv(x), hair(x).clone()
    with torch.no_grad(), hair.conditioned_on(giv):
        for _ in range(2):
            assert_close(hair(x), expected, 1e-13)
    with hair.conditioned_on(giv):
        hair(x).square().mean().backward()
    assert first_box(hair).grad.any()


def test_under_autocast_the_weights_are_kept_in_full(hair: HairModel) -> None:
    hair, giv, x = hair.float(), a_giv().float(), images().float()
    with torch.no_grad(), hair.conditioned_on(giv):
        full = hair(x)
        with torch.autocast("cpu", torch.bfloat16):
            warm = hair(x)
        assert torch.equal(hair(x), full)
    with torch.no_grad(), hair.conditioned_on(giv):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(hair(x), warm)
        assert torch.equal(hair(x), full)
    assert_differs(warm.float(), full, 1e-5)


def test_checkpointed_blocks_use_what_is_kept(hair: HairModel) -> None:
    giv, x, calls = a_giv(), images(), Calls(hair)
    expected = uncached(hair, giv, x)
    hair.checkpoint_blocks()
    with torch.no_grad(), hair.conditioned_on(giv):
        hair(x)
        assert calls.of(lambda: hair(x)) == (0, 0)
        assert_close(hair(x), expected, 1e-13)


def test_copies_within_a_block_have_no_part_in_it(hair: HairModel) -> None:
    giv, x = a_giv(), images()
    with torch.no_grad(), hair.conditioned_on(giv):
        hair(x)
        other = copy.deepcopy(hair)
        assert_differs(other(x), hair(x), 1e-6)
        assert_close(other(x), hair(x) * 0 + copy.deepcopy(other)(x), 1e-13)


def test_compiled_models() -> None:
    hair = perturb(published(Chain(*(nn.Conv2d(8, 8, 3, padding=1) for _ in "12")).double().eval()))
    giv, x = a_giv(), images()
    compiled = torch.compile(hair, backend="aot_eager")
    for first, second in ((hair, compiled), (compiled, hair)):
        expected = uncached(hair, giv, x)
        with torch.no_grad(), hair.conditioned_on(giv):
            for model in (first, second, first):
                assert_close(model(x), expected, 1e-12)
            in_place(first_box(hair))
            for model in (first, second):
                assert_close(model(x), uncached(hair, giv, x), 1e-12)
                assert_differs(model(x), expected, 1e-9)


def test_function_transforms_keep_nothing(hair: HairModel) -> None:
    giv, x = a_giv(), images()
    parameters = {name: p.detach() for name, p in hair.named_parameters()}

    def restored(change: Tensor) -> Tensor:
        moved = {name: p * change if name.startswith("boxes") else p for name, p in parameters.items()}
        return torch.func.functional_call(hair, moved, (x,)).square().mean()

    one = torch.ones((), dtype=torch.float64)
    with torch.no_grad(), hair.conditioned_on(giv):
        before = hair(x)
        slope = torch.func.jvp(restored, (one,), (one,))[1]
        step = 1e-5
        assert_close(slope, (restored(one + step) - restored(one - step)) / (2 * step), 1e-6)
        assert torch.equal(hair(x), before)
        swept = torch.func.vmap(restored)(torch.stack([one, 2 * one]))
        assert_close(swept, torch.stack([restored(one), restored(2 * one)]), 1e-12)
        assert_differs(swept[:1], swept[1:], 1e-6)

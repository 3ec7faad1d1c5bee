"""The GIV belongs to one forward in one thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import UNet, WindowNet
from torch import Tensor, nn
from util import assert_close, assert_differs, perturb

from hairify import HairModel, hairify
from hairify.errors import OutsideForwardError
from hairify.nn._layers import weights_of

BATCHES = 6


@pytest.fixture
def hair() -> HairModel:
    return perturb(hairify(UNet().double().eval()))


def test_eight_threads_use_one_model_at_once(hair: HairModel) -> None:
    batches = [torch.rand(1 + i % 3, 3, 32, 48).double() for i in range(BATCHES)]
    with torch.no_grad():
        expected = [hair(x) for x in batches]
    together = threading.Barrier(8)

    def work(worker: int) -> None:
        together.wait(timeout=60)
        with torch.no_grad():  # like conditioned_on, a thread's own
            for i in range(BATCHES):
                x = batches[(i + worker) % BATCHES]
                if worker % 2:
                    assert_close(hair(x), expected[(i + worker) % BATCHES], 1e-10)
                else:
                    with hair.conditioned_on(hair.giv(batches[worker % BATCHES][:1])) as same:
                        assert_differs(same(x + 0.5), hair.bake(giv=hair.giv(x[:1] * 0.1))(x + 0.5), 1e-9)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_conditioning_stays_in_its_thread(hair: HairModel) -> None:
    x = torch.rand(1, 3, 32, 48).double()
    free = hair(x)
    with hair.conditioned_on(hair.giv(x * 0.1)), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(hair, x).result(), free)
        assert_differs(hair(x), free, 1e-6)


def test_a_forward_runs_in_its_own_thread_only(hair: HairModel) -> None:
    """A hyper layer called from another thread while a forward runs gets no weights of that forward."""
    seen: list[BaseException | None] = []

    def call_elsewhere(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(hair.base.out, torch.rand(1, 8, 4, 4).double()).exception())

    hair.base.up3.register_forward_hook(call_elsewhere)
    hair(torch.rand(1, 3, 32, 48).double())
    assert [type(error) for error in seen] == [OutsideForwardError]


def test_conditioning_ends_when_its_block_raises(hair: HairModel) -> None:
    x = torch.rand(1, 3, 32, 48).double()
    free = hair(x)
    with pytest.raises(KeyError), hair.conditioned_on(hair.giv(x * 0.1)):
        raise KeyError
    assert torch.equal(hair(x), free)


def test_a_hook_may_ask_for_the_giv_during_a_forward(hair: HairModel) -> None:
    x, seen = torch.rand(2, 3, 32, 48).double(), []
    free = hair(x)
    hair.base.up3.register_forward_hook(lambda module, args, output: seen.append(hair.giv(x)))
    assert torch.equal(hair(x), free)
    assert torch.equal(seen[0], hair.giv(x))


def test_inference_mode_around_conversion_and_baking_leaves_trainable_models() -> None:
    x = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        hair = hairify(UNet())
        static = hair.bake(x)
    for model in (hair, static):
        model(x).sum().backward()


def test_gradients_flow_through_the_giv(hair: HairModel) -> None:
    x = torch.rand(1, 3, 32, 48).double()
    giv = hair.giv(x).detach().requires_grad_()
    with hair.conditioned_on(giv):
        hair(x).sum().backward()
    assert giv.grad is not None
    assert giv.grad.abs().sum() > 0
    assert all(p.grad is None for p in hair.dac.parameters())


def test_the_dac_neither_sees_nor_suffers_later_changes() -> None:
    """The split's output is changed in place right after it: the DAC got it before, and its backward pass works."""

    class InPlace(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            feature = self[0](x)
            feature += 100
            return x + nn.functional.pixel_shuffle(self[1](feature), 2)

    class FromOutside(nn.Module):
        def forward(self, feature: Tensor) -> Tensor:
            return feature.mean((2, 3)) ** 2  # keeps its input for the backward pass

    model = InPlace(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 1)).double()
    hair = hairify(model, split_at="0", dac=FromOutside())
    x = torch.rand(2, 3, 32, 48).double()
    assert hair.giv(x).abs().max() < 100
    hair(x).sum().backward()


def test_autocast_keeps_the_start() -> None:
    """Mixing and HSNs stay in float32: weights mixed in bfloat16 would be off by their rounding before the start."""
    model = WindowNet().eval()
    hair, x = hairify(model), torch.rand(2, 3, 32, 48)
    weights: list[tuple[Tensor, Tensor]] = []
    layer = next(m for m in hair.base.modules() if hasattr(m, "hair_address"))
    name = layer.hair_address.layer_name
    layer.register_forward_hook(lambda module, args, output: weights.append(weights_of(module).of(name)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got, expected = hair(x), model(x)
    assert got.dtype == expected.dtype
    name = next(n for n, m in hair.base.named_modules() if m is layer)
    assert_close(weights[0][0][0], model.get_submodule(name).weight, 1e-6)
    assert_close(got.float(), expected.float(), 2e-2)


def test_half_precision_models_start_within_their_rounding() -> None:
    model = UNet().bfloat16().eval()
    hair, x = hairify(model), torch.rand(2, 3, 32, 48).bfloat16()
    assert {p.dtype for p in hair.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert_close(hair(x).float(), model(x).float(), 3e-2)


class Pooled(nn.Module):
    """The split returns a vector, or a map of one position."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.head, self.pool = nn.Conv2d(3, 32, 3, 2, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1), *[nn.Flatten()] * flat)
        self.fc, self.last = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = self.head(x)
        gate = self.fc(self.pool(f).view(len(x), -1, 1, 1)).sigmoid()
        return x + nn.functional.interpolate(self.last(f * gate), scale_factor=2)


@pytest.mark.parametrize("flat", [False, True])
def test_a_split_of_a_single_position(flat: bool) -> None:
    model, x = Pooled(flat=flat).double(), torch.rand(3, 3, 32, 48).double()
    hair = hairify(model, split_at="pool")
    assert hair.plan.feature.layout == ("vector" if flat else "map")
    assert_close(hair(x), model(x), 1e-10)
    perturb(hair)
    assert_close(hair(x), torch.cat([hair(image[None]) for image in x]), 1e-10)

"""Looking at a model (`giv`, `selecting_vectors`, `bake`, `calibrate`) leaves no mark on it, whatever mode it is in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from networks import Chain, Pooled
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from util import assert_close, assert_differs, assert_unchanged, perturb, published, snapshot

from hairify import HairModel
from hairify.errors import GIVError


def conv() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1)


class Counts(nn.Module):
    """Buffers that move in every way, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))
        self.register_buffer("key", torch.ones(8, dtype=torch.float64))
        self.register_buffer("queue", torch.zeros(4, 8, dtype=torch.float64), persistent=False)
        self.register_buffer("latest", None)

    def forward(self, x: Tensor) -> Tensor:
        found = x.detach().mean((0, 2, 3))
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * found
        self.key.data.mul_(0.5).add_(found)
        self.queue[int(self.calls) % 4] = found
        self.latest = found
        if not hasattr(self, "made"):
            self.register_buffer("made", found)
        return self.conv(x)


class Own(nn.BatchNorm2d):
    """A class of a user's own, which holds its statistics in a way of its own, too."""

    def __init__(self) -> None:
        super().__init__(8)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.data.add_(1)
        return super().forward(x)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(8),
    "batch norm of one's own": Own,
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "cumulative": lambda: nn.BatchNorm2d(8, momentum=None),
    "counts": Counts,
    "dropout": lambda: nn.Dropout(0.5),
    "spectral norm": lambda: parametrizations.spectral_norm(conv()),
}


def converted(part: str) -> HairModel:
    network = Chain(conv(), nn.ReLU(), conv(), nn.BatchNorm2d(8), conv()).double()
    network.head = nn.Sequential(network.head, PARTS[part]().double())
    hair = perturb(published(network, split_at="split", dac=Pooled)).train()
    parametrizations.spectral_norm(hair.dac.linear)
    hair(images())
    hair.base.body[1].eval()  # modes that differ from part to part
    return hair


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 16, 24, dtype=torch.float64)


LOOKS: dict[str, Callable[[HairModel, Tensor], Any]] = {
    "giv": lambda hair, x: hair.giv(x),
    "selecting_vectors": lambda hair, x: torch.stack([*hair.selecting_vectors(x).values()]),
    "bake": lambda hair, x: torch.stack([hair.bake(x[i : i + 1]).eval()(x[i : i + 1]) for i in range(len(x))]),
    "bake a GIV": lambda hair, x: hair.bake(giv=torch.ones(1, hair.plan.giv_dim)).eval()(x),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("part", PARTS)
def test_looking_leaves_no_mark_and_sees_what_evaluation_does(part: str, look: str) -> None:
    hair, x = converted(part), images()
    evaluated = copy.deepcopy(hair).eval()
    before = snapshot(hair)
    with torch.no_grad():
        found = LOOKS[look](hair, x)
    assert_unchanged(hair, before)
    with torch.no_grad():
        assert_close(found, LOOKS[look](evaluated, x), 1e-12)


@pytest.mark.parametrize("part", PARTS)
def test_an_image_does_not_depend_on_the_others(part: str) -> None:
    hair, x = converted(part), images(3)
    assert_close(hair.giv(x), torch.cat([hair.giv(image) for image in x.split(1)]), 1e-12)


def test_a_failure_leaves_no_mark() -> None:
    hair, image = converted("counts"), images(1)
    before = snapshot(hair)
    for wrong in (image[:, :2], image[0, 0, 0]):
        with pytest.raises(RuntimeError):
            hair.giv(wrong)
        assert_unchanged(hair, before)
    hair.base.split.register_forward_pre_hook(lambda module, args: 1 / 0)
    before = snapshot(hair)
    with pytest.raises(ZeroDivisionError):
        hair.bake(image)
    assert_unchanged(hair, before)
    hair.base.forward = lambda x: x
    before = snapshot(hair)
    with pytest.raises(GIVError, match="never ran"):
        hair.selecting_vectors(image)
    assert_unchanged(hair, before)


@pytest.mark.parametrize("part", ["batch norm", "counts"])
def test_calibration_moves_no_buffer_but_its_own(part: str) -> None:
    hair = published(copy.deepcopy(converted(part).bake(giv=torch.ones(1, 64))).train(), split_at="split")
    modes = [m.training for m in hair.modules()]
    before = {name: b.clone() for name, b in hair.base.named_buffers()}
    hair.calibrate(images(4))
    assert all(torch.equal(b, before[name]) for name, b in hair.base.named_buffers())
    assert modes == [m.training for m in hair.modules()]
    assert hair.is_calibrated


def test_a_backward_pass_that_is_still_to_come_goes_on() -> None:
    """Putting buffers back is no write that it would stop for."""
    hair, x = converted("counts"), images().requires_grad_()
    expected = torch.autograd.grad(copy.deepcopy(hair)(x).square().mean(), [x])[0]
    loss = hair(x).square().mean()
    hair.giv(x.detach())
    assert_close(torch.autograd.grad(loss, [x])[0], expected, 1e-12)


def test_threads_look_at_one_model_in_training_mode() -> None:
    hair, x = converted("batch norm"), images()
    expected, before = hair.giv(x).detach(), snapshot(hair)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: hair.giv(x).detach(), range(64)):
            assert_close(found, expected, 1e-12)
    assert_unchanged(hair, before)


class Merges(nn.Conv2d):
    """Merges weights in evaluation mode, as layers of loralib do."""

    merged = False

    def train(self, mode: bool = True) -> Merges:
        if mode == self.merged:
            self.weight.data.mul_(0.5 if mode else 2.0)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.merged else 2 * super().forward(x)


def test_networks_whose_modes_change_weights() -> None:
    network = Chain(conv(), conv()).double()
    network.head = nn.Sequential(network.head, Merges(8, 8, 1, bias=False).double())
    hair, x = perturb(published(network, split_at="split", dac=Pooled)).train(), images()
    before, output = snapshot(hair), hair(x).detach()
    hair.giv(x)
    assert_unchanged(hair, before)
    assert torch.equal(hair(x), output)
    assert_close(hair.eval()(x), output, 1e-12)
    assert_differs(hair.giv(x[:1]), hair.giv(x[1:]), 1e-6)

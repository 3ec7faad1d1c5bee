"""Which of several images that a network returns is taken as the restored one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from training_runs import Samples, run, seeded

from hairify import HairModel, hairify
from hairify.errors import TrainingError
from hairify.networks import apply
from hairify.networks._running import settle_output
from hairify.sharing import export


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).relu()


class Stage(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.body = nn.Sequential(*(Block() for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.body(self.first(x)))


class Returning(nn.Module):
    """Three stages, or heads, and whatever is returned of them."""

    def __init__(self, returned: Callable[[Returning, Tensor], Any]) -> None:
        super().__init__()
        self.one, self.two, self.three = Stage(), Stage(), Stage()
        self.heads = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.returned = returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(self, x)


def stages(net: Returning, x: Tensor) -> list[Tensor]:
    first = net.one(x)
    second = net.two(first)
    return [first, second, net.three(second)]


def noise_and_result(net: Returning, x: Tensor) -> tuple[Tensor, Tensor]:
    noise = net.one(x)
    return noise, x - net.three(net.two(x + noise))


def side_outputs(net: Returning, x: Tensor) -> tuple[Tensor, ...]:
    """None is needed for another."""
    return tuple(head(stage) for head, stage in zip(net.heads, stages(net, x), strict=True))


def two_alike(net: Returning, x: Tensor) -> tuple[Tensor, Tensor]:
    result = stages(net, x)[2]
    return result, x - result


CASES: dict[str, tuple[Callable[[Returning, Tensor], Any], Callable[[Any], Tensor]]] = {
    "stages": (stages, lambda out: out[2]),
    "stages, the last first": (lambda net, x: stages(net, x)[::-1], lambda out: out[0]),
    "noise and result": (noise_and_result, lambda out: out[1]),
    "side outputs": (side_outputs, lambda out: out[2]),
    "by name": (
        lambda net, x: {"stages": tuple(stages(net, x)[:2]), "out": {"image": stages(net, x)[2], "mean": x.mean()}},
        lambda out: out["out"]["image"],
    ),
    "input beside it": (lambda net, x: (x, stages(net, x)[2]), lambda out: out[1]),
    "two alike": (two_alike, lambda out: out[0]),
}


def pooled(channels: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, dim))


def converted(name: str) -> HairModel:
    return hairify(seeded(lambda: Returning(CASES[name][0])), dac=pooled)


@pytest.mark.parametrize("name", CASES)
def test_the_image_to_which_most_of_the_network_leads_is_the_restored_one(name: str) -> None:
    returned, restored = CASES[name]
    network, images = seeded(lambda: Returning(returned)), torch.rand(2, 3, 24, 32)
    for mode in (True, False):
        network.train(mode)
        assert torch.equal(apply(network, images), restored(network(images)))
    frozen = network.requires_grad_(False)
    with torch.inference_mode():
        assert torch.equal(apply(DataParallel(frozen), images), restored(network(images)))
    hair = converted(name).eval()
    with torch.no_grad():
        assert torch.equal(apply(hair, images), restored(hair(images)))
        with hair.conditioned_on(hair.giv(images)):
            assert torch.equal(apply(hair, images), restored(hair(images)))
        baked = hair.bake(images[:1])
        assert torch.equal(apply(baked, images[:1]), restored(baked(images[:1])))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_it_may_be_another_in_training() -> None:
    """As networks that return what their stages made in training, and in evaluation the result alone, or else."""
    network = Returning(lambda net, x: stages(net, x) if net.training else (stages(net, x)[2], stages(net, x)[0]))
    images = torch.rand(1, 3, 24, 32)
    assert torch.equal(apply(network.train(), images), network(images)[2])
    assert torch.equal(apply(network.eval(), images), network(images)[0])


class Rarely(Stage):
    """A stage that most passes skip, by random numbers of PyTorch or of Python."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and self.draw() < 0.0 else super().forward(x)


@pytest.mark.parametrize("draw", [lambda: float(torch.rand(())) - 0.78, lambda: random.random() - 0.85])
def test_chance_does_not_decide_which_it_is(draw: Callable[[], float]) -> None:
    def returned(net: Returning, x: Tensor) -> tuple[Tensor, Tensor]:
        first = net.one(x)
        return first, net.heads[0](net.two(net.three(x)))

    network = seeded(lambda: Returning(returned)).train()
    network.two, network.three = Rarely(draw), Rarely(draw)
    assert settle_output(network, torch.rand(2, 3, 24, 32)) == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_all_that_was_added_learns(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    hair = converted(name)
    heads = {f"heads.{i}." for i in range(2)} if name == "side outputs" else set()
    unused = {level.name for level in hair.plan.levels if any(level.name.startswith(head[:-1]) for head in heads)}
    before = {name: value.clone() for name, value in hair.named_parameters() if name.startswith("boxes.")}
    run(hair, tmp_path, Samples(size=24), steps=2, weight_decay=0.0)
    moved = {
        name.split(".")[1] for name, value in hair.named_parameters() if not torch.equal(value, before.get(name, value))
    }
    assert moved == {str(i) for i, level in enumerate(hair.plan.levels) if level.name not in unused}
    assert any("images. Number" in message for message in caplog.messages)


def test_an_export_has_the_restored_image(tmp_path: Path) -> None:
    network, images = seeded(lambda: Returning(noise_and_result)).eval(), torch.rand(2, 3, 24, 32)
    export(network, tmp_path / "file.pt2", multiple=1)
    with torch.no_grad():
        got = torch.export.load(tmp_path / "file.pt2").module()(images)
        assert torch.allclose(got, network(images)[1], atol=1e-6)


class Beside(nn.Module):
    """What is converted makes no image."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.first = Stage(), nn.Conv2d(3, 8, 3, padding=1)
        self.beside = nn.Sequential(*(Block() for _ in range(8)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(x), self.beside(self.first(x)).mean((2, 3))


@pytest.mark.parametrize("kind", ["beside", "loss"])
def test_a_run_in_which_nothing_added_can_learn_does_not_start(tmp_path: Path, kind: str) -> None:
    def of_first(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        return (network(degraded)[0] - clean).abs().mean(dim=(1, 2, 3))

    if kind == "beside":
        hair, loss = hairify(Beside(), split_at="beside.1", dac=pooled), {}
    else:
        hair, loss = hairify(Returning(stages), split_at="two.body.0", dac=pooled), {"loss": of_first}
    with pytest.raises(TrainingError, match=r"Nothing that was added to the network would learn.*`split_at`"):
        run(hair, tmp_path / "run", steps=2, **loss)
    assert not (tmp_path / "run").exists()
    for parameter in hair.hair_parameters():  # frozen on purpose: what is left is trained
        parameter.requires_grad_(False)
    assert run(hair, tmp_path / "run", steps=1, **loss).steps == 1

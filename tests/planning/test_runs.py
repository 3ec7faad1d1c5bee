"""What planning finds out by running a network: in how many runs, and what it says where a run tells nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import Chain, UNet
from torch import Tensor, nn
from torch.nn import functional as F

from hairify import Plan, plan
from hairify.errors import NothingToConvertError, SplitError
from hairify.models import restormer
from hairify.planning._probe import Probe


class Runs:
    """How often copies of a network ran, and on how many images in all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        copy = Probe.copy

        def copied(probe: Probe, **mode: bool) -> nn.Module:
            model = copy(probe, **mode)
            model.register_forward_pre_hook(lambda module, args: self.batches.append(len(args[0])))
            return model

        monkeypatch.setattr(Probe, "copy", copied)


def convolutions(count: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(8, 8, 3, padding=1) for _ in range(count)]


@pytest.mark.parametrize("split_at", [None, "middle.0", 0.3])
def test_eight_runs_do_whatever_the_split(split_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    plan(UNet(), split_at=split_at)
    assert runs.batches == [1, 2, 2, 2, 2, 2, 2, 2]


def test_eight_runs_do_for_restormer(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    assert plan(restormer(dim=8, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1)).tracer == "fx"
    assert len(runs.batches) == 8


class Drops(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return super().middle(nn.functional.dropout(x, training=self.training))


def test_three_more_show_what_is_different_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    plan(Drops(*convolutions()), split_at="split")
    assert len(runs.batches) == 11


class AsksAll(Chain):
    """Minds whether its layers have weights."""

    def middle(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = layer(x) + (layer.bias is None)
        return x


def test_one_run_finds_all_readers_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    made = plan(AsksAll(*convolutions(16)), split_at="split", targets="layers")
    assert {name for name in made.skipped if name.startswith("body")} == {f"body.{i}" for i in range(16)}
    assert len(runs.batches) == 8 + 3  # is it the same twice? who reads? and does it do without the other weights?


class AsksInVain(Chain):
    """Reads a weight for nothing that counts."""

    def middle(self, x: Tensor) -> Tensor:
        assert not hasattr(self.body[0].weight, "something")
        return super().middle(x)


def test_who_reads_for_nothing_is_converted() -> None:
    assert not [n for n in plan(AsksInVain(*convolutions()), split_at="split").skipped if n.startswith("body")]


class Varies(Chain):
    """Draws numbers that no seed of PyTorch's governs."""

    def __init__(self, before: bool, *body: nn.Module) -> None:
        super().__init__(*body)
        self.before = before
        self.head.register_forward_hook(self.noise if before else lambda *_: None)
        self.body[1].register_forward_hook(self.noise)

    @staticmethod
    def noise(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + drawn(output)


def test_what_differs_from_run_to_run_is_told_from_what_mixes_images() -> None:
    made = plan(Varies(False, *convolutions()), split_at="split", targets="layers")
    assert {n for n, reason in made.skipped.items() if "differs from run to run" in reason} == {"body.2", "last"}
    assert [name for level in made.levels for name in level.blocks] == ["body.0", "body.1"]
    assert any("two runs on the same images differ" in what for what in made.unchecked)
    with pytest.raises(SplitError, match="Two runs of the model on the same images differ"):
        plan(Varies(True, *convolutions()), split_at="split")
    mixed = plan(Flips(*convolutions()), split_at="split", targets="layers")
    assert "not ordered by image" in mixed.skipped["body.2"]
    assert not mixed.unchecked


class Flips(Chain):
    def middle(self, x: Tensor) -> Tensor:
        y = self.body[1](self.body[0](x))
        return self.body[2](y + y.flip(0))


def drawn(like: Tensor, size: float = 1.0) -> Tensor:
    """Numbers that no seed governs."""
    seed = torch.Generator()
    seed.seed()
    return size * torch.rand(like.shape, generator=seed, dtype=like.dtype)


class AsksInNoise(Chain):
    """Minds whether a layer has a bias; its results differ from run to run in their last digits alone."""

    def forward(self, image: Tensor) -> Tensor:
        y = super().forward(image)
        return y + drawn(y, 1e-7) + (self.body[0].bias is not None)


def test_the_last_digits_hide_no_broken_layer() -> None:
    made = plan(AsksInNoise(*convolutions()), split_at="split", targets="layers")
    assert {n for n, reason in made.skipped.items() if "does not compute the same" in reason} == {"body.0"}
    assert not made.unchecked


class DrawsInTraining(Chain):
    def __init__(self, where: str, *body: nn.Module) -> None:
        super().__init__(*body)
        self.where = where

    def middle(self, x: Tensor) -> Tensor:
        y = self.body[1](self.body[0](x))
        if self.training and self.where != "output":
            y = y + drawn(y) + (y.flip(0) if self.where == "with mixing" else 0)
        return self.body[2](y)

    def forward(self, image: Tensor) -> Tensor:
        y = super().forward(image)
        return y + drawn(y) if self.training and self.where == "output" else y


@pytest.mark.parametrize(("where", "what"), [("body", "stay apart in training"), ("output", "same in training mode")])
def test_what_is_random_in_training_mode_alone_speaks_against_no_layer(where: str, what: str) -> None:
    made = plan(DrawsInTraining(where, *convolutions()), split_at="split", targets="layers")
    assert not [name for name in made.skipped if name.startswith("body")]
    assert any(what in why and "two runs on the same images differ" in why for why in made.unchecked)


class SplitsInEvaluation(Chain):
    def forward(self, image: Tensor) -> Tensor:
        if self.training:
            return image + F.pixel_shuffle(self.last(self.middle(F.avg_pool2d(self.head(image), 2))), 2)
        return super().forward(image)


def test_a_split_that_does_not_run_in_training_mode_is_told() -> None:
    with pytest.raises(NothingToConvertError, match="the split does not run in training mode"):
        plan(SplitsInEvaluation(*convolutions()), split_at="split", targets="layers")


class ForInference(Chain):
    def middle(self, x: Tensor) -> Tensor:
        if self.training:
            raise NotImplementedError("for inference alone")
        return super().middle(x)


class ThroughNumpy(Chain):
    """Leaves PyTorch, which no gradient may do; torch.fx does not see it."""

    def __init__(self, *body: nn.Module, before: bool = False) -> None:
        super().__init__(*body)
        where = self.split if before else self.body[0]
        where.register_forward_pre_hook(lambda module, args: torch.from_numpy(args[0].numpy()))


def test_what_leaves_pytorch_before_the_split_is_no_matter() -> None:
    made = plan(ThroughNumpy(*convolutions(), before=True), split_at="split", targets="layers")
    assert (made.tracer, made.unchecked) == ("fx", ())


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (ForInference, "what the network does in training mode: NotImplementedError"),
        (ThroughNumpy, "by gradients: "),
    ],
)
def test_a_check_that_could_not_be_made_stands_in_the_plan(make: Callable[..., nn.Module], what: str) -> None:
    made = plan(make(*convolutions()), split_at="split", targets="layers")
    assert [what in why for why in made.unchecked] == [True]
    assert f"not checked: {made.unchecked[0]}" in str(made)
    assert Plan.from_json(made.to_json()) == made
    usual = plan(Chain(*convolutions()), split_at="split", targets="layers")
    assert not usual.unchecked
    assert (made.levels, made.skipped) == (usual.levels, usual.skipped)

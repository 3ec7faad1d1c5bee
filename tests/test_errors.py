"""Bad input gets a named error that says what to do, and leaves the model unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from networks import UNet, small_restormer
from torch import Tensor, nn
from util import assert_unchanged, snapshot

from hairify import HairError, errors, hairify, plan


class Picky(nn.Module):
    """Runs on eight channels and a multiple of 32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 8 or x.shape[2] % 32 or x.shape[3] != 32:
            raise ValueError("give 8 channels and 32 columns")
        return F.pixel_shuffle(self.two(self.one(x)), 2)


class OneImage(UNet):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 1:
            raise ValueError("one image at a time")
        return super().forward(x)


class Windows(nn.Module):
    """The windows module folds windows into the batch, window-major: images mix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fold = nn.Conv2d(3, 4, 3, padding=1), Fold()
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = self.first(x)
        return x + self.last(f + self.fold(f).mean())


class Fold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0) if len(x) > 1 else x


class Locked(UNet):
    def __init__(self) -> None:
        super().__init__()
        import threading

        self.lock = threading.Lock()


def pooled() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class WrongDAC(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return feature.mean((0, 2, 3))


Case: TypeAlias = tuple[Callable[[], nn.Module], dict[str, Any], type[HairError], str]

CASES: dict[str, Case] = {
    "nothing after the split": (
        UNet,
        {"split_at": "out"},
        errors.NothingToConvertError,
        r"after the split 'out'.*earlier",
    ),
    "all excluded": (UNet, {"exclude": ("*",)}, errors.NothingToConvertError, "7 × runs before the split|ruled out"),
    "no families": (UNet, {"targets": "families"}, errors.NothingToConvertError, "not part of a repeated block"),
    "no layers": (nn.ReLU, {}, errors.SplitError, "no convolution and no linear layer"),
    "unknown split": (UNet, {"split_at": "midle.0"}, errors.SplitError, "nearest names are 'middle.0'"),
    "the model as split": (UNet, {"split_at": ""}, errors.SplitError, "no such module"),
    "split never runs": (
        small_restormer,
        {"split_at": "latent.0.attn.project_out.x"},
        errors.SplitError,
        "no such module",
    ),
    "container as split": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Listed(), nn.Conv2d(3, 3, 1)),
        {"split_at": "1.parts"},
        errors.SplitError,
        r"never called itself.*last called child is '1\.parts\.1'",
    ),
    "split mixes images": (
        Windows,
        {"split_at": "fold"},
        errors.SplitError,
        "does not keep the images of a batch apart",
    ),
    "split of a wrong type": (UNet, {"split_at": 2}, errors.OptionError, r"a fraction of the layer calls in \(0, 1\)"),
    "model rejects the default inputs": (Picky, {}, errors.ExampleInputError, r"\(1, 8, 64, 96\).*ValueError: give 8"),
    "model rejects the example": (
        UNet,
        {"example_inputs": torch.rand(1, 1, 64, 96)},
        errors.ExampleInputError,
        r"\(1, 1, 64, 96\)",
    ),
    "no tensor": (UNet, {"example_inputs": (3,)}, errors.ExampleInputError, "holds no batch of images"),
    "no batches": (OneImage, {}, errors.ExampleInputError, "takes batches"),
    "small box": (
        small_restormer,
        {"box": "full", "box_size": {"latent": 2}},
        errors.BoxSizeError,
        "3 blocks have 3 weight sets",
    ),
    "box of nothing": (
        UNet,
        {"box_size": {"latent": 9}},
        errors.OptionError,
        "matches no level. The levels are 'middle.3'",
    ),
    "box that is no number": (UNet, {"box_size": "4"}, errors.OptionError, "an integer from 1 up"),
    "box of a fraction": (UNet, {"box_size": {"out": 2.5}}, errors.OptionError, "an integer from 1 up"),
    "GIV of truth": (UNet, {"giv_dim": True}, errors.OptionError, "giv_dim"),
    "box of size zero": (UNet, {"box_size": 0}, errors.OptionError, "an integer from 1 up"),
    "unknown targets": (UNet, {"targets": "some"}, errors.OptionError, "'auto', 'families', 'layers'"),
    "unknown init": (UNet, {"init": "zeros"}, errors.OptionError, "'preserve', 'random'"),
    "no GIV": (UNet, {"giv_dim": 0}, errors.OptionError, "giv_dim"),
    "a glob that matches nothing": (UNet, {"include": ("encoder",)}, errors.OptionError, "matches no module"),
    "a string for globs": (UNet, {"exclude": "up1"}, errors.OptionError, r"a sequence of globs, such as \('decoder"),
    "a DAC that is none": (UNet, {"dac": 3}, errors.DACError, "a factory"),
    "a DAC of wrong shape": (UNet, {"dac": WrongDAC()}, errors.DACError, r"returned \(32,\)"),
    "a factory of wrong size": (UNet, {"dac": lambda channels, size: pooled()}, errors.DACError, "32 numbers"),
    "a factory that raises": (
        UNet,
        {"dac": lambda channels: pooled()},
        errors.DACError,
        "in_channels=32 and giv_dim=64",
    ),
    "what cannot be copied": (Locked, {}, errors.CopyError, "__deepcopy__"),
}


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[1](self.parts[0](x))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_and_changes_nothing(case: str, inplace: bool) -> None:
    make, options, error, text = CASES[case]
    model = make()
    before = snapshot(model)
    with pytest.raises(error, match=text):
        hairify(model, inplace=inplace, **options)
    assert_unchanged(model, before)
    with pytest.raises(error, match=text):
        plan(model, **options)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(errors.OptionError, match=r"is a Tensor; hairify converts an nn\.Module"):
        hairify(torch.zeros(1))  # type: ignore[arg-type]


def test_a_model_that_runs_on_the_right_example_converts() -> None:
    assert plan(Picky(), example_inputs=torch.rand(1, 8, 64, 32), split_at="one").split == "one"


def test_converting_twice_is_refused() -> None:
    hair = hairify(UNet())
    before = snapshot(hair)
    for again in (lambda: hairify(hair), lambda: plan(hair), lambda: hairify(hair, plan=hair.plan)):
        with pytest.raises(errors.AlreadyConvertedError, match="HairModel already"):
            again()
    assert_unchanged(hair, before)


def test_converting_what_holds_hyper_layers_leaves_them_alone() -> None:
    hair = hairify(UNet())
    outer = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), hair, nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1))
    made = plan(outer, split_at="1")
    assert made.skipped["1.base.out"] == "already a hyper layer"
    assert [level.name for level in made.levels] == ["2", "3"]
    nested, x = hairify(outer, plan=made).eval(), torch.rand(2, 3, 32, 48)
    assert torch.allclose(nested(x), outer.eval()(x), atol=1e-5)


@pytest.mark.parametrize("giv", [torch.zeros(64), torch.zeros(2, 32), torch.zeros(0, 64), "giv"])
def test_a_wrong_giv_is_named(giv: Any) -> None:
    hair = hairify(UNet(), giv_dim=64)
    with pytest.raises(errors.GIVError, match=r"shape \(B, 64\)"), hair.conditioned_on(giv):
        pass
    with pytest.raises(errors.GIVError, match=r"shape \(B, 64\)"):
        hair.bake(giv=giv)


def test_a_batch_that_does_not_match_is_named_and_the_scope_is_clean_afterwards() -> None:
    hair, x = hairify(UNet()).eval(), torch.rand(3, 3, 32, 48)
    with hair.conditioned_on(hair.giv(x[:2])), pytest.raises(errors.GIVError, match="got 2 GIVs, but the batch has 3"):
        hair(x)
    assert hair(x).shape == x.shape
    with pytest.raises(errors.OutsideForwardError):
        hair.base(x)


def test_a_hyper_layer_outside_its_models_forward_is_named() -> None:
    hair, x = hairify(UNet()), torch.rand(1, 3, 32, 48)
    with pytest.raises(errors.OutsideForwardError, match=r"Call the HairModel itself.*hair\.bake"):
        hair.base(x)
    with pytest.raises(errors.OutsideForwardError, match="level 'out'"):
        hair.out(torch.rand(1, 8, 4, 4))
    with pytest.raises(RuntimeError, match="channels"):
        hair(torch.rand(1, 5, 32, 48))
    with pytest.raises(errors.OutsideForwardError):  # nothing is left behind by a forward that raised
        hair.base(x)


class Routed(UNet):
    """Skips the split on dark images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() > 0.1 else self.out(self.up1(torch.cat([self.down1(x)] * 2, 1)))


def test_a_split_that_does_not_run_this_time_is_named() -> None:
    hair = hairify(Routed())
    with pytest.raises(errors.OutsideForwardError, match=r"reached before the split 'middle\.0' ran"):
        hair(torch.zeros(1, 3, 32, 48))
    with pytest.warns(errors.HairWarning):
        unconverted = hairify(Routed(), include=("middle",))
    with pytest.raises(errors.GIVError, match="never ran"):
        unconverted.giv(torch.zeros(1, 3, 32, 48))


def test_baking_needs_exactly_one_image() -> None:
    hair, x = hairify(UNet(), giv_dim=64), torch.rand(2, 3, 64, 96)
    for bake in (
        lambda: hair.bake(),
        lambda: hair.bake(x, giv=hair.giv(x)),
        lambda: hair.bake(x),
        lambda: hair.bake(giv=hair.giv(x)),
    ):
        with pytest.raises(errors.BakeError, match=r"`bake\(|one image"):
            bake()


def test_arguments_of_wrong_types_are_named() -> None:
    for options in ({"plan": "x"}, {"generator": 3}, {"include": None}, {"exclude": (3,)}, {"box_size": {3: 4}}):
        with pytest.raises(errors.OptionError, match=r"accepted (is|are)"):
            hairify(UNet(), **options)  # type: ignore[arg-type]


def test_a_part_of_a_hair_model_is_refused() -> None:
    with pytest.raises(errors.AlreadyConvertedError, match="part of one"):
        hairify(hairify(UNet()).base)


@pytest.mark.parametrize("by", ["parameter", "memory"])
def test_a_plan_is_not_applied_to_tied_weights(by: str) -> None:
    model = small_restormer()
    made = plan(model)
    one, other = (model.latent[i].attn.qkv for i in (0, 1))
    if by == "parameter":
        other.weight = one.weight
    else:
        other.weight.data = one.weight.data
    with pytest.raises(errors.PlanMismatchError, match="weight is tied"):
        hairify(model, plan=made)


def test_a_plan_for_another_network_is_refused() -> None:
    made = plan(small_restormer())
    other = small_restormer()
    other.latent[1].attn.qkv = nn.Conv2d(64, 192, 1)
    cases = [(UNet(), "no such module"), (UNet(16), "no such module"), (other, "not alike in all blocks")]
    for model, text in cases:
        before = snapshot(model)
        with pytest.raises(errors.PlanMismatchError, match=text):
            hairify(model, plan=made, inplace=True)
        assert_unchanged(model, before)
    with pytest.raises(errors.PlanMismatchError, match="made for a model of another size"):
        hairify(UNet(16), plan=plan(UNet(8)))


def test_all_errors_are_hair_errors() -> None:
    named = [
        e
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, Exception) and not issubclass(e, Warning)
    ]
    assert len(named) > 10
    assert all(issubclass(e, HairError) for e in named)


def test_an_empty_batch_is_named() -> None:
    with pytest.raises(errors.BatchMismatchError, match="batch is empty"):
        hairify(UNet())(torch.rand(0, 3, 64, 96))

"""Low-rank boxes: the same start and the same laws with far fewer parameters."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from laws import Specimen, examine
from networks import NETWORKS, Chain, UNet
from torch import Generator, Tensor, nn
from util import assert_close, assert_differs, perturb

from hairify import HairModel, Plan, hairify, load, plan, save
from hairify.errors import BoxSizeError, OptionError
from hairify.functional import hyper_conv2d, mix_low_rank
from hairify.nn import LowRankBox
from hairify.nn._warm_start import limited_rank, make_low_rank


def images(batch: int = 3) -> Tensor:
    return torch.rand(batch, 3, 64, 96, dtype=torch.float64)


def box_of(blocks: int = 2, box_size: int = 3, rank: int = 2) -> tuple[list[nn.Conv2d], LowRankBox, Tensor]:
    layers = [nn.Conv2d(4, 6, 3).double() for _ in range(blocks)]
    selecting = torch.randn(blocks, box_size, dtype=torch.float64).softmax(1)
    made = make_low_rank(layers, box_size, rank, True, Generator().manual_seed(0))
    return layers, LowRankBox({"conv": made}), selecting


def parted(box: LowRankBox) -> LowRankBox:
    """With rows that differ, as training makes them."""
    with torch.no_grad():
        for factor in box.factors():
            factor.normal_()
    return box


def rows(box: LowRankBox, block: int) -> Tensor:
    """The complete rows W_m + A_i B_i, written out."""
    conv = box.conv
    factors = zip(conv.left[block], conv.right[block], strict=True)
    return torch.stack([conv.weight[block] + (a @ b).view(6, 4, 3, 3) for a, b in factors])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("restormer", "window"))) for name in NETWORKS],
)
@pytest.mark.parametrize("options", [{}, {"rank": 1, "box_size": 4, "targets": "layers"}], ids=["default", "layers"])
def test_all_laws_hold(name: str, options: dict[str, object]) -> None:
    findings = examine(Specimen(NETWORKS[name], options={"box": "low_rank", **options}))
    assert {level.rank for level in findings.plan.levels} == {options.get("rank", 8)}


@pytest.mark.parametrize(("blocks", "box_size"), [(1, 1), (1, 2), (1, 5), (2, 3), (3, 2), (4, 4)])
def test_it_starts_at_the_trained_weights(blocks: int, box_size: int) -> None:
    layers, box, selecting = box_of(blocks, box_size)
    for m, layer in enumerate(layers):
        weight, bias = box("conv", selecting[m : m + 1], m)
        assert_close(weight[0], layer.weight, 1e-14)
        assert_close(bias[0], layer.bias, 1e-14)


def test_weights_are_the_mixture_of_the_rows() -> None:
    box = parted(box_of()[1])
    selecting = torch.rand(4, 3, dtype=torch.float64).softmax(1)
    for m in range(2):
        weight, bias = box("conv", selecting, m)
        assert_close(weight, torch.einsum("bn,n...->b...", selecting, rows(box, m)), 1e-14)
        assert_close(bias, box.conv.bias[m] + selecting @ box.conv.bias_change[m], 1e-14)


def test_the_distributive_law() -> None:
    box = parted(box_of()[1])
    selecting, x = torch.rand(2, 3, dtype=torch.float64).softmax(1), torch.rand(2, 4, 8, 9, dtype=torch.float64)
    mixed = mix_low_rank(selecting, box.conv.weight[0], box.conv.left[0], box.conv.right[0])
    outputs = torch.stack([nn.functional.conv2d(x, row) for row in rows(box, 0)])
    assert_close(hyper_conv2d(x, mixed), torch.einsum("bn,nb...->b...", selecting, outputs), 1e-13)


@pytest.mark.parametrize(("blocks", "box_size"), [(1, 2), (2, 2), (2, 3), (3, 2)])
def test_rows_part_in_training(blocks: int, box_size: int) -> None:
    """They start equal; selecting vectors that differ give them gradients that differ."""
    _, box, _ = box_of(blocks, box_size)
    assert box.rows_agree()
    aims = torch.randn(4, 6, 4, 3, 3, dtype=torch.float64)
    selecting = torch.randn(4, box_size, dtype=torch.float64).softmax(1)
    optimizer = torch.optim.SGD(box.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made = [box("conv", selecting, m) for m in range(blocks)]
        sum((weight * aims).sum() + bias.sum() for weight, bias in made).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in box.parameters())
    assert not box.rows_agree()
    for m in range(blocks):
        found = rows(box, m)
        for i in range(box_size):
            for j in range(i):
                assert_differs(found[i], found[j], 1e-4)


def test_right_factors_are_large_whatever_the_rank_and_weights() -> None:
    """So what rows differ by grows twice as fast as with 1/√rank, and a network uses its GIV sooner."""
    for channels, rank in ((24, 2), (48, 8), (64, 32)):
        made = make_low_rank([nn.Conv2d(channels, channels, 3)], 4, rank, True, Generator().manual_seed(0))
        assert_close(made["right"].std() * rank**0.5, torch.tensor(2.0), 0.05)
        assert not made["left"].any()


def test_factors_that_blocks_share_as_in_files_of_before() -> None:
    layers = [nn.Conv2d(4, 6, 3).double() for _ in range(2)]
    made = make_low_rank(layers, 3, 2, True, Generator().manual_seed(0), shared=True)
    box, selecting = parted(LowRankBox({"conv": made})), torch.rand(4, 3, dtype=torch.float64).softmax(1)
    changes = [box("conv", selecting, m)[0] - box.conv.weight[m] for m in range(2)]
    assert_close(changes[0], changes[1], 1e-12)
    assert changes[0].abs().max() > 0.1


def test_a_classic_unet_grows_by_less_than_15_percent() -> None:
    """As many parameters as the plain U-Net of the literature with 32 to 512 channels."""

    class Classic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [32, 64, 128, 256, 512]
            pairs = list(zip(widths[1:], widths[:-1], strict=True))
            self.pool = nn.MaxPool2d(2)
            self.downs = nn.ModuleList(double(i, o) for i, o in zip([3, *widths], widths, strict=False))
            self.ups = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in reversed(pairs))
            self.decoders = nn.ModuleList(double(i, o) for i, o in reversed(pairs))
            self.last = nn.Conv2d(32, 3, 1)

        def forward(self, image: Tensor) -> Tensor:
            skips = [self.downs[0](image)]
            for down in self.downs[1:]:
                skips.append(down(self.pool(skips[-1])))
            x = skips.pop()
            for up, decoder in zip(self.ups, self.decoders, strict=True):
                x = decoder(torch.cat([up(x), skips.pop()], 1))
            return image + self.last(x)

    def double(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(
            *(m for c in (i, o) for m in (nn.Conv2d(c, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(True)))
        )

    model = Classic()
    before, after = plan(model).parameters
    assert after < 1.15 * before
    full = plan(model, preset="published")
    assert full.parameters[1] > 1.5 * before
    assert all(len(level.blocks) == 1 for level in full.levels)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"box": "low_rank"}, {"box": "low_rank", "rank": 7, "box_size": 2}, {}])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_plan_counts_what_is_made(name: str, options: dict[str, object]) -> None:
    hair = hairify(NETWORKS[name](), init="random" if "rank" in options else "preserve", **options)
    assert sum(p.numel() for p in hair.parameters()) == hair.plan.parameters[1]
    for level, box in zip(hair.plan.levels, hair.boxes, strict=True):
        assert sum(p.numel() for p in box.parameters()) == level.box_parameters


@pytest.mark.parametrize("shape", [(8, 1, 3, 3), (1, 8, 1, 1), (64, 64, 3, 3), (16, 16)])
def test_factors_are_never_larger_than_what_they_stand_for(shape: tuple[int, ...]) -> None:
    out, columns = shape[0], torch.Size(shape[1:]).numel()
    rank = limited_rank(shape, 1000)
    assert rank == 1 or rank * (out + columns) <= out * columns
    assert (rank + 1) * (out + columns) > out * columns
    assert limited_rank(shape, 1) == 1


@pytest.mark.parametrize("box", ["full", "low_rank"])
def test_parameter_groups_hold_each_parameter_once(box: str) -> None:
    hair = hairify(UNet(), box=box)
    groups = hair.parameter_groups(weight_decay=0.1)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(map(id, hair.parameters()))
    assert [group["weight_decay"] for group in groups] == ([0.1, 0.0] if box == "low_rank" else [0.1])


def test_parameter_groups_know_the_factors_of_a_converted_network_within() -> None:
    inner = hairify(UNet(), box="low_rank")
    outer = hairify(nn.Sequential(inner, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)), split_at="1", box="full")
    decayed, kept = outer.parameter_groups(weight_decay=0.1)
    assert [id(p) for p in kept["params"]] == [id(p) for box in outer.base[0].boxes for p in box.factors()]
    assert len(decayed["params"]) + len(kept["params"]) == len([*outer.parameters()])


def test_decay_leaves_low_rank_rows_apart() -> None:
    hair = perturb(hairify(Chain(nn.Conv2d(8, 8, 3, padding=1)).double(), box="low_rank"))
    before = {name: p.clone() for name, p in hair.named_parameters()}
    optimizer = torch.optim.AdamW(hair.parameter_groups(weight_decay=0.5), lr=0.1)
    for parameter in hair.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that decay alone moves them
    optimizer.step()
    factors = {f"boxes.{i}.{n}" for i, b in enumerate(hair.boxes) for n, _ in b.named_parameters()}
    factors = {name for name in factors if name.endswith(("left", "right", "bias_change"))}
    assert factors
    for name, parameter in hair.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in factors), name


def test_frozen_layers_give_frozen_boxes() -> None:
    model = UNet()
    for parameter in model.up3.parameters():
        parameter.requires_grad_(False)
    hair = hairify(model, box="low_rank")
    for level, box in zip(hair.plan.levels, hair.boxes, strict=True):
        assert {p.requires_grad for p in box.parameters()} == {not level.name.startswith("up3")}


def test_fresh_weights_spread_as_those_of_a_layer() -> None:
    hair = hairify(Chain(nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 8, 1)), box="low_rank", init="random")
    for level, box in zip(hair.plan.levels, hair.boxes, strict=True):
        plain = Chain(nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 8, 1)).get_submodule(level.blocks[0]).weight
        weight, _ = box("", torch.full((1, level.box_size), 1 / level.box_size), 0)
        assert 0.7 < float(weight.detach().std() / plain.detach().std()) < 1.4


@pytest.mark.parametrize("added_only", [False, True])
def test_files(tmp_path: Path, added_only: bool) -> None:
    model = UNet().double().eval()
    hair: HairModel = perturb(hairify(model, box="low_rank", rank=3))
    save(hair, tmp_path / "hair.safetensors", added_only=added_only)
    base = copy.deepcopy(model) if added_only else UNet().double()  # the rest of the parameters is in the file, or not
    again, x = load(tmp_path / "hair.safetensors", base), images()
    assert again.plan == hair.plan
    with torch.no_grad():
        assert torch.equal(again.eval()(x), hair(x))


def test_plans_from_before_low_rank_boxes_can_be_read() -> None:
    made = plan(UNet(), preset="published")
    data = json.loads(made.to_json())
    data["version"] = 1
    assert data.pop("dac_name") == "published"
    assert data.pop("hsn_widths") == [32, 16, 8]
    assert data.pop("hsn_limit") is None
    for level in data["levels"]:
        assert level.pop("size") == level["box_size"] * level["row_size"]
        assert level.pop("rank") is None
        assert not level.pop("shared")
    assert Plan.from_json(json.dumps(data)) == made


def test_fewer_rows_than_blocks_still_start_exactly() -> None:
    model, x = NETWORKS["restormer"]().double().eval(), images()
    hair = hairify(model, box="low_rank", box_size=2)
    assert any(len(level.blocks) > 2 for level in hair.plan.levels)
    with torch.no_grad():
        assert_close(hair(x), model(x), 1e-10)


@pytest.mark.parametrize("options", [{}, {"box": "low_rank"}, {"init": "random"}])
def test_a_box_of_one_row_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(BoxSizeError, match=r"`box_size` is 1 .* all images get the same weights"):
        plan(UNet(), box_size=1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": "sparse"}, "`box` is 'sparse'; accepted are None, 'full', 'low_rank'"),
        ({"box": "low_rank", "rank": 0}, "`rank` is 0; accepted is an integer from 1 up"),
        ({"box": "full", "rank": 2}, "`rank` is 2, but the boxes are full"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plan(UNet(), **options)


def test_the_printed_plan_says_the_rank() -> None:
    made = plan(UNet(), box="low_rank", rank=2)
    assert f"{made.levels[0].box_parameters:,}" in str(made)
    assert "rank" in str(made)
    assert dataclasses.replace(made) == made

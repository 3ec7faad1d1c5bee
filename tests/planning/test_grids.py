"""Tokens become the very map that the network itself makes of them, at any size."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
import torch
from networks import WindowNet
from token_networks import (
    ANY_SIZE,
    C,
    Downsampled,
    OfOneSize,
    OfTokens,
    PaddedLater,
    Where,
    Windows,
    WithSize,
    padded,
    to_tokens,
)
from torch import Tensor, nn
from util import assert_close, assert_differs, perturb

from hairify import HairModel, Plan, errors, hairify, plan
from hairify.nn import Feature
from hairify.nn._features import Grid, token_grid
from hairify.planning._plans import PLAN_VERSION

SIZES = [*itertools.product(range(16, 35, 3), range(16, 46, 2))]
"""105 sizes; the aspect ratio alone gives another grid for many of them."""


def converted(network: nn.Module, **options: Any) -> HairModel:
    network = network.double().eval()
    return perturb(hairify(network, split_at="blocks.1", dac=Where, giv_dim=8, **options))


def images(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height)).double()


def maps_seen(hair: HairModel, *inputs: Any) -> tuple[Tensor, Tensor]:
    """What the DAC got, and the network's own map."""
    seen: list[Tensor] = []
    hooks = [
        hair.dac.register_forward_pre_hook(lambda module, args: seen.append(args[0])),
        hair.base.own.register_forward_pre_hook(lambda module, args: seen.append(args[0])),
    ]
    with torch.no_grad():
        hair(*inputs)
    for hook in hooks:
        hook.remove()
    got, own = seen
    return got, own


@pytest.mark.parametrize("name", ANY_SIZE)
def test_the_dac_sees_the_networks_own_map_at_any_size(name: str) -> None:
    hair = converted(ANY_SIZE[name]())
    assert hair.plan.feature.layout == "tokens"
    assert not hair.plan.unchecked
    otherwise = 0
    for size in SIZES:
        got, own = maps_seen(hair, images(*size))
        assert torch.equal(got, own), size
        otherwise += token_grid(own.shape[2] * own.shape[3], size) != own.shape[2:]
    assert otherwise or "patches" in name or name == "strided twice", "the aspect ratio would do"


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("windows", Grid("first")),
        ("padded later", Grid(None, multiple=8, per=8)),
        ("strided twice", Grid("down.2")),
        ("patches by functions, padded", Grid(None, multiple=4)),
        ("patches by functions, cut off", Grid(None, multiple=4, up=False)),
        ("merged", Grid("first", multiple=2)),
        ("channels last", Grid("first", axis=1)),
        ("listed", Grid("first.b")),
    ],
)
def test_the_grid_is_that_of_what_comes_first(name: str, grid: Grid) -> None:
    found = plan(ANY_SIZE[name](), split_at="blocks.1").feature
    assert found.grid is not None
    assert [found.grid.of(size) for size in SIZES] == [grid.of(size) for size in SIZES]
    assert (found.grid.module, found.grid.index, found.grid.axis) == (grid.module, grid.index, grid.axis)


@pytest.mark.parametrize("example", [(33, 20), (40, 40), (17, 64)])
def test_the_grid_is_found_whatever_the_example(example: tuple[int, int]) -> None:
    hair = converted(Windows(), example_inputs=images(*example))
    assert hair.plan.feature.shape == (C, *(n + -n % 8 for n in example))
    for size in SIZES[::7]:
        got, own = maps_seen(hair, images(*size))
        assert torch.equal(got, own), size


def test_a_network_that_is_told_the_size() -> None:
    hair = converted(WithSize(), example_inputs=(images(64, 96), (64, 96)))
    assert hair.plan.feature.grid == Grid("first")
    for size in SIZES[::7]:
        got, own = maps_seen(hair, images(*size), size)
        assert torch.equal(got, own), size


def test_tokens_that_are_never_a_map_of_the_image() -> None:
    made = plan(Downsampled(), split_at="blocks.1")
    assert made.feature == Feature(0, "tokens", (C, 8, 12))
    assert [what for what in made.unchecked if what.startswith("the grid of tokens: no map")]


@pytest.mark.parametrize("example", [(16, 24), (20, 20), (17, 40), (48, 80), (56, 56), (64, 64)])
@pytest.mark.parametrize("window", [4, 8])
def test_windows_are_told_apart_by_the_grid_alone(window: int, example: tuple[int, int]) -> None:
    class PaddedTo(PaddedLater):
        def forward(self, x: Tensor) -> Tensor:
            f = padded(self.first(x), window)
            return x + self.body(to_tokens(f), (f.shape[2], f.shape[3]))[..., : x.shape[2], : x.shape[3]]

    grid = plan(PaddedTo(), split_at="blocks.1", dac=Where, example_inputs=torch.rand(1, 3, *example)).feature.grid
    assert grid == Grid(None, multiple=window, per=window)


def test_a_network_of_one_size_has_the_grid_unchecked() -> None:
    hair = converted(OfOneSize())
    assert hair.plan.feature.grid == Grid("first")
    assert [what for what in hair.plan.unchecked if what.startswith("the grid of tokens at 33×49: RuntimeError")]
    got, own = maps_seen(hair, images(64, 96))
    assert torch.equal(got, own)


def test_lack_of_memory_is_no_evidence_on_grids() -> None:
    class Short(Windows):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2:] == (33, 49):
                raise torch.OutOfMemoryError
            return super().forward(x)

    with pytest.raises(torch.OutOfMemoryError):
        plan(Short(), split_at="blocks.1")


def test_features_in_other_layouts_take_no_further_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr("hairify.planning._grids._resized", lambda *_: sizes.append(1))
    assert plan(Windows(), split_at="first").feature.grid is None
    assert not sizes
    plan(Windows(), split_at="blocks.1")
    assert sizes


class Counted(Windows):
    """Has a number among its arguments that is a side of the example by chance."""

    def forward(self, x: Tensor, steps: int = 64) -> Tensor:
        assert steps == 64
        return super().forward(x)


def test_a_number_that_is_a_side_by_chance_is_left_alone() -> None:
    made = plan(Counted(), split_at="blocks.1", example_inputs=(torch.rand(1, 3, 64, 96), 64))
    assert made.feature.grid is not None
    assert not made.unchecked


@pytest.mark.parametrize("name", ["windows", "padded later", "patches by functions, padded", "listed"])
def test_plans_carry_the_grid(name: str) -> None:
    made = plan(ANY_SIZE[name](), split_at="blocks.1")
    assert Plan.from_json(made.to_json()) == made
    assert "tokens" in str(made)


def test_older_plans_go_by_the_aspect_ratio() -> None:
    text = json.loads(plan(Windows(), split_at="blocks.1").to_json())
    del text["feature"]["grid"], text["unchecked"]
    old = Plan.from_json(json.dumps(text | {"version": PLAN_VERSION - 1}))
    assert old.feature.grid is None
    hair = perturb(hairify(Windows().double().eval(), plan=dataclasses.replace(old, dac_source=Where, giv_dim=8)))
    got, own = maps_seen(hair, images(17, 24))
    assert got.shape[2:] == token_grid(24 * 24, (17, 24))
    assert own.shape[2:] == (24, 24)


def test_a_damaged_grid_or_a_missing_module() -> None:
    made = plan(Windows(), split_at="blocks.1")
    text = json.loads(made.to_json())
    for change in ({"multiple": 0}, {"per": "x"}, {"module": 3}, {"axis": 3}, {"index": -1}, {"up": None}, {"new": 1}):
        damaged = json.loads(json.dumps(text))
        damaged["feature"]["grid"] |= change
        with pytest.raises(errors.CheckpointError, match="damaged"):
            Plan.from_json(json.dumps(damaged))
    elsewhere = dataclasses.replace(made, feature=dataclasses.replace(made.feature, grid=Grid("nowhere")))
    with pytest.raises(errors.PlanMismatchError, match="'nowhere'"):
        hairify(Windows(), plan=elsewhere)


@pytest.mark.parametrize(
    "name",
    [  # without "patches by functions, cut off", which compilers make anew for other sizes by themselves
        "windows",
        "padded later",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "channels last",
                "listed",
                "merged",
                "patches",
                "patches by functions, padded",
                "strided twice",
            )
        ),
    ],
)
def test_compiled_once_for_all_sizes(name: str) -> None:
    torch._dynamo.reset()
    hair = converted(ANY_SIZE[name]())
    compiled = torch.compile(hair, backend="eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        for size in ((27, 44), (33, 20), (17, 30), (19, 41)):
            x = images(*size, batch=5)
            assert_close(compiled(x), hair(x), 1e-12)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "windows",
        pytest.param("patches by functions, padded", marks=pytest.mark.slow),
        pytest.param("merged", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_exported_for_all_sizes_that_the_network_is(name: str, strict: bool) -> None:
    network = ANY_SIZE[name]().double().eval()
    hair = converted(network)
    example, any_size = (images(27, 44, batch=5),), dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    original = torch.export.export(network, example, dynamic_shapes=(any_size,), strict=strict).module()
    program = torch.export.export(hair, example, dynamic_shapes=(any_size,), strict=strict).module()
    taken = 0
    for size in SIZES[::4]:
        with torch.no_grad():
            try:
                original(images(*size))
            except AssertionError:  # a guard: the network's own slices differ where nothing was padded
                continue
            assert_close(program(images(*size)), hair(images(*size)), 1e-12)
            taken += 1
    assert taken > 10


@pytest.mark.parametrize("name", ["windows", "padded later", "patches", "merged", "channels last", "listed"])
def test_the_graph_has_the_grid(name: str) -> None:
    hair = converted(ANY_SIZE[name]())
    graph = hair.graph()
    assert not any("on_reference" in str(hooks) for m in graph.modules() for hooks in [m._forward_hooks])
    with torch.no_grad():
        for size in SIZES[::15]:
            assert torch.equal(graph(images(*size)), hair(images(*size)))


def test_baked_networks_have_no_hook_left() -> None:
    static = converted(Windows()).bake(images(17, 24))
    assert not any(module._forward_hooks for module in static.modules())


def test_checkpointing_before_the_split_and_behind_it() -> None:
    class Checkpointed(Windows):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            f = torch.utils.checkpoint.checkpoint(
                self.first, torch.nn.functional.pad(x, (0, 0, 0, 7)), use_reentrant=False
            )
            return x + self.body(f.flatten(2).transpose(1, 2), (f.shape[2], f.shape[3]))[:, :, : x.shape[2]]

    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        hair = converted(Checkpointed(), generator=torch.Generator().manual_seed(0))
        hair.checkpoint_blocks(checkpointed)
        hair(images(17, 24, batch=2)).square().mean().backward()
        gradients.append([p.grad for p in hair.parameters() if p.grad is not None])
    for got, expected in zip(*gradients, strict=True):
        assert_close(got, expected, 1e-10)


def test_windows_that_check_their_size() -> None:
    """The network refuses the sizes that are tried first."""
    hair = perturb(hairify(WindowNet().double().eval(), dac=Where, giv_dim=8))
    assert hair.plan.feature.grid == Grid("first")
    assert not hair.plan.unchecked
    for size in ((4, 44), (8, 20), (36, 12)):
        seen: list[Tensor] = []
        hook = hair.dac.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        hair.giv(images(*size))
        hook.remove()
        assert seen[0].shape[2:] == size


def test_another_arrangement_changes_the_result() -> None:
    """The DAC of these tests sees it: else they would show nothing."""
    hair = converted(Windows())
    got, _ = maps_seen(hair, images(17, 24))
    assert_differs(hair.dac(got), hair.dac(got.flatten(2).unflatten(2, (18, 32))), 1e-3)


def test_a_map_with_another_number_of_positions_is_not_used() -> None:
    """A network that takes another way at other sizes than those tried."""

    class Sometimes(OfTokens):
        def forward(self, x: Tensor) -> Tensor:
            f = self.first(x)
            if x.shape[2] > 100:
                f = torch.nn.functional.avg_pool2d(f, 2)
            return x + torch.nn.functional.interpolate(
                self.body(f.flatten(2).transpose(1, 2), (f.shape[2], f.shape[3])), size=x.shape[2:]
            )

    hair = converted(Sometimes())
    got, own = maps_seen(hair, images(120, 48))
    assert torch.equal(got, own)

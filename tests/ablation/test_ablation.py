"""The paper's Tables 5 and 6: what is compared starts alike and differs as it should; the numbers are right."""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from networks import NETWORKS, Chain, DnCNN, Pooled
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from util import START, assert_close, assert_differs, assert_unchanged, snapshot, train

from hairify import HairModel, Plan, hairify, plan
from hairify._support.counting import count
from hairify.ablation.running import FILE, AblationSettings, ablate
from hairify.ablation.tables import AblationTable, Row, Run, Spread
from hairify.ablation.variants import VARIANTS, LearnedGIVs, make_variant
from hairify.errors import NetworkError, OptionError, OutsideForwardError, SplitError, TrainingError
from hairify.evaluation import Score, score
from hairify.networks import ConditionalEmbedding
from hairify.networks._embedding import embed

OPTIONS: dict[str, Any] = {"preset": "published", "dac": Pooled, "giv_dim": 8}


def seed(number: int = 0) -> Generator:
    return Generator().manual_seed(number)


@functools.cache
def trained(name: str) -> tuple[nn.Module, Plan]:
    """A network whose residual scales and norms have left their start, and its plan."""
    torch.manual_seed(0)
    network = train(NETWORKS[name](), steps=1).double().eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith(("beta", "gamma")):
                parameter.normal_()
    return network, plan(network, **OPTIONS)


def variant(which: str, name: str) -> Any:
    network, its_plan = trained(name)
    return make_variant(which, network, its_plan, generator=seed())


def move(model: ConditionalEmbedding) -> ConditionalEmbedding:
    """Projections off zero."""
    with torch.no_grad():
        for parameter in model.projections.parameters():
            parameter.normal_()
    return model


# What is compared


@pytest.mark.slow
@pytest.mark.parametrize("which", VARIANTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_variant_starts_as_the_network(name: str, which: str) -> None:
    network, _ = trained(name)
    before, x = snapshot(network), torch.rand(2, 3, 32, 48).double()
    model = variant(which, name)
    assert_unchanged(network, before, random=False)
    assert model.training == network.training
    assert {p.data_ptr() for p in model.parameters()}.isdisjoint({p.data_ptr() for p in network.parameters()})
    if which in ("static", "dac"):
        assert torch.equal(model(x), network(x))
    else:
        assert_close(model(x), network(x), START[torch.float64])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_embedding_counts_once_projections_have_left_zero(name: str) -> None:
    model, x = variant("dac", name), torch.rand(2, 3, 32, 48).double()
    start = model(x)
    with torch.no_grad():
        model.dac.linear.bias.add_(1)
    assert torch.equal(model(x), start)
    moved = move(model)(x)
    assert_differs(moved, start)
    with torch.no_grad():
        model.dac.linear.bias.add_(1)
    assert_differs(model(x), moved)


@pytest.mark.parametrize("which", ["dac", "hsn"])
@pytest.mark.parametrize("name", NETWORKS)
def test_images_of_a_batch_stay_apart(name: str, which: str) -> None:
    model, x = variant(which, name), torch.rand(3, 3, 32, 48).double()
    x[1] *= 0.2
    if which == "dac":
        move(model)
    else:
        with torch.no_grad():
            for parameter in model.hsn.parameters():
                parameter.normal_()
    assert_close(model(x), torch.cat([model(image[None]) for image in x]), 1e-9)


def test_the_same_seed_gives_the_same_dac() -> None:
    embedded, converted = variant("dac", "dncnn"), variant("both", "dncnn")
    for own, other in zip(embedded.dac.parameters(), converted.dac.parameters(), strict=True):
        assert torch.equal(own, other)
    network, its_plan = trained("dncnn")
    other = make_variant("both", network, its_plan, generator=seed(1))
    assert not torch.equal(other.dac.linear.weight, converted.dac.linear.weight)


def test_parameters_are_those_of_the_network_and_what_is_added() -> None:
    network, its_plan = trained("restormer")
    counts = {which: count(make_variant(which, network, its_plan)) for which in VARIANTS}
    dac = sum(p.numel() for p in its_plan.make_dac().parameters())
    blocks = [network.get_submodule(block) for level in its_plan.levels for block in level.blocks]
    widths = [int(block.norm1.body.weight.numel()) for block in blocks]
    assert counts["static"] == sum(p.numel() for p in network.parameters())
    assert counts["dac"] == counts["static"] + dac + 8 * sum(widths)
    assert counts["both"] == its_plan.parameters[1]
    assert counts["hsn"] == counts["both"] - dac + 8 * len(blocks)
    assert make_variant("hsn", network, its_plan).plan.parameters == (counts["static"], counts["hsn"])


def test_an_unknown_variant() -> None:
    network, its_plan = trained("dncnn")
    with pytest.raises(OptionError, match=r"'dca'.*'static', 'dac', 'hsn', 'both'"):
        make_variant("dca", network, its_plan)


def test_the_embedding_is_a_projection_of_the_giv_added_to_what_blocks_return() -> None:
    """Against the sum written out, on the network itself."""
    for name, dims in (("window", 1), ("unet", 2)):
        network, its_plan = trained(name)
        model = move(embed(network, its_plan, generator=seed()))
        x, givs = torch.rand(2, 3, 32, 48).double(), []
        blocks = [block for level in its_plan.levels for block in level.blocks]
        plain = copy.deepcopy(network)

        def classify(module: nn.Module, args: Any, output: Tensor, model: Any = model, givs: Any = givs) -> None:
            feature = output if output.ndim == 4 else output.transpose(1, 2)
            givs.append(model.dac.linear(feature.flatten(2).mean(2)))

        plain.get_submodule(its_plan.split).register_forward_hook(classify)
        for block, projection in zip(blocks, model.projections, strict=True):

            def shifted(
                module: nn.Module, args: Any, output: Tensor, p: Any = projection, givs: Any = givs, dims: int = dims
            ) -> Tensor:
                shift = givs[0] @ p.weight.T
                return output + (shift[:, None, :] if dims == 1 else shift[:, :, None, None])

            plain.get_submodule(block).register_forward_hook(shifted)
        assert_differs(model(x), network(x))
        assert_close(model(x), plain(x), 1e-12)


class OnWindows(nn.Module):
    """A block that takes and returns windows (k·B, 16, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class InWindows(Chain):
    def middle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = super().middle(y)
        return y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


class ChannelsLast(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WithSize(nn.Module):
    """A block that returns a dict of which the second tensor is its feature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = x["feature"] if isinstance(x, dict) else x
        return {"name": "block", "size": torch.tensor(x.shape[-2:]), "feature": x + self.conv(x).relu()}


class Dicts(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x)["feature"]  # type: ignore[call-overload]


class Containers(Chain):
    """Blocks that are never called themselves."""

    def middle(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = x + block[1](block[0](x).relu())
        return x


class Flattened(Chain):
    """Conv1d over (B, C, L)."""

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x.flatten(2)).unflatten(2, x.shape[2:])


class Overwriting(nn.Module):
    """A block that overwrites its input, which is used afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(x)) + x


def two_convs() -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))


LAYOUTS: dict[str, tuple[nn.Module, int, str]] = {
    "windows": (InWindows(*(OnWindows() for _ in range(3))), -1, "body.0"),
    "channels last": (ChannelsLast(*(OnWindows() for _ in range(3))), -1, "body.0"),
    "dicts": (Dicts(*(WithSize() for _ in range(3))), 1, "body.0"),
    "containers": (Containers(*(two_convs() for _ in range(3))), 1, "body.0.1"),
    "conv1d": (Flattened(*(nn.Conv1d(8, 8, 3, padding=1) for _ in range(3))), 1, "body.0"),
    "in place": (Chain(*(Overwriting() for _ in range(3))), 1, "body.0"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    network, axis, place = LAYOUTS[name]
    network = copy.deepcopy(network).double().eval()
    its_plan = plan(network, split_at="split", targets="families", **OPTIONS)
    model, x = embed(network, its_plan), torch.rand(2, 3, 32, 48).double()
    with torch.no_grad():
        assert torch.equal(model(x), network(x))
        assert [projection.weight.shape for projection in model.projections] == [(8, 8)] * 3
        # One block alone, whose shift is then the same everywhere: the sum is written out at its place.
        model.projections[0].weight.normal_()
        model.dac.linear.weight.zero_()
        model.dac.linear.bias.copy_(torch.arange(8.0))
        shift = model.projections[0](model.dac.linear.bias)
        shift = shift if axis == -1 else shift.view(-1, *[1] * (1 if name == "conv1d" else 2))
        plain = copy.deepcopy(network)
        plain.get_submodule(place).register_forward_hook(
            lambda module, args, y: {**y, "feature": y["feature"] + shift} if isinstance(y, dict) else y + shift
        )
        assert_differs(model(x), network(x))
        assert_close(model(x), plain(x), 1e-12)
        move(model).dac.linear.weight.normal_()
        assert_close(model(x), torch.cat([model(image[None]) for image in x]), 1e-9)


class AsVectors(nn.Module):
    """A block that returns windows as vectors (k·B, 16·C)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.mlp(x)).flatten(1)


class Unclear(InWindows):
    def middle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        for block in self.body:
            y = block(y).view(-1, 16, c)
        return y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def test_a_block_without_recognisable_channels_is_named() -> None:
    network = Unclear(*(AsVectors() for _ in range(3)))
    its_plan = plan(network, split_at="split", targets="families", **OPTIONS)
    with pytest.raises(NetworkError, match=r"'body\.0' returns \(96, 128\).*exclude"):
        embed(network, its_plan)


def test_the_giv_belongs_to_one_forward() -> None:
    model, x = move(variant("dac", "unet")), torch.rand(1, 3, 32, 48).double()
    free, block = model(x), model.base.up3[0]
    with pytest.raises(OutsideForwardError, match=r"'up3\.0'"):
        block(torch.rand(1, 64, 4, 4).double())
    handle = model.base.up2.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x)
    handle.remove()
    with pytest.raises(OutsideForwardError):
        block(torch.rand(1, 64, 4, 4).double())

    images = [torch.rand(1, 3, 32, 48).double() for _ in range(4)]
    with torch.no_grad():
        expected = [model(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            for got, wanted in zip(pool.map(torch.no_grad()(model), images * 3), expected * 3, strict=True):
                assert_close(got, wanted, 1e-12)
    assert torch.equal(model(x), free)


@pytest.mark.parametrize("which", ["dac", "hsn"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(which: str, duplicate: Any) -> None:
    model, x = variant(which, "window"), torch.rand(2, 3, 32, 48).double()
    if which == "dac":
        move(model)
    before, other = model(x), duplicate(model)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        for parameter in [*other.dac.parameters(), *(other.hsn.parameters() if which == "hsn" else ())]:
            parameter.normal_()
    assert_differs(other(x), before)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("which", VARIANTS)
@pytest.mark.parametrize("name", ["unet", "window"])
def test_all_parameters_train(name: str, which: str) -> None:
    model = variant(which, name).train()
    optimizer, x = torch.optim.SGD(model.parameters(), 1e-2), torch.rand(2, 3, 32, 48).double()
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        assert [key for key, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
    still = [key for key, p in model.named_parameters() if not p.grad.any()]
    # In the network itself some gradients are zero by nature: the bias of attention's keys moves nothing.
    assert [key for key in still if key.startswith(("dac", "projections", "hsn"))] == []


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch is built without gloo")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("which", ["dac", "hsn"])
def test_distributed_data_parallel(which: str) -> None:
    """It raises in the second step where a parameter was not reached in the first."""
    model, x = variant(which, "nafnet").train(), torch.rand(2, 3, 32, 48).double()
    alike, parallel = copy.deepcopy(model), DistributedDataParallel(model)
    for one in (alike, parallel):
        optimizer = torch.optim.SGD(one.parameters(), 1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            one(x).square().mean().backward()
            optimizer.step()
    assert_close(model(x), alike(x), 1e-12)


def test_learned_vectors_select_without_the_image() -> None:
    model: HairModel = variant("hsn", "window")
    train(model, steps=2)
    first, second = (model.selecting_vectors(torch.rand(1, 3, 32, 48).double()) for _ in range(2))
    assert all(torch.equal(first[block], second[block]) for block in first)
    for index, level in enumerate(model.plan.levels):
        learned = model.hsn[index]
        assert isinstance(learned, LearnedGIVs)
        assert learned.vectors.unique(dim=0).shape == (len(level.blocks), 8)
        for m, block in enumerate(level.blocks):
            assert_close(first[block], learned.net(learned.vectors[m : m + 1])[:, m], 1e-12)
        if len(level.blocks) > 1:
            assert_differs(*(first[block] for block in level.blocks[:2]))


def test_learned_vectors_are_trained() -> None:
    model = variant("hsn", "dncnn")
    before = [part.vectors.clone() for part in model.hsn]
    train(model, steps=3)
    for part, vectors in zip(model.hsn, before, strict=True):
        assert_differs(part.vectors, vectors, 1e-4)


def test_hsn_is_static_but_for_the_way_its_weights_are_made() -> None:
    model, x = variant("hsn", "unet"), torch.rand(3, 3, 32, 48).double()
    with torch.no_grad():
        for parameter in model.hsn.parameters():
            parameter.normal_()
    assert_close(model(x), model.bake(x[:1])(x), 1e-10)


# The table


def table_of(seeds: int = 3) -> AblationTable:
    rng = np.random.default_rng(0)
    variants = tuple(Row(name, name, "down4") for name in VARIANTS)
    positions = (Row("both@down2", "both", "down2", ("0.25", "down2")), Row("both", "both", "down4", ("0.5",)))
    names = [*VARIANTS, "both@down2"]
    runs = [
        Run(name, number, 10 ** (5 + i), {task: Score(*rng.normal((30, 0.9), (2, 0.02))) for task in ("rain", "haze")})
        for number in range(seeds)
        for i, name in enumerate(names)
    ]
    return AblationTable(variants, positions, tuple(runs))


def values(table: AblationTable, name: str, task: str, metric: str) -> np.ndarray[Any, Any]:
    runs = [run for run in table.runs if run.row == name]
    tasks = ["rain", "haze"] if task == "average" else [task]
    return np.mean([[getattr(run.scores[t], metric) for run in runs] for t in tasks], axis=0)


@pytest.mark.parametrize("task", ["rain", "haze", "average"])
@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_statistics_against_numpy(task: str, metric: Any) -> None:
    table = table_of()
    static = values(table, "static", task, metric)
    for row in (*table.variants, *table.positions):
        own = values(table, row.name, task, metric)
        spread, difference = table.spread(row, task, metric), table.difference(row, task, metric)
        assert (spread.mean, spread.deviation) == pytest.approx((own.mean(), own.std(ddof=1)))
        less = own - static
        assert (difference.mean, difference.deviation) == pytest.approx((less.mean(), less.std(ddof=1)))


def test_pairs_are_of_one_seed_whatever_the_order_of_runs() -> None:
    table = table_of()
    shuffled = AblationTable(table.variants, table.positions, tuple(reversed(table.runs)))
    row = table.variants[3]
    assert shuffled.difference(row, "rain", "psnr") == table.difference(row, "rain", "psnr")


def test_one_seed_has_no_deviation() -> None:
    table = table_of(seeds=1)
    assert table.spread(table.variants[0], "rain", "psnr").deviation is None
    assert "±" not in table.to_markdown()
    assert "over" not in table.to_markdown()


def test_json_holds_everything() -> None:
    table = table_of()
    data = json.loads(table.to_json())
    assert [row["name"] for row in data["variants"]] == list(VARIANTS)
    assert data["positions"][0]["asked"] == ["0.25", "down2"]
    both = data["variants"][3]
    assert both["parameters"] == 10**8
    assert both["scores"]["average"]["psnr"]["mean"] == table.spread(table.variants[3], "average", "psnr").mean
    deviation = table.difference(table.variants[3], "haze", "ssim").deviation
    assert both["less_static"]["haze"]["ssim"]["deviation"] == deviation
    assert len(data["runs"]) == 15


def test_markdown_is_like_the_papers_tables() -> None:
    table = table_of()
    sections = table.to_markdown().split("\n\n")
    five = sections[1].splitlines()
    assert five[0] == "| setting | DAC | HSN | parameters | rain | haze | average |"
    assert [line.split(" | ")[:4] for line in five[2:]] == [
        ["| static", "×", "×", "100,000"],
        ["| dac", "✓", "×", "1.0M"],
        ["| hsn", "×", "✓", "10.0M"],
        ["| both", "✓", "✓", "100.0M"],
    ]
    spread = [table.spread(table.variants[1], "rain", metric) for metric in ("psnr", "ssim")]
    expected = f"{spread[0].mean:.2f} ± {spread[0].deviation:.2f} / {spread[1].mean:.3f} ± {spread[1].deviation:.3f}"
    assert five[3].split(" | ")[4] == expected
    less = sections[3].splitlines()
    assert [line.split(" | ")[0] for line in less[2:]] == ["| dac", "| hsn", "| both"]
    difference = table.difference(table.variants[1], "rain", "psnr")
    assert less[2].split(" | ")[4].startswith(f"{difference.mean:+.2f} ± {difference.deviation:.2f} / ")
    six = sections[5].splitlines()
    assert six[0].startswith("| split | asked for | parameters | rain")
    assert [line.split(" | ")[:2] for line in six[2:]] == [["| `down2`", "0.25, down2"], ["| `down4`", "0.5"]]


def test_the_terminals_table() -> None:
    table = table_of()
    console = Console(file=io.StringIO(), width=120)
    console.print(table.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    row = table.positions[0]
    spread, difference = table.spread(row, "haze", "psnr"), table.difference(row, "average", "psnr")
    assert f"{spread.mean:.2f} ± {spread.deviation:.2f}" in text
    assert f"{difference.mean:+.2f} ± {difference.deviation:.2f}" in text


def test_without_the_static_network_there_is_no_difference() -> None:
    full = table_of()
    table = AblationTable(full.variants[1:], (), tuple(run for run in full.runs if run.row in VARIANTS[1:]))
    assert "static" not in table.to_markdown()
    assert "less_static" not in table.to_json()
    assert len(table.table().columns) == 5


def test_a_single_task_is_its_own_average() -> None:
    runs = tuple(Run("static", number, 5, {"rain": Score(30.0 + number, 0.9)}) for number in range(2))
    table = AblationTable((Row("static", "static", "x"),), (), runs)
    assert table.tasks == ["rain"]
    assert table.spread(table.variants[0], "rain", "psnr") == Spread(30.5, math.sqrt(0.5))


def test_perfect_images() -> None:
    runs = tuple(Run("static", number, 5, {"rain": Score(math.inf, 1.0)}) for number in range(2))
    table = AblationTable((Row("static", "static", "x"),), (), runs)
    assert json.loads(table.to_json())["runs"][0]["scores"]["rain"] == {"psnr": None, "ssim": 1.0}
    assert "inf" in table.to_markdown()


# Running


def build(number: int) -> nn.Module:
    torch.manual_seed(number)
    return DnCNN(depth=5, width=8)


class Runs:
    """Instead of training: scores that tell the model and seed."""

    def __init__(self, interrupted_at: int | None = None, tasks: tuple[str, ...] = ("rain", "haze")) -> None:
        self.made: list[tuple[str, int]] = []
        self.interrupted_at, self.tasks = interrupted_at, tasks

    def __call__(self, model: nn.Module, number: int, name: str) -> Mapping[str, Score]:
        if len(self.made) == self.interrupted_at:
            raise KeyboardInterrupt
        self.made.append((name, number))
        return {task: Score(count(model) / 1e3 + number, 0.5) for task in self.tasks}


def go(folder: Path, settings: AblationSettings, run: Any, **options: Any) -> AblationTable:
    return ablate(build, settings, run, folder=folder, **({"plan_options": OPTIONS} | options))


def test_every_setting_runs_once_for_each_seed(tmp_path: Path) -> None:
    run, told = Runs(), []
    table = go(
        tmp_path, AblationSettings(seeds=2), run, on_run=lambda one, done, total: told.append((one, done, total))
    )
    assert run.made == [(name, number) for number in range(2) for name in VARIANTS]
    assert [(one.row, one.seed) for one, _, _ in told] == run.made
    assert [(done, total) for _, done, total in told] == [(i + 1, 8) for i in range(8)]
    network, its_plan = build(0), plan(build(0), **OPTIONS)
    for row in table.variants:
        assert row.split == its_plan.split
        parameters = count(make_variant(row.name, network, its_plan))
        assert table.parameters(row) == parameters
        assert table.spread(row, "rain", "psnr").mean == pytest.approx(parameters / 1e3 + 0.5)


def test_models_depend_on_their_seed_alone(tmp_path: Path) -> None:
    """Also where the network is a trained one, the same for all seeds."""
    network, made = build(0), []

    def run(model: nn.Module, number: int, name: str) -> Mapping[str, Score]:
        made.append(copy.deepcopy(model.state_dict()))
        return {"rain": Score(30, 0.9)}

    for attempt in range(2):
        torch.manual_seed(attempt)
        settings = AblationSettings(variants=("dac", "hsn", "both"), seeds=2)
        ablate(lambda number: network, settings, run, folder=tmp_path / str(attempt), plan_options=OPTIONS)
    first, second = made[:6], made[6:]
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    for one, other in zip(first[:3], first[3:], strict=True):
        assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_an_interrupted_ablation_goes_on(tmp_path: Path) -> None:
    settings, first, second = AblationSettings(seeds=2), Runs(interrupted_at=5), Runs()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, settings, first)
    table = go(tmp_path, settings, second)
    assert len(first.made) == 5
    assert first.made + second.made == [(name, number) for number in range(2) for name in VARIANTS]
    assert table == go(tmp_path / "unbroken", settings, Runs())
    third = Runs()
    assert go(tmp_path, settings, third) == table
    assert third.made == []


def test_settings_may_grow(tmp_path: Path) -> None:
    go(tmp_path, AblationSettings(variants=("both",), seeds=1), Runs())
    run = Runs()
    table = go(tmp_path, AblationSettings(seeds=2, splits=("body.2",)), run)
    assert ("both", 0) not in run.made
    assert len(run.made) == 9
    assert table.seeds == 2
    fewer = Runs()
    assert len(go(tmp_path, AblationSettings(variants=("dac",), seeds=1), fewer).runs) == 1
    assert fewer.made == []


def test_another_configuration_is_named(tmp_path: Path) -> None:
    settings = AblationSettings(variants=("both",), seeds=1)
    about = {"steps": 100, "data": (Path("photographs"),)}
    go(tmp_path, settings, Runs(), about=about)
    kept = (tmp_path / FILE).read_bytes()
    assert go(tmp_path, settings, Runs(interrupted_at=0), about=about).seeds == 1
    with pytest.raises(TrainingError, match="`steps` was 100 and is now 200"):
        go(tmp_path, settings, Runs(), about=about | {"steps": 200})
    with pytest.raises(TrainingError, match="`clip` was None and is now 1"):
        go(tmp_path, settings, Runs(), about=about | {"clip": 1})
    with pytest.raises(TrainingError, match=r"the plan of 'both': `giv_dim` was 8 and is now 4"):
        go(tmp_path, settings, Runs(), about=about, plan_options=OPTIONS | {"giv_dim": 4})
    assert (tmp_path / FILE).read_bytes() == kept


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 2, "about": {}, "plans": {}, "runs": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(TrainingError, match=FILE):
        go(tmp_path, AblationSettings(), Runs())
    assert (tmp_path / FILE).read_text() == text


def test_all_runs_have_the_same_tasks(tmp_path: Path) -> None:
    go(tmp_path, AblationSettings(variants=("static",), seeds=1), Runs())
    with pytest.raises(TrainingError, match="'dac' with seed 0 has scores of rain, those before of rain, haze"):
        go(tmp_path, AblationSettings(seeds=1), Runs(tasks=("rain",)))
    with pytest.raises(TrainingError, match="nothing"):
        go(tmp_path / "none", AblationSettings(seeds=1), Runs(tasks=()))


def test_a_sweep_names_the_modules_it_came_to(tmp_path: Path) -> None:
    run = Runs()
    default = plan(build(0), **OPTIONS).split
    settings = AblationSettings(variants=("both",), splits=("body.3", default), sweep=3, seeds=1)
    table = go(tmp_path, settings, run)
    asked = [name for row in table.positions for name in row.asked]
    assert sorted(asked) == sorted(["body.3", default, "0.25", "0.5", "0.75"])
    for row in table.positions:
        for text in row.asked:
            split_at = float(text) if text[0] == "0" else text
            assert row.split == plan(build(0), split_at=split_at, **OPTIONS).split
    assert len({row.split for row in table.positions}) == len(table.positions)
    same = next(row for row in table.positions if default in row.asked)
    assert same.name == "both"  # what is converted alike is trained once
    names = [row.name for row in table.positions]
    assert sorted(name for name, _ in run.made) == sorted(names)
    assert table.parameters(table.positions[0]) == count(hairify(build(0), split_at="body.3", **OPTIONS))


def test_a_sweep_may_have_planning_options_of_its_own(tmp_path: Path) -> None:
    options = OPTIONS | {"include": ("body.14",)}
    settings = AblationSettings(variants=("static",), splits=("body.0",), seeds=1)
    networks: list[nn.Module] = []

    def run(model: nn.Module, number: int, name: str) -> Mapping[str, Score]:
        networks.append(model)
        return {"rain": Score(30, 0.9)}

    ablate(
        lambda number: DnCNN(depth=6, width=8),
        settings,
        run,
        folder=tmp_path,
        plan_options=options,
        sweep_options=OPTIONS,
    )
    converted = networks[1]
    assert isinstance(converted, HairModel)
    assert sum(len(level.layer_names(layer)) for level in converted.plan.levels for layer in level.layers) > 1


def test_a_position_that_is_none_fails_before_anything_runs(tmp_path: Path) -> None:
    for text in ("body.99", "1.5", "nan"):
        run = Runs()
        with pytest.raises(OptionError, match=f"'{text}'") as caught:
            go(tmp_path, AblationSettings(splits=(text,)), run)
        assert isinstance(caught.value.__cause__, (SplitError, OptionError))
        assert run.made == []


def test_a_module_named_like_a_number_goes_before_a_fraction() -> None:
    network = nn.Sequential(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(6))))
    settings = AblationSettings(splits=("0.5", "0.50", "0.7"), sweep=1)
    assert settings.positions(network) == [("0.5", "0.5"), ("0.50", 0.5), ("0.7", 0.7), ("0.5", 0.5)]
    assert settings.positions(nn.Sequential()) == [("0.5", 0.5), ("0.50", 0.5), ("0.7", 0.7)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"variants": ("static", "static")}, "`variants`"),
        ({"variants": ("static", "dca")}, "'dca'"),
        ({"variants": ()}, "nothing to compare"),
        ({"splits": ("",)}, "`splits`"),
        ({"sweep": -1}, "`sweep` is -1"),
        ({"seeds": 0}, "`seeds` is 0"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        AblationSettings(**options)


def test_an_ablation_of_real_training(tmp_path: Path) -> None:
    """Every variant learns, from the same start on the same images."""
    clean = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 6, generator=seed()), scale_factor=8, mode="bicubic")
    clean = clean.clamp(0, 1)
    degraded = (clean + 0.2 * torch.randn(clean.shape, generator=seed(1))).clamp(0, 1)
    starts: dict[tuple[str, int], Tensor] = {}
    losses: dict[tuple[str, int], list[float]] = {}

    def run(model: nn.Module, number: int, name: str) -> Mapping[str, Score]:
        starts[name, number] = model.eval()(degraded).detach()
        optimizer, losses[name, number] = torch.optim.Adam(model.train().parameters(), 3e-3), []
        for _ in range(8):
            loss = (model(degraded) - clean).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name, number].append(loss.item())
        with torch.no_grad():
            restored = model.eval()(degraded).clamp(0, 1)
        return {f"image {i}": score(restored[i], clean[i]) for i in range(2)}

    table = go(tmp_path, AblationSettings(seeds=2, splits=("body.2",)), run)
    for (name, number), start in starts.items():
        assert_close(start, starts["static", number], START[torch.float32])
        assert losses[name, number][-1] < losses[name, number][0]
    assert_differs(starts["static", 0], starts["static", 1])
    assert len({tuple(each) for each in losses.values()}) == 10  # none is another in disguise
    assert table.tasks == ["image 0", "image 1", "average"]
    assert table.spread(table.variants[3], "average", "psnr").deviation > 0


# Which degradations are learnt together

LEARNT = ("noise15", "noise25", "rain", "haze")
TOGETHER = AblationSettings(variants=(), combinations=("all",), seeds=1)


class Together(Runs):
    """Instead of training: scores of what was learnt alone."""

    def __call__(
        self, model: nn.Module, number: int, name: str, together: tuple[str, ...] = LEARNT
    ) -> Mapping[str, Score]:
        self.made.append((name, number))
        gain = isinstance(model, HairModel) * len(together)
        return {f"{one} set": Score(30 + LEARNT.index(one) + number + gain, 0.9) for one in LEARNT if one in together}


def test_every_combination_is_learnt_by_both_networks(tmp_path: Path) -> None:
    """The paper's seven, in its order; noise of any strength is one."""
    run = Together()
    table = go(tmp_path, TOGETHER, run, degradations=LEARNT)
    asked = ["noise", "rain", "haze", "noise, rain", "noise, haze", "rain, haze", "noise, rain, haze"]
    assert [name for name, _ in run.made] == [f"{which} of {one}" for one in asked for which in ("static", "both")]
    assert table.combinations[6].together == ("noise15", "noise25", "rain")
    assert {row.split for row in table.combinations} == {plan(build(0), **OPTIONS).split}
    assert table.tasks == [*(f"{one} set" for one in LEARNT), "average"]
    for row in table.combinations:
        learnt = [f"{one} set" for one in row.together]
        assert [task for task in table.tasks if table.has(row, task)] == learnt
        if row.variant == "both":
            assert table.difference(row, learnt[0], "psnr").mean == pytest.approx(len(learnt))
    again = Together()
    assert go(tmp_path, TOGETHER, again, degradations=LEARNT) == table
    assert again.made == []


def test_the_tables_of_combinations(tmp_path: Path) -> None:
    settings = AblationSettings(variants=("static",), combinations=("rain", "haze/noise"), seeds=1)
    table = go(tmp_path, settings, Together(), degradations=LEARNT)
    lines = table.to_markdown().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| setting | rain | noise | haze | parameters |"))
    lines = lines[start:]
    static, both = count(build(0)), count(hairify(build(0), **OPTIONS))
    assert lines[2] == f"| static | ✓ | × | × | {static:,} | – | – | 32.00 / 0.900 | – | – |"
    assert lines[5] == (f"| both | × | ✓ | ✓ | {both:,} | 33.00 / 0.900 | 34.00 / 0.900 | – | 36.00 / 0.900 | – |")
    assert (
        lines[-1]
        == f"| both | × | ✓ | ✓ | {both:,} | +3.00 / +0.000 | +3.00 / +0.000 | – | +3.00 / +0.000 | +3.00 / +0.000 |"
    )
    data = json.loads(table.to_json())
    assert data["combinations"][3]["less_static"]["haze set"]["psnr"] == {"mean": 3.0, "deviation": None}
    assert "rain set" not in data["combinations"][3]["scores"]
    assert table.table().row_count == 5


def test_combinations_are_checked(tmp_path: Path) -> None:
    for asked, message in (("snow", "'snow'; accepted are noise, rain, haze"), ("noise//rain", "''; accepted are")):
        with pytest.raises(OptionError, match=message):
            go(tmp_path, AblationSettings(combinations=(asked,)), Runs(interrupted_at=0), degradations=LEARNT)
    with pytest.raises(OptionError, match="would be 63"):
        go(tmp_path, TOGETHER, Runs(interrupted_at=0), degradations=("a", "b", "c", "d", "e", "f"))
    with pytest.raises(OptionError, match="`combinations`"):
        AblationSettings(combinations=("rain", "rain"))

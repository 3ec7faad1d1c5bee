"""Which images an evaluation measures, by which metrics, and what is written down."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import layouts
import pytest
import torch
from spandrel_networks import declare_operators
from torch import Tensor, nn

from hairify.data.datasets import DataSettings, Task
from hairify.data.datasets import test_tasks as tasks_to_test
from hairify.errors import DataError, OptionError
from hairify.evaluation import (
    SETTINGS,
    Chosen,
    EvaluationSettings,
    Metric,
    OnTop,
    choose_tasks,
    evaluate,
    metric_named,
    psnr,
    read_results,
    score,
)
from hairify.evaluation._choosing import tiling_for

CPU = torch.device("cpu")


def data_of(folder: Path, *names: str, **options: Any) -> DataSettings:
    for name in names:
        layouts.build(name, folder)
    return DataSettings(test_data=(folder,), **options)


def chosen_of(data: DataSettings, **options: Any) -> Chosen:
    evaluation = EvaluationSettings(**options)
    return choose_tasks(tasks_to_test(evaluation.on(data)), evaluation)


# Settings


def test_a_setting_is_a_fixed_choice_in_the_papers_order(tmp_path: Path) -> None:
    """A stray set changes nothing, nor does what the network learnt from."""
    data = data_of(tmp_path, "SOTS", "BSD68", "Rain100L", degradations=("haze", "noise25"))
    sizes = {"SOTS": 2, "Rain100L": 3, "BSD68 noise15": 2, "BSD68 noise25": 2, "BSD68 noise50": 2}
    for strays in ((), ("Urban100", "LOL-v1")):
        for name in strays:
            layouts.build(name, tmp_path)
        chosen = chosen_of(data, setting="3-task")
        assert {task.name: len(task.clean) for task in chosen.tasks} == sizes
        assert [task.name for task in chosen.tasks] == list(sizes)
        assert chosen.missing == ()
    assert set(chosen.stray) == {"SOTS indoor", "LOL-v1", *(f"Urban100 noise{sigma}" for sigma in (15, 25, 50))}
    assert [task.name for task in chosen_of(data, setting="dehaze").tasks] == ["SOTS"]


def test_every_setting_finds_its_sets(tmp_path: Path) -> None:
    data = data_of(tmp_path, "SOTS", "BSD68", "Rain100L", "Urban100", "GoPro", "LOL-v1")
    for name, columns in SETTINGS.items():
        chosen = chosen_of(data, setting=name)
        assert [task.name for task in chosen.tasks] == [names[0] for names in columns]
        assert not chosen.missing


def test_what_a_setting_lacks_is_named(tmp_path: Path) -> None:
    data = data_of(tmp_path, "CBSD68", "SOTS")
    chosen = chosen_of(data, setting="5-task")
    assert [task.name for task in chosen.tasks] == ["SOTS", "CBSD68 noise25"]
    assert chosen.missing == ("Rain100L", "GoPro", "LOL-v1")
    with pytest.raises(DataError, match=r"'derain', which are Rain100L: found .*CBSD68 noise15"):
        chosen_of(data, setting="derain")


def test_on_top_is_for_pairs(tmp_path: Path) -> None:
    data = data_of(tmp_path, "Rain100L", "BSD68")
    chosen = chosen_of(data, on_top=("noise25", "haze"))
    assert [task.name for task in chosen.tasks] == ["Rain100L + noise25", "Rain100L + haze"]
    assert all(isinstance(task, OnTop) for task in chosen.tasks)
    assert {name.partition(" ")[0] for name in chosen.stray} == {"BSD68"}
    with pytest.raises(DataError, match=r"no pairs.*BSD68 noise15"):
        chosen_of(DataSettings(test_data=(tmp_path / "bsd68",)), on_top=("haze",))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"protocol": "matlab"}, "`protocol` is 'matlab'; accepted are hairify, promptir, derain"),
        ({"setting": "4-task"}, "`setting` is '4-task'; accepted are 3-task"),
        ({"border": -1}, "`border` is -1"),
        ({"tile_above": -0.5}, "`tile_above` is -0.5"),
        ({"tile_above": math.nan}, "`tile_above` is nan"),
        ({"metrics": ("niqe", "niqe")}, "name each once"),
        ({"on_top": ("snowfall",)}, "`on_top` has 'snowfall'"),
        ({"evaluation_seed": 2**32}, "`evaluation_seed`"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        EvaluationSettings(**options)


@pytest.mark.parametrize("multiple", [1, 7, 8, 48, 128, 256, 300])
def test_tiles_fit_every_network(multiple: int) -> None:
    tiling = tiling_for(multiple)
    tiling.check(multiple)
    assert 128 <= tiling.tile <= 128 + 2 * multiple
    if multiple <= 128:
        assert tiling.overlap == 32


# Further metrics


class Mirror(nn.Module):
    """Restores nothing, and holds nothing in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def task(tmp_path: Path) -> Task:
    layouts.photographs(tmp_path / "holiday", count=3, height=24, width=32)
    (one,) = tasks_to_test(DataSettings(test_data=(tmp_path / "holiday",), degradations=("noise25",)))
    return one


def darkness(image: Tensor, clean: Tensor) -> Tensor:
    return 1 - image.mean()


def test_further_metrics_are_measured_of_input_and_result(task: Task, tmp_path: Path) -> None:
    results = evaluate(
        nn.Sequential(nn.AvgPool2d(3, 1, 1)), [task], multiple=1, metrics=[Metric("darkness", darkness, CPU)]
    )
    before, after = results.metrics["darkness"][task.name]
    assert before == pytest.approx(sum(one.before["darkness"] for one in results.images) / 3)
    assert after == pytest.approx(sum(one.after["darkness"] for one in results.images) / 3)
    assert after > before  # the border is darkened
    (tmp_path / "results.json").write_text(results.to_json())
    assert read_results(tmp_path / "results.json") == results
    row = results.to_markdown().splitlines()[2]
    assert row.endswith(f"| {before:.3f} → {after:.3f} |")
    assert results.table().columns[-1].header == "darkness"


def test_each_image_has_a_line(task: Task) -> None:
    results = evaluate(nn.AvgPool2d(3, 1, 1), [task], multiple=1, metrics=[Metric("darkness", darkness, CPU)])
    lines = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [line["clean"] for line in lines] == [str(path) for path in task.clean]
    assert [(line["task"], line["width"], line["height"], line["tiled"]) for line in lines] == [
        (task.name, "32", "24", "0")
    ] * 3
    for when, mean in (("", results.scores), ("input_", results.inputs)):
        for name in ("psnr", "ssim"):
            values = [float(line[f"{when}{name}"]) for line in lines]
            assert sum(values) / 3 == pytest.approx(getattr(mean[task.name], name))
    assert {"darkness", "input_darkness"} <= lines[0].keys()


def test_an_image_that_a_metric_fails_on_is_left_out_and_named(task: Task) -> None:
    def failing(image: Tensor, clean: Tensor) -> Tensor:
        if torch.equal(clean[0], first):
            raise ValueError("too small")
        return image.mean()

    first = torch.empty(0)
    evaluate(
        Mirror(), [task], multiple=1, keep=lambda _, index, __, clean, ___: first.set_(clean) if not index else None
    )
    results = evaluate(Mirror(), [task], multiple=1, metrics=[Metric("fussy", failing, CPU)])
    assert list(results.unreadable.items()) == [(str(task.clean[0]), "fussy cannot be computed: ValueError: too small")]
    assert results.counts == {task.name: 2}


class Pyiqa(ModuleType):
    """Stands in for pyiqa, whose weights would have to be downloaded: what hairify uses of it."""

    def __init__(self, kind: str) -> None:
        super().__init__("pyiqa")
        self.kind = kind

    def list_models(self) -> list[str]:
        return ["lpips", "niqe", "musiq", "fsim"]

    def create_metric(self, name: str, device: torch.device) -> nn.Module:
        assert name in self.list_models()
        made = Scored(self.kind)
        made.metric_mode = self.kind
        return made.to(device)


class Scored(nn.Module):
    metric_mode: str

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, target: Tensor, ref: Tensor | None = None) -> Tensor:
        assert target.shape[0] == 1
        assert (ref is None) == (self.kind == "NR")
        return target.mean() if ref is None else (target - ref).abs().mean()


@pytest.mark.parametrize("kind", ["FR", "NR"])
def test_metrics_of_pyiqa(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", Pyiqa(kind))
    metric = metric_named("fsim", CPU)
    image, clean = torch.rand(2, 3, 8, 9)
    expected = image.mean() if kind == "NR" else (image - clean).abs().mean()
    assert metric(image, clean) == pytest.approx(float(expected))
    with pytest.raises(OptionError, match=r"'niqee'.*Did you mean niqe"):
        metric_named("niqee", CPU)


def test_metrics_of_torchmetrics() -> None:
    """MS-SSIM of torchmetrics, with one scale, is SSIM; its own mean over images must not reach the next one."""
    library = torchmetrics()
    metric = metric_named("torchmetrics:ms-ssim", CPU)
    clean = torch.rand(3, 180, 190)
    images = [(clean + noise * torch.randn_like(clean)).clamp(0, 1) for noise in (0.02, 0.3)]
    fresh = [
        library.MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)(one[None], clean[None]) for one in images
    ]
    assert [metric(one, clean) for one in images] == pytest.approx([float(one) for one in fresh])
    assert metric(clean, clean) == pytest.approx(1)
    assert metric_named("ms-ssim", CPU)(images[0], clean) == pytest.approx(float(fresh[0]))
    with pytest.raises(Exception, match="ms-ssim cannot be computed"):
        metric(images[0][:, :20, :20], clean[:, :20, :20])


def torchmetrics() -> Any:
    """It imports torchvision where that is installed, which fails where it was built for another torch."""
    if importlib.util.find_spec("torchvision"):
        declare_operators()
    return pytest.importorskip("torchmetrics.image")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("niqe", r"'niqe', which pyiqa would compute; not installed here: pip install pyiqa"),
        ("lpips", r"which torchmetrics or pyiqa would compute; not installed here: pip install 'hairify\[metrics\]'"),
        ("pyiqa:lpips", "which pyiqa would compute; not installed"),
        ("torchmetrics:niqe", "of torchmetrics, accepted are dists, lpips"),
        ("piq:lpips", "before the colon are torchmetrics and pyiqa"),
        ("psnr", "PSNR and SSIM are always measured"),
    ],
)
def test_metrics_that_cannot_be_had_are_named(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("torchmetrics", "torchmetrics.image", "pyiqa"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(OptionError, match=message):
        metric_named(name, CPU)


def test_a_library_that_is_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyiqa.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(OptionError, match="whose pyiqa cannot be imported: built for another torch"):
        metric_named("niqe", CPU)
    (tmp_path / "pyiqa.py").write_text("import no_such_package_at_all")
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(OptionError, match="whose pyiqa lacks no_such_package_at_all"):
        metric_named("niqe", CPU)


def test_psnr_of_both_kinds_agrees() -> None:
    image, clean = torch.rand(2, 3, 20, 20)
    assert score(image, clean).psnr == pytest.approx(float(psnr(image[None], clean[None])), abs=1e-4)

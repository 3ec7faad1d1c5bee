"""Evaluation: the scores are scikit-image's, of whole images, one at a time."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from networks import UNet
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from util import perturb

from hairify import hairify
from hairify.data._image import Image
from hairify.data.datasets import DataSettings, Task, load_pair
from hairify.data.datasets import test_tasks as tasks_to_test
from hairify.data.images import read_rgb, write
from hairify.errors import DataError, ImageError
from hairify.evaluation import (
    Protocol,
    Results,
    Score,
    conditioning_on,
    evaluate,
    measure_conditioning,
    middle,
    read_results,
    score,
)


class Halfway(nn.Module):
    """Takes sides that are multiples of 8 only, and one image only."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.9)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 1
        assert x.shape[2] % 8 == x.shape[3] % 8 == 0
        self.sizes.append(tuple(x.shape))
        return self.dropout(x) * self.strength + 2 * (x > 0.9)


@pytest.fixture
def photographs(tmp_path: Path) -> list[Task]:
    layouts.photographs(tmp_path / "holiday", count=3, height=43, width=50)
    return tasks_to_test(DataSettings(test_data=(tmp_path / "holiday",), degradations=("noise25", "haze")))


def test_scores_are_those_of_scikit_image(photographs: list[Task]) -> None:
    network = Halfway().train()
    results = evaluate(network, photographs, multiple=8, seed=3)
    assert network.dropout.training
    assert set(network.sizes) == {(1, 3, 48, 56)}
    for task in photographs:
        psnrs, ssims = [], []
        for index in range(3):
            degraded, clean = (one.permute(1, 2, 0).double().numpy() for one in load_pair(task, index, 3))
            restored = np.clip(degraded * 0.5 + 2 * (degraded > 0.9), 0, 1)
            psnrs.append(peak_signal_noise_ratio(clean, restored, data_range=1))
            ssims.append(structural_similarity(clean, restored, channel_axis=2, data_range=1))
        assert results.scores[task.name].psnr == pytest.approx(np.mean(psnrs), abs=1e-4)
        assert results.scores[task.name].ssim == pytest.approx(np.mean(ssims), abs=1e-4)
        assert results.counts[task.name] == 3
    assert results.average.psnr == pytest.approx(np.mean([one.psnr for one in results.scores.values()]))


def test_degradations_follow_the_seed(photographs: list[Task]) -> None:
    first, again, other = (evaluate(Halfway(), photographs, multiple=8, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_unreadable_images_are_left_out_and_named(photographs: list[Task]) -> None:
    broken = photographs[0].clean[1]
    broken.write_bytes(broken.read_bytes()[:200])
    results = evaluate(Halfway(), photographs, multiple=8)
    assert set(results.unreadable) == {str(broken)}
    assert set(results.counts.values()) == {2}
    for path in photographs[0].clean:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="None of the 3 images of 'holiday noise25'"):
        evaluate(Halfway(), photographs, multiple=8)


def test_every_image_can_be_kept(photographs: list[Task]) -> None:
    kept = []

    def keep(task: Task, index: int, degraded: Tensor, clean: Tensor, restored: Tensor) -> None:
        kept.append((task.name, index))
        assert torch.equal(clean, read_rgb(task.clean[index]))
        assert degraded.shape == clean.shape == restored.shape == (3, 43, 50)
        assert 0 <= float(restored.min()) <= float(restored.max()) <= 1

    told: list[Score] = []
    results = evaluate(Halfway(), photographs, multiple=8, keep=keep, on_image=lambda _, one: told.append(one))
    assert kept == [(task.name, index) for task in photographs for index in range(3)]
    mean = sum(one.psnr for one in told[:3]) / 3
    assert results.scores[photographs[0].name].psnr == pytest.approx(mean)


def test_equal_images_and_tiny_ones() -> None:
    image = torch.rand(3, 8, 9)
    assert score(image, image) == Score(math.inf, 1.0)
    assert score(image * 0, image).psnr == pytest.approx(-10 * math.log10(float(image.square().mean())), abs=1e-4)
    with pytest.raises(ImageError, match="9×6 pixels"):
        score(image[:, :6], image[:, :6])


def test_images_too_small_for_ssim_are_left_out_and_named(photographs: list[Task]) -> None:
    small = photographs[0].clean[1]
    write(Image(torch.rand(3, 6, 5)), small)
    results = evaluate(Halfway(), photographs, multiple=8)
    assert list(results.unreadable) == [str(small)]
    assert "5×6 pixels" in results.unreadable[str(small)]
    assert set(results.counts.values()) == {2}


class Failing(nn.Module):
    """It fails on images of one height, as real networks do."""

    def __init__(self, height: int, failure: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.height, self.failure = height, failure

    def forward(self, x: Tensor) -> Tensor:
        return self.failure(x) if x.shape[2] == self.height else x * self.scale


def raising(error: Exception) -> Callable[[Tensor], Tensor]:
    def failure(x: Tensor) -> Tensor:
        raise error

    return failure


FAILURES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "memory": (raising(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9")), "Out of memory"),
    "Python's memory": (raising(MemoryError()), "Out of memory. Images of up to 2 megapixels are restored whole"),
    "a GPU's memory": (raising(torch.OutOfMemoryError("CUDA out of memory. Tried")), "Out of memory"),
    "a library's memory": (raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")), "Out of memory"),
    "size": (lambda x: nn.functional.pad(x, (99, 99, 99, 99), mode="reflect"), "The network failed: RuntimeError: "),
    "another kind": (raising(KeyError("a table")), "The network failed: KeyError: 'a table'"),
    "another shape": (lambda x: x[..., 1:], "needed is a network that returns images of the shape"),
    "no numbers": (lambda x: x / 0 - x / 0, "The network made numbers that are not finite"),
    "infinite": (lambda x: x / 0, "The network made numbers that are not finite"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_an_image_that_the_network_fails_on_is_left_out_and_named(photographs: list[Task], kind: str) -> None:
    failure, message = FAILURES[kind]
    one = photographs[0].clean[1]
    write(Image(torch.rand(3, 61, 50)), one)
    results = evaluate(Failing(64, failure), photographs, multiple=8)
    assert list(results.unreadable) == [str(one)]
    assert message in results.unreadable[str(one)]
    rest = [dataclasses.replace(task, clean=(task.clean[0], task.clean[2])) for task in photographs]
    assert set(results.counts.values()) == {2}
    assert results.scores.keys() == {task.name for task in rest}
    assert all(math.isfinite(one.psnr) for one in results.scores.values())
    with pytest.raises(DataError, match="None of the 1 images of 'alone'"):
        evaluate(Failing(64, failure), [Task("alone", "noise25", (one,), None)], multiple=8)
    results = evaluate(Failing(64, failure), [Task("alone", "noise25", (one,), None), *photographs], multiple=8)
    assert list(results.scores) == [task.name for task in photographs]


def test_lack_of_memory_while_scoring_ends_nothing(photographs: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def scored(image: Tensor, clean: Tensor, protocol: Protocol) -> Score:
        calls.append(image)
        if len(calls) == 2:  # of the first image, as it is restored
            raise MemoryError
        return score(image, clean, protocol)

    monkeypatch.setattr("hairify.evaluation._running.score", scored)
    task = photographs[0]
    results = evaluate(nn.Identity(), [task], multiple=1)
    assert list(results.unreadable) == [str(task.clean[0])]
    assert results.counts == {task.name: len(task.clean) - 1}


def test_images_that_hold_no_numbers_are_left_out(photographs: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(task: Task, index: int, seed: int) -> tuple[Tensor, Tensor]:
        degraded, clean = load_pair(task, index, seed)
        (degraded, clean, clean)[index][0, 3, 4] = (math.nan, math.inf, 0.5)[index]
        return degraded, clean

    monkeypatch.setattr("hairify.evaluation._protocols.load_pair", load)
    results = evaluate(Halfway(), photographs, multiple=8)
    assert list(results.unreadable) == [str(path) for path in photographs[0].clean[:2]]
    assert all("not finite" in reason for reason in results.unreadable.values())
    assert set(results.counts.values()) == {1}


def test_of_pairs_the_degraded_file_is_named(photographs: list[Task], tmp_path: Path) -> None:
    clean = photographs[0].clean[0]
    degraded = [tmp_path / f"hazy{i}.png" for i in range(3)]
    for path in degraded[:2]:
        path.write_bytes(b"no image")
    write(Image(read_rgb(clean)), degraded[2])
    results = evaluate(Halfway(), [Task("SOTS", "haze", (clean,) * 3, tuple(degraded))], multiple=8)
    assert list(results.unreadable) == [str(path) for path in degraded[:2]]
    assert results.counts == {"SOTS": 1}


def test_results_go_through_json_and_into_tables(tmp_path: Path) -> None:
    results = Results(
        {"SOTS": Score(30.98, 0.979), "clean": Score(math.inf, 1.0)},
        {"SOTS": 500, "clean": 1},
        {"SOTS": Score(15.9, 0.81), "clean": Score(math.inf, 1.0)},
        {"broken.png": "no image"},
    )
    (tmp_path / "results.json").write_text(results.to_json())
    assert read_results(tmp_path / "results.json") == results
    assert "Infinity" not in results.to_json()
    assert json.loads(results.to_json())["tasks"]["SOTS"]["psnr"] == 30.98
    lines = results.to_markdown().splitlines()
    assert lines[2] == "| SOTS | 500 | 15.90 / 0.810 | 30.98 / 0.979 |"
    assert lines[4].startswith("| average | 501 |")
    assert results.table().row_count == 3
    (tmp_path / "results.json").write_text('{"tasks": 3}')
    with pytest.raises(DataError, match="holds no results"):
        read_results(tmp_path / "results.json")


def test_the_use_of_the_giv_is_measured_on_images_of_any_size(photographs: list[Task], tmp_path: Path) -> None:
    """On crops as large as they allow, of the network's multiple, and not at all where nothing can be compared."""
    layouts.write(tmp_path / "holiday" / "panorama.png", layouts.pixels("panorama", 16, 90))
    tasks = tasks_to_test(DataSettings(test_data=(tmp_path / "holiday",), degradations=("noise25", "haze")))
    assert [len(task.clean) for task in tasks] == [4, 4]
    hair = perturb(hairify(UNet().eval()))
    pairs = [load_pair(task, index, 5) for task in tasks for index in range(3)]
    crops = [torch.stack([middle(pair[i], 40) for pair in pairs]) for i in (0, 1)]
    expected = measure_conditioning(hair, *crops, ["noise25"] * 3 + ["haze"] * 3)
    found = conditioning_on(hair, tasks, multiple=8, seed=5)
    assert found is not None
    assert found.gain == pytest.approx(expected.gain, abs=1e-6)
    assert found.cost_of_wrong == pytest.approx(expected.cost_of_wrong, abs=1e-6)
    assert {name: one.psnr for name, one in found.own.items()} == pytest.approx(
        {name: one.psnr for name, one in expected.own.items()}
    )
    assert found.images == 6  # the narrow one is left out
    assert conditioning_on(hair, tasks[:1], multiple=8) is None
    assert conditioning_on(hair, tasks, multiple=128) is None


def test_one_image_does_not_keep_the_use_of_the_giv_from_being_measured(
    photographs: list[Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [dataclasses.replace(photographs[0], degradation=name) for name in ("noise25", "haze")]
    hair = perturb(hairify(UNet()))
    one = photographs[0].clean[1]
    rest = [dataclasses.replace(task, clean=(task.clean[0], task.clean[2])) for task in tasks]
    whole = conditioning_on(hair, tasks, multiple=8, without=[str(one)])
    assert whole is not None
    assert whole.images == 4

    def load(task: Task, index: int, seed: int) -> tuple[Tensor, Tensor]:
        degraded, clean = load_pair(task, index, seed)
        return degraded * (math.nan if task.clean[index] == one else 1), clean

    monkeypatch.setattr("hairify.evaluation._protocols.load_pair", load)
    assert conditioning_on(hair, tasks, multiple=8) == whole

    def lacking(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > least:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hair.base.register_forward_pre_hook(lacking)
    least = 1  # one at a time there is memory for
    found = conditioning_on(hair, tasks, multiple=8)
    assert found is not None
    assert found.gain == pytest.approx(whole.gain, abs=1e-3)
    least = 0
    assert conditioning_on(hair, rest, multiple=8) is None
    assert "could not be measured: Out of memory." in caplog.text

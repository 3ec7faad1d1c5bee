"""The restorer that comes with hairify does what its page says, on photographs that it has not seen."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hairify import HairModel
from hairify.cli import main
from hairify.data._image import Image
from hairify.data.degradations import degradation
from hairify.data.images import read, read_rgb, write
from hairify.data.photographs import photographs
from hairify.restoring import Guidance, TilingSettings, giv_of, restore_tiled
from hairify.sharing import BUNDLED, Restorer, from_pretrained
from hairify.sharing._hub import BUNDLED_FOLDER as FOLDER

HELD_OUT = ("chelsea.png", "china.jpg")  # of those that come with Python packages
DOCS = Path(__file__).parents[2] / "docs"
TILES = TilingSettings()


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return from_pretrained()


@pytest.fixture(scope="module")
def clean() -> list[Tensor]:
    return [read_rgb(path)[None, :, 40:280, 60:380] for path in photographs(HELD_OUT)]


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * torch.log10((one - other).double().square().mean().clamp(min=1e-12)))


def restored(restorer: Restorer, image: Tensor, strength: float = 1.0) -> Tensor:
    hair = restorer.model
    assert isinstance(hair, HairModel)
    giv = Guidance(strength, known=restorer.givs).applied(lambda: giv_of(hair, image, TILES, restorer.multiple))
    return restore_tiled(hair, image, TILES, restorer.multiple, giv=giv)


def test_it_is_small_and_whole(restorer: Restorer) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4e6
    assert restorer.givs is not None
    assert restorer.results is not None
    assert {"clean", "rain", "haze", "defocus", "low_light", "noise5-50"} <= {*restorer.givs}
    assert len([name for name in restorer.givs if "+" in name]) == 10


def test_a_clean_photograph_comes_out_as_it_went_in(restorer: Restorer, clean: list[Tensor]) -> None:
    assert restorer.results is not None
    (held_out,) = (score.psnr for task, score in restorer.results.scores.items() if task.endswith(" noise0"))
    assert held_out >= 45  # the mean of twelve
    for strength in (0, 1):
        assert min(psnr(restored(restorer, image, strength), image) for image in clean) > 45


# What it gains at least, in decibels, on the mean of the two; a decibel or more below what was seen.
GAINS = {"noise15": 3.0, "noise25": 5.0, "noise50": 6.5, "rain": 2.0, "haze": 2.0, "low_light": 8.0}


@pytest.mark.parametrize("name", GAINS)
def test_it_restores(name: str, restorer: Restorer, clean: list[Tensor]) -> None:
    gains = []
    for image in clean:
        degraded = degradation(name)(image, torch.Generator().manual_seed(0))
        gains.append(psnr(restored(restorer, degraded), image) - psnr(degraded, image))
    assert statistics.fmean(gains) > GAINS[name]


def test_without_a_model_the_commands_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, restorer: Restorer, clean: list[Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / BUNDLED).mkdir()  # a folder of that name is "./bundled"
    degraded = degradation("noise25")(clean[0], torch.Generator().manual_seed(0))
    write(Image(pixels=degraded[0]), tmp_path / "photograph.png")
    assert main(["restore", "photograph.png", "--device", "cpu"]) == 0
    expected = restored(restorer, read(tmp_path / "photograph.png").pixels[None])
    assert (read(tmp_path / "restored" / "photograph.png").pixels - expected[0]).abs().max() < 0.51 / 255
    assert main(["look", "photograph.png", "--device", "cpu", "--json"]) == 0
    assert "noise5-50" in json.loads(capsys.readouterr().out.splitlines()[-1])["seen"]
    assert main(["evaluate", BUNDLED, "--test-data", ".", "--degradations", "noise25", "--card"]) == 2
    assert "keeps its card" in " ".join(capsys.readouterr().err.split())
    assert main(["restore", "photograph.png", "--model", "./bundled", "--output", "other"]) == 1
    assert not [*(tmp_path / BUNDLED).iterdir()]


def test_its_page_has_its_numbers(restorer: Restorer) -> None:
    assert restorer.results is not None
    page = (DOCS / "bundled.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[1:-1]
        for line in page.partition("<!-- scores -->")[2].partition("<!-- end")[0].splitlines()
        if line.startswith("|")
    ]
    told = {cells[0].strip(): [float(cell.replace("–", "inf")) for cell in cells[1:3]] for cells in rows[2:]}
    scores = restorer.results.scores
    assert len(told) == len(scores)
    for task, score in scores.items():
        name = task.rpartition(" ")[2].replace("noise0", "clean")
        input_score = restorer.results.inputs[task]
        assert told[name] == pytest.approx([input_score.psnr, score.psnr], abs=0.006)
    assert (DOCS / "images" / "bundled.jpg").is_file()

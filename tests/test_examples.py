"""The examples run as their docstrings say, and print what is promised."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hairify.errors import CheckpointError
from hairify.models import res_hair, restormer

EXAMPLES = Path(__file__).parents[1] / "examples"

# Parameters before and after, and the levels, as (name, M, N, P, in the box).
PUBLISHED: dict[str, tuple[int, int, list[tuple[str, int, int, int, int]]]] = {
    "airnet": (
        8_930_313,
        9_674_223,
        [
            ("R.body.3.body", 5, 6, 136_118, 816_708),
            ("R.body", 2, 3, 36_928, 110_784),
            ("R.body.4.body", 5, 6, 136_118, 816_708),
        ],
    ),
    "promptir": (
        35_592_263,
        38_790_083,
        [
            ("latent", 8, 9, 1_794_762, 16_152_858),
            ("decoder_level3", 6, 7, 455_580, 3_189_060),
            ("decoder_level2", 6, 7, 117_486, 822_402),
            ("decoder_level1", 4, 5, 117_486, 587_430),
            ("refinement", 4, 5, 117_486, 587_430),
        ],
    ),
    "restormer": (
        26_126_644,
        29_324_464,
        [
            ("latent", 8, 9, 1_794_762, 16_152_858),
            ("decoder_level3", 6, 7, 455_580, 3_189_060),
            ("decoder_level2", 6, 7, 117_486, 822_402),
            ("decoder_level1", 4, 5, 117_486, 587_430),
            ("refinement", 4, 5, 117_486, 587_430),
        ],
    ),
    "transweather": (38_052_078, 41_531_082, [("Tdec.block1", 3, 4, 2_908_160, 11_632_640)]),
}
LEVELS = {name: [level[0] for level in levels] for name, (_, _, levels) in PUBLISHED.items()}
FOUR = sorted(PUBLISHED)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def read(printed: str) -> dict[str, Any]:
    """What an example printed: parameters, levels, the start's error, losses."""
    split = re.search(r"^split +(\S+) +-> F_g", printed, re.MULTILINE)
    size = re.search(r"^size +([\d,]+) .* -> ([\d,]+) ", printed, re.MULTILINE)
    levels = re.findall(r"^(\S+) +(\d+) +(\d+) +\d+ +([\d,]+) +full +([\d,]+)$", printed, re.MULTILINE)
    start = re.search(r"^warm start: differs by (\S+) of", printed, re.MULTILINE)
    losses = re.search(r"^loss of one batch: (\S+) before, (\S+) after", printed, re.MULTILINE)
    assert split, printed
    assert size, printed
    assert start, printed
    assert losses, printed
    return {
        "split": split[1],
        "parameters": (number(size[1]), number(size[2])),
        "levels": [(level[0], *map(number, level[1:])) for level in levels],
        "start": float(start[1]),
        "losses": (float(losses[1]), float(losses[2])),
    }


def run_small(name: str, *arguments: str) -> None:
    importlib.import_module(f"convert_{name}").main(["--small", *arguments])


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning")  # TransWeather's, which its example explains
@pytest.mark.parametrize("name", FOUR)
def test_a_small_configuration(name: str, importable: None, capsys: pytest.CaptureFixture[str]) -> None:
    run_small(name)
    found = read(capsys.readouterr().out)
    assert [level[0] for level in found["levels"]] == LEVELS[name]
    assert found["start"] <= 1e-5
    assert found["losses"][1] < found["losses"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_the_published_size(name: str) -> None:
    command = [sys.executable, str(EXAMPLES / f"convert_{name}.py"), "--steps", "3"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    found = read(process.stdout)
    before, after, levels = PUBLISHED[name]
    assert found["parameters"] == (before, after)
    assert found["levels"] == levels
    (stated,) = [row for row in rows("Parameters beside the paper's Table 4") if NAMES.get(row[0]) == name]
    assert found["split"] == stated[1]
    assert found["start"] <= 1e-5
    assert found["losses"][1] < found["losses"][0]


def test_a_checkpoint_is_loaded(importable: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    convert, common = (importlib.import_module(name) for name in ("convert_restormer", "common"))
    published, network = restormer(**convert.SMALL), restormer(**convert.SMALL)
    torch.save({"params": published.state_dict()}, tmp_path / "published.pth")
    common.prepare(network, tmp_path / "published.pth")
    assert all(map(torch.equal, network.state_dict().values(), published.state_dict().values()))
    run_small("restormer", "--steps", "1", "--checkpoint", str(tmp_path / "published.pth"))
    assert f"Restormer with {tmp_path / 'published.pth'}" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="absent"):
        run_small("restormer", "--checkpoint", str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("name", FOUR)
def test_help_says_what_is_needed(name: str, importable: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_small(name, "--help")
    assert "pip install '.[tool]'" in capsys.readouterr().out


def test_a_wrong_start_ends_the_example(importable: None) -> None:
    common = importlib.import_module("common")
    with pytest.raises(SystemExit, match="does not start where the original is"):
        common.check_start(torch.nn.Identity(), lambda image: image + 1e-3)


# The table of docs/networks.md

PAGE = (EXAMPLES.parent / "docs" / "networks.md").read_text(encoding="utf-8")
NAMES = {"AirNet": "airnet", "PromptIR": "promptir", "Restormer": "restormer", "TransWeather": "transweather"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without code marks."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_page_says_what_the_examples_print() -> None:
    # The examples' own numbers are compared with PUBLISHED above.
    stated = {row[0]: row for row in rows("Parameters beside the paper's Table 4")}
    levels = rows("By level")
    for title, name in NAMES.items():
        before, after, expected = PUBLISHED[name]
        assert [number(stated[title][i]) for i in (2, 3)] == [before, after]
        assert [(row[1], *map(number, row[2:])) for row in levels if row[0] == title] == expected


def test_the_page_rounds_as_the_paper_does() -> None:
    for row in rows("Parameters beside the paper's Table 4"):
        before, after = number(row[2]), number(row[3])
        assert row[4] == f"{before / 1e6:.0f}M → {after / 1e6:.0f}M"
        for ours, papers in zip(row[4].split(" → "), row[5].split(" → "), strict=True):
            assert papers in (ours, "–")


@pytest.mark.slow
def test_the_page_says_what_res_hair_is() -> None:
    hair = res_hair()
    stated = next(row for row in rows("Parameters beside the paper's Table 4") if row[0] == "Res-HAIR")
    assert stated[1] == hair.plan.split
    assert (number(stated[2]), number(stated[3])) == hair.plan.parameters
    assert number(stated[3]) == sum(p.numel() for p in hair.parameters()) == 28_559_846
    levels = [(v.name, len(v.blocks), v.box_size, v.row_parameters, v.box_parameters) for v in hair.plan.levels]
    assert [(row[1], *map(number, row[2:])) for row in rows("By level") if row[0] == "Res-HAIR"] == levels

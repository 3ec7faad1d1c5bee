"""Where `hairify evaluate` puts its numbers, and from where `hairify table` takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import layouts
import pytest

from hairify.cli import main
from hairify.networks import NetworkSettings
from hairify.sharing import Restorer, save_pretrained

RAIN = "rain=sets/Rain100L/test/rain,sets/Rain100L/test/norain"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run leaves that held out photographs, and other images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    layouts.photographs(tmp_path / "photographs", count=3)
    layouts.photographs(tmp_path / "others", count=2)
    layouts.build("Rain100L", tmp_path / "sets")
    settings = NetworkSettings(network="unet", options={"width": 4})
    save_pretrained(Restorer(settings.restorer(0), settings.named(), 4), tmp_path / "run" / "model")
    (tmp_path / "run" / "config.toml").write_text('[data]\ndata = ["photographs"]\ndegradations = ["noise25"]\n')
    return tmp_path


def tasks_in(file: Path) -> set[str]:
    return set(json.loads(file.read_text())["tasks"])


def test_what_a_run_held_out_goes_on_its_card(home: Path) -> None:
    assert main(["evaluate", "run"]) == 0
    for folder in ("run", "run/model"):
        assert tasks_in(home / folder / "results.json") == {"photographs noise25"}
    assert not (home / "run" / "evaluations").exists()


@pytest.mark.parametrize(
    ("words", "folder", "tasks"),
    [
        (["--test-data", "others"], "hairify-others", {"others noise25"}),
        (["--test-pairs", RAIN], "hairify-rain-sets-Rain100L-test-rain", {"test rain"}),
        (["--pairs", RAIN], "hairify-photographs-rain-sets-Rain100L-test-rain", {"photographs noise25", "test rain"}),
        (["--degradations", "haze"], "hairify-haze", {"photographs haze"}),
        (["--protocol", "promptir"], "promptir", {"photographs noise25"}),
    ],
)
def test_other_numbers_are_kept_apart(home: Path, words: list[str], folder: str, tasks: set[str]) -> None:
    assert main(["evaluate", "run"]) == 0
    before = {path: path.read_bytes() for path in home.glob("run/**/*") if path.is_file()}
    assert main(["evaluate", "run", *words]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert tasks_in(home / "run" / "evaluations" / folder / "results.json") == tasks


def test_numbers_that_go_into_no_file_say_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a restorer, whose folder has no run."""
    shutil.copytree("run/model", "restorer")
    assert main(["evaluate", "restorer", "--test-data", "others", "--degradations", "noise25"]) == 0
    assert "in no file; --output names a folder for them" in capsys.readouterr().out
    assert not (home / "restorer" / "results.json").exists()


def test_rows_of_one_name_are_told_apart_by_their_paths(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        shutil.copytree("run", name)
        assert main(["evaluate", name, "--protocol", "promptir"]) == 0
    capsys.readouterr()
    places = [f"{name}/evaluations/promptir" for name in ("first", "second")]
    assert main(["table", *places, "--output", "tables"]) == 0
    lines = (home / "tables" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| first/evaluations/promptir",
        "| second/evaluations/promptir",
    ]
    assert main(["table", places[0], f"mine={places[1]}", "--output", "tables"]) == 0
    lines = (home / "tables" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| first/evaluations/promptir", "| mine"]
    assert main(["table", f"a={places[0]}", f"a={places[1]}"]) == 2
    assert "Two rows would be called 'a'" in capsys.readouterr().err


def test_a_row_without_numbers_says_how_they_are_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("run/model", "restorer")
    for given, message in {
        "nowhere": "There is no folder nowhere",
        "run": "`hairify evaluate run` makes them",
        "restorer": "`hairify evaluate restorer --output restorer` makes them",
    }.items():
        assert main(["table", given]) == 1
        assert message in capsys.readouterr().err
    assert main(["evaluate", "run", "--test-data", "others"]) == 0
    assert main(["table", "run"]) == 1
    assert "it has those of run/evaluations/hairify-others" in capsys.readouterr().err

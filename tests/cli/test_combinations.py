"""`hairify ablate --combinations`, with all that data may have."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import pytest

from hairify.cli import main

RAIN = "sets/Rain100L/train"
ABLATE = ["ablate", "--data", "photographs", "--degradations", "noise25", "--network", "unet", "--option", "width=4"]
ABLATE += ["--pairs", f"fog={RAIN}/rain,{RAIN}/norain", "--steps", "1", "--batch-size", "2", "--patch-size", "32"]
ABLATE += ["--workers", "0", "--cpu", "--seeds", "1", "--variants", "", "--log-with", "none", "--validate-every", "0"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    layouts.photographs(tmp_path / "photographs", count=3)
    layouts.build("Rain100L", tmp_path / "sets")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("how_often", ["--shares", "--repeats"])
def test_how_often_a_degradation_of_ones_own_is_shown_counts_where_it_is_learnt(home: Path, how_often: str) -> None:
    words = ["--combinations", "noise,fog/noise", how_often, "fog=2"]
    assert main([*ABLATE, *words, "--output", "ablation"]) == 0
    rows = json.loads((home / "ablation" / "ablation.json").read_text())["combinations"]
    assert [row["together"] for row in rows] == [["noise25"]] * 2 + [["noise25", "fog"]] * 2


def test_what_is_no_degradation_is_told_before_the_first_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ABLATE, "--combinations", "noise", "--shares", "fgo=2", "--output", "ablation"]) == 1
    assert "Did you mean 'fog'?" in capsys.readouterr().err
    assert not (home / "ablation" / "runs").exists()

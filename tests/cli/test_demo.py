"""The demo, with a handful of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hairify.cli import _demonstration as demo
from hairify.cli import main
from hairify.report import ReportSettings
from hairify.sharing import from_pretrained

TINY = ["demo", "--before", "1", "--steps", "2", "--patches", "1", "--photographs", "1"]
FILES = {"ablation.json", "ablation.md", "before", "both", "report.html", "scores", "static"}


@pytest.mark.slow
def test_writes_everything_and_replaces_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "REPORT", ReportSettings(givs_per_degradation=4, giv_crop=64))
    (tmp_path / "demo-output" / "both").mkdir(parents=True)
    (tmp_path / "demo-output" / "both" / "old").touch()
    (tmp_path / "demo-output" / "mine.txt").touch()
    assert main(TINY) == 0
    assert {path.name for path in (tmp_path / "demo-output").iterdir()} == FILES | {"mine.txt"}
    assert not (tmp_path / "demo-output" / "both" / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"demo-output"}
    table = json.loads((tmp_path / "demo-output" / "ablation.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in table["variants"]] == ["static", "both"]
    printed = capsys.readouterr().out
    for run in table["runs"]:
        assert list(run["scores"]) == list(demo.DEGRADATIONS)
        assert f"{run['scores']['rain']['psnr']:.2f}" in printed
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / "demo-output" / name / "log.jsonl").open()]
        for name in ("static", "both")
    ]
    # The same weights meet the same first batch.
    assert logs[0][0] == pytest.approx(logs[1][0], rel=1e-4)
    both = from_pretrained(tmp_path / "demo-output" / "both")
    assert both.results is not None
    assert both.givs is not None
    assert {*both.givs} == {*demo.DEGRADATIONS, "clean"}
    page = (tmp_path / "demo-output" / "report.html").read_text(encoding="utf-8")
    psnr = {run["row"]: [one["psnr"] for one in run["scores"].values()] for run in table["runs"]}
    gain = sum(psnr["both"]) / len(psnr["both"]) - sum(psnr["static"]) / len(psnr["static"])
    assert f"{abs(gain):.2f} dB {'ahead of' if gain >= 0 else 'behind'} the unconverted network on average" in page


def test_what_fails_leaves_the_output_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train", interrupted)
    monkeypatch.setattr(demo, "write_demo_report", interrupted)
    assert main([*TINY, "--output", "new"]) == 130
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("no folder")
    assert main([*TINY, "--output", "file"]) == 1
    assert "is not a folder" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "file").read_text() == "no folder"

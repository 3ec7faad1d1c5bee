"""Runs that start from others, and runs that are used while they are under way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import layouts
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from util import assert_differs

from hairify import HairModel, save
from hairify.cli import main
from hairify.cli.options import read_tables
from hairify.data.samples import TrainingSamples
from hairify.sharing import from_pretrained

NET = ["--network", "unet", "--option", "width=4"]
TRAIN = ["--patch-size", "32", "--batch-size", "2", "--workers", "0", "--cpu", "--log-with", "none"]
OWN = """
from torch import nn
from hairify.models import unet

def net(): return unet(width=4)
def pooled(channels, giv_dim):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, giv_dim))
"""
NOISE, BOTH = ["--degradations", "noise25"], ["--degradations", "noise25,haze"]


def trained(*words: str, steps: int, output: str) -> int:
    given = ["train", "--data", "photographs", *TRAIN, "--steps", str(steps), "--output", output]
    return main([*given, *words])


@pytest.fixture(scope="module")
def firsts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted run, and one that is not converted, each of four steps."""
    home = tmp_path_factory.mktemp("firsts")
    layouts.photographs(home / "photographs", count=3, height=72, width=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        words = [*NET, *NOISE, "--save-every", "2", "--validate-every", "2", "--learning-rate", "1e-2"]
        assert trained(*words, steps=4, output="first") == 0
        assert trained(*words, "--no-convert", "--validate-every", "0", steps=4, output="static") == 0
    return home


@pytest.fixture
def home(firsts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(firsts, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def outputs(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    images = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        return model.eval().to(dtype)(images.to(dtype))


def model_of(folder: str) -> nn.Module:
    return from_pretrained(folder).model


def test_a_second_stage_starts_with_the_exact_function_of_the_first(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before its first step, behind all that a run does until then."""
    assert trained("--from", "first", *BOTH, steps=0, output="second") == 0
    assert "calibrating it now would change" in capsys.readouterr().out
    for dtype in (torch.float32, torch.float64):
        expected = outputs(model_of("first"), dtype)
        assert torch.equal(outputs(model_of("second"), dtype), expected)
        assert torch.equal(outputs(model_of("second/start"), dtype), expected)
    assert model_of("second").plan == model_of("first").plan  # type: ignore[union-attr]


def test_a_second_stage_learns_and_says_where_it_comes_from(home: Path) -> None:
    assert trained("--from", "first", *BOTH, steps=2, output="second") == 0
    assert_differs(outputs(model_of("second")), outputs(model_of("first")))
    config = read_tables(home / "second" / "config.toml")
    assert config["start"] == {"start_from": "first"}
    assert (config["network"]["network"], config["network"]["options"]) == ("unet", {"width": 4})
    card = (home / "second" / "model" / "README.md").read_text()
    assert "| begun from | first (degradations: noise25; steps: 4 of 2 patches) |" in card
    assert trained("--from", "second", *NOISE, steps=0, output="third") == 0
    assert "begun from: first (" in json.loads((home / "third/model/config.json").read_text())["about"]["begun from"]
    assert main(["train", "--config", "second/config.toml", "--output", "again"]) == 0
    assert (home / "again/model/model.safetensors").read_bytes() == (
        home / "second/model/model.safetensors"
    ).read_bytes()


def test_a_first_stage_that_is_not_converted_is_converted_and_keeps_its_function(home: Path) -> None:
    assert trained("--from", "static", "--rank", "2", *BOTH, steps=0, output="second") == 0
    hair = model_of("second")
    assert isinstance(hair, HairModel)
    assert hair.is_calibrated
    expected = outputs(model_of("static"), torch.float64)
    torch.testing.assert_close(outputs(hair, torch.float64), expected, rtol=0, atol=1e-6)
    assert trained("--from", "static", "--no-convert", *BOTH, steps=0, output="unconverted") == 0
    assert torch.equal(outputs(model_of("unconverted"), torch.float64), expected)


def test_a_second_stage_is_resumed_without_the_first_exactly(home: Path) -> None:
    words = ["--from", "first", *BOTH]
    assert trained(*words, steps=4, output="unbroken") == 0
    assert trained(*words, "--save-every", "2", steps=4, output="second") == 0
    (home / "second" / "checkpoints" / "00000004.safetensors").unlink()
    shutil.move("first", "elsewhere")
    assert main(["train", "--output", "second", "--resume"]) == 0
    assert torch.equal(outputs(model_of("second")), outputs(model_of("unbroken")))


def test_checkpoints_and_other_folders_are_starts_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = home / "first" / "checkpoints" / "00000002.safetensors"
    assert trained("--from", str(checkpoint), *BOTH, steps=0, output="second") == 0
    second = model_of("second").state_dict()
    averages = {k: v for k, v in safetensors.torch.load_file(checkpoint).items() if k.startswith("average.")}
    assert averages
    assert all(torch.equal(second[name.removeprefix("average.")], value) for name, value in averages.items())
    assert_differs(outputs(model_of("second")), outputs(model_of("first")))

    save(model_of("first"), "saved.safetensors")
    assert trained("--from", "saved.safetensors", *BOTH, steps=0, output="third") == 2
    assert "does not say of which network it is: give --network" in " ".join(capsys.readouterr().err.split())
    assert trained("--from", "saved.safetensors", *NET, *BOTH, steps=0, output="third") == 0
    assert torch.equal(outputs(model_of("third")), outputs(model_of("first")))
    assert trained("--from", "first/best", *BOTH, steps=0, output="fourth") == 0
    assert torch.equal(outputs(model_of("fourth")), outputs(model_of("first/best")))


def test_a_restorer_on_the_hub_is_a_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: str(home / name.replace("me/", "first/"))
    )
    assert trained("--from", "me/model", *BOTH, steps=0, output="second") == 0
    assert torch.equal(outputs(model_of("second")), outputs(model_of("first")))


def test_a_network_and_a_dac_of_ones_own_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder does not decide which code runs, but a run that was begun so is resumed without saying it again."""
    (home / "own_stages.py").write_text(OWN)
    monkeypatch.syspath_prepend(home)
    named = ["--network", "own_stages:net", "--dac", "own_stages:pooled"]
    assert trained(*named, *NOISE, steps=2, output="own") == 0
    assert trained("--from", "own", *BOTH, steps=0, output="second") == 1
    assert "name it yourself" in capsys.readouterr().err
    assert trained("--from", "own", *named, *BOTH, steps=1, output="second") == 0
    assert torch.equal(
        outputs(from_pretrained("second/start", network=named[1], dac=named[3]).model),
        outputs(from_pretrained("own", network=named[1], dac=named[3]).model),
    )
    assert main(["train", "--output", "second", "--resume", "--steps", "2"]) == 0
    sys.modules.pop("own_stages")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "restormer"], "--network is 'restormer', but first is a restorer of 'unet'"),
        (["--option", "width=8"], "--option is {'width': 8}, but first is a restorer of 'unet' with the options"),
        (["--weights", "x.pth"], "but first has weights, with which a second stage goes on"),
        (["--split-at", "down1"], "--split-at is 'down1', but first is converted already"),
        (["--no-convert"], "--convert is False, but first is converted already"),
        (["--dac", "published"], "--dac is 'published', but first is converted already"),
        (["--init", "random"], "--init is 'random', but first is to be gone on with"),
        (["--from", "photographs"], "photographs is no folder of a restorer"),
        (["--from", "first/model/model.safetensors"], "give its folder, first/model"),
    ],
)
def test_what_a_start_decides_is_not_decided_again(
    home: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("--from", "first", *BOTH, *words, steps=1, output="second") in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (home / "second").exists()


@pytest.mark.parametrize("start", ["first", "first/best", "first/checkpoints/00000002.safetensors"])
def test_what_is_said_again_as_it_was_is_accepted(home: Path, start: str) -> None:
    with (home / "first" / "config.toml").open("r+") as file:  # as if it had been converted by this
        text = file.read().replace("[network]", '[network]\nsplit_at = "down2"')
        file.seek(0)
        file.write(text)
    assert main(["train", "--config", "first/config.toml", "--from", start, "--steps", "0", "--output", "second"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "static"], "--from is 'static', but the run in first was begun with None"),
        (["--option", "width=8"], "--option is {'width': 8}, but the run in first was begun with {'width': 4}"),
        (["--init", "random"], "--init is 'random', but the run in first was begun with 'preserve'"),
        (["--epochs", "3"], "the run's length is given by --steps (4), not by epochs"),
        (["--steps", "3"], "4 steps are taken already, but the run is to have 3"),
        (["--patch-size", "48"], "--patch-size was 32, is 48"),
    ],
)
def test_what_cannot_change_at_resume_is_refused_by_name(
    home: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--output", "first", "--resume", *words]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


USES = {
    "evaluate": ["evaluate", "run", "--device", "cpu"],
    "the best": ["evaluate", "run/best", "--device", "cpu", "--output", "best-numbers"],
    "restore": ["restore", "photographs", "--model", "run", "--output", "restored", "--device", "cpu"],
    "report": ["report", "run", "--device", "cpu"],
    "export": ["export", "run", "--output", "run.pt2", "--size", "32x32"],
    "bake": ["export", "run", "--output", "baked.pt2", "--size", "32x32", "--bake", "photographs/000.png"],
}
SLOW = {"report", "export", "bake"}


@pytest.fixture
def under_way(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Home with a run that Ctrl-C ended."""
    original = TrainingSamples.__getitem__

    def interrupting(self: TrainingSamples, index: int) -> Any:
        if index == 4 and (home / "run" / "log.jsonl").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSamples, "__getitem__", interrupting)
        words = ["--validate-every", "2", "--save-every", "0", "--calibration", "0"]
        assert trained(*NET, *BOTH, *words, steps=9, output="run") == 130
    assert "The restorer of this step is in run/model" in capsys.readouterr().out
    return home


@pytest.mark.parametrize("use", [pytest.param(use, marks=[pytest.mark.slow] * (use in SLOW)) for use in USES])
def test_a_run_under_way_is_used(under_way: Path, use: str, capsys: pytest.CaptureFixture[str]) -> None:
    """After Ctrl-C, every command takes it, and says how far it is."""
    steps = int(json.loads((under_way / "run/model/config.json").read_text())["about"]["steps"].split()[0])
    assert 2 <= steps < 9
    assert main(USES[use]) == 0
    said = " ".join(capsys.readouterr().out.split())
    shown = 2 if use == "the best" else steps
    assert f"This is the restorer after {shown} of 9 steps of its run." in said
    assert main(["train", "--output", "run", "--resume"]) == 0
    assert "within its run" not in (under_way / "run" / "model" / "README.md").read_text()

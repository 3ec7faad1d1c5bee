"""The demo as a user runs it, with a handful of steps on tiny crops."""

import builtins
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from hairify import demo
from hairify.__main__ import main
from hairify.demo import comparison
from hairify.demo.degradations import DEGRADATIONS
from hairify.demo.photographs import HELD_OUT, TRAINING

TINY = ["--steps", "3", "--patch", "32", "--patches", "1", "--crop", "64", "--draws", "1"]
FILES = {"before_after.png", "givs.png", "results.json", "selecting_vectors.png"}


def content(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "new" / "folder"
    assert main(["demo", "--output", str(output), *TINY]) == 0
    return output


def test_writes_every_output_and_nothing_else(finished: Path) -> None:
    assert content(finished) == FILES
    assert content(finished.parents[1]) == {"new"}
    for picture in FILES - {"results.json"}:
        pixels = imread(finished / picture)
        assert min(pixels.shape[:2]) > 400
        assert pixels[..., :3].std() > 0.02, "the picture is not blank"


def test_results_hold_every_score_and_their_means(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["settings"]["steps"] == 3
    assert len(results["scores"]) == len(HELD_OUT) * len(DEGRADATIONS)
    for name in ("input", "static", "hairified"):
        for degradation in DEGRADATIONS:
            psnrs = [one[name]["psnr"] for one in results["scores"] if one["degradation"] == degradation]
            assert results["mean_scores"][name][degradation]["psnr"] == pytest.approx(sum(psnrs) / len(psnrs))
    static, hairified = results["networks"]["static"], results["networks"]["hairified"]
    assert static["parameters"] < hairified["parameters"]
    assert len(static["losses"]) == len(hairified["losses"]) == 3
    # The same weights meet the same first batch.
    assert static["losses"][0] == pytest.approx(hairified["losses"][0], abs=1e-5)


def test_a_second_run_measures_the_same(finished: Path, tmp_path: Path) -> None:
    torch.rand(3)  # whatever the global random state is
    assert demo.run(["--output", str(tmp_path), *TINY]) == 0
    first, second = (json.loads((folder / "results.json").read_text("utf-8")) for folder in (finished, tmp_path))
    for network in ("static", "hairified"):
        assert second["networks"][network]["losses"] == pytest.approx(first["networks"][network]["losses"], abs=1e-4)
        for degradation, score in first["mean_scores"][network].items():
            assert second["mean_scores"][network][degradation] == pytest.approx(score, abs=1e-2)


def test_training_and_held_out_photographs_are_apart() -> None:
    scenes = [{name.partition(".")[0].partition("_")[0] for name in side} for side in (TRAINING, HELD_OUT)]
    assert not scenes[0] & scenes[1]


def interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["train", "write_results"])
def test_ctrl_c_ends_it_cleanly(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    monkeypatch.setattr(comparison, stage, interrupt)
    assert main(["demo", "--output", str(tmp_path), *TINY]) == 130
    assert content(tmp_path) == {"kept.txt"}
    streams = capsys.readouterr()
    assert "Interrupted" in streams.err
    assert "Traceback" not in streams.err + streams.out


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_a_real_interrupt_while_training(tmp_path: Path) -> None:
    # The handler is set anew because a process started in the background inherits one that ignores Ctrl-C.
    code = (
        "import signal, sys; from hairify.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "demo", "--output", str(tmp_path / "out"), *TINY, "--steps", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # what it is about to train
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("Interrupted")
    assert "Traceback" not in error
    assert not content(tmp_path)


@pytest.mark.parametrize(
    ("module", "distribution"), [("skimage", "scikit-image"), ("matplotlib", "matplotlib"), ("rich", "rich")]
)
def test_a_missing_extra_is_named(
    module: str,
    distribution: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **options)

    for loaded in [
        name for name in sys.modules if name.startswith("hairify.demo.") and name != "hairify.demo.settings"
    ]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", without)
    assert demo.run(["--output", str(tmp_path), *TINY]) == 1
    error = capsys.readouterr().err
    assert distribution in error
    assert "pip install 'hairify[demo]'" in error
    assert not content(tmp_path)


def test_the_library_and_the_command_line_import_no_extra() -> None:
    code = (
        "import sys, hairify, hairify.__main__\n"
        "print({'skimage', 'matplotlib', 'rich'} & {name.partition('.')[0] for name in sys.modules})"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


def test_an_output_that_is_a_file_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert demo.run(["--output", str(taken), *TINY]) == 1
    assert "--output" in capsys.readouterr().err
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "-1"], ["--patch", "50"], ["--crop", "16"], ["--learning-rate", "0"], ["--patches", "0"], ["extra"]],
)
def test_values_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["demo", *arguments])
    assert refused.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_teaches(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        main(arguments)
    assert finished.value.code == 0
    help_text = capsys.readouterr().out
    assert "demo" in help_text
    if arguments[0] == "demo":
        assert set(help_text.split()) >= FILES

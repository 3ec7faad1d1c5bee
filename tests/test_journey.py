"""A newcomer's path, on the command line: from a folder of photographs to restored pictures, through a crash."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from browser import browse, needs_chromium
from peak_memory import PEAK
from PIL import Image
from skimage.transform import resize

from hairify.data.photographs import HELD_OUT, TRAINING, photographs

pytestmark = pytest.mark.slow

STEPS = 30
NETWORK = ["--option", "dim=8", "--option", "num_blocks=[1,1,1,2]", "--option", "num_refinement_blocks=1"]
RECIPE = [
    "--targets",
    "families",
    "--steps",
    str(STEPS),
    "--batch-size",
    "4",
    "--patch-size",
    "64",
    "--save-every",
    "5",
]
DATA = ["--data", "photographs", "--degradations", "noise25,rain", "--workers", "1", "--validate-every", "20"]
SIZE = (3000, 2000)
MOST_MEMORY = 3 * 2**30  # bytes

# The program, which says at its end how much memory it had at most.
MEASURED = f"""{PEAK}
from hairify.cli import main

status = main(sys.argv[1:])
print("peak bytes", peak(), file=sys.stderr)
sys.exit(status)
"""


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", MEASURED, *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def hairify(*words: str, folder: Path) -> tuple[str, int]:
    """What a command printed, and its memory in bytes."""
    process = start(*words, folder=folder)
    printed, errors = process.communicate(timeout=540)
    assert process.returncode == 0, f"{' '.join(words)}:\n{printed}\n{errors}"
    return printed, int(re.findall(r"peak bytes (\d+)", errors)[-1])


def entries(run: Path) -> list[dict[str, Any]]:
    """What the run has logged up to now; the last line may be half written."""
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few photographs."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "photographs").mkdir()
    for path in photographs((*TRAINING, *HELD_OUT)):
        image = Image.open(path).convert("RGB")
        image.thumbnail((160, 160))
        image.save(folder / "photographs" / f"{path.stem}.png")
    large = resize(np.asarray(Image.open(photographs(HELD_OUT)[0])), SIZE[::-1], order=1)
    noisy = large + np.random.default_rng(0).normal(0, 25 / 255, large.shape)
    Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8)).save(folder / "large.png", icc_profile=b"a profile")
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run that was killed between two checkpoints, and resumed."""
    process = start("train", *DATA, *NETWORK, *RECIPE, "--output", "run", folder=home)
    deadline = time.monotonic() + 300
    while len(entries(home / "run")) < 12:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "twelve steps take more than five minutes"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {entry["step"]: entry["loss"] for entry in entries(home / "run") if "loss" in entry}
    assert 12 <= max(before) < STEPS

    hairify("train", "--output", "run", "--resume", folder=home)
    after = {entry["step"]: entry["loss"] for entry in entries(home / "run") if "loss" in entry}
    assert list(after) == list(range(1, STEPS + 1))
    # Steps that were taken twice, before the kill and after it, learned from the same images by the same weights.
    assert before == {step: after[step] for step in before}
    assert [e["step"] for e in entries(home / "run") if "validation" in e] == [20, STEPS]
    return home / "run"


@pytest.fixture(scope="module")
def evaluation(run: Path) -> str:
    """What `hairify evaluate` printed of the run; its results lie in the run's folder."""
    return hairify("evaluate", "run", folder=run.parent)[0]


def test_evaluated(run: Path, evaluation: str) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert list(results["tasks"]) == ["photographs noise25", "photographs rain"]
    for name, one in results["tasks"].items():
        assert f"{one['psnr']:.2f} / {one['ssim']:.3f}" in evaluation
        assert name in (run / "model" / "README.md").read_text(encoding="utf-8")


def test_a_large_photograph_is_restored_in_little_memory(run: Path) -> None:
    _, memory = hairify("restore", "large.png", "--model", "run", "--output", "restored", folder=run.parent)
    assert memory < MOST_MEMORY
    restored, given = (Image.open(run.parent / name) for name in ("restored/large.png", "large.png"))
    assert restored.size == SIZE
    assert restored.info["icc_profile"] == b"a profile"
    assert not np.array_equal(np.asarray(restored), np.asarray(given))


def test_exported(run: Path) -> None:
    printed, _ = hairify("export", "run", "--output", "restorer.onnx", "--size", "64x96", folder=run.parent)
    differs = re.search(r"differs by (\S+?)\.?$", printed, re.MULTILINE)
    assert differs is not None, printed
    assert float(differs[1]) < 1e-5
    assert (run.parent / "restorer.onnx").stat().st_size > 1e6


@needs_chromium
@pytest.mark.usefixtures("evaluation")
def test_the_report_opens_without_errors(run: Path, tmp_path: Path) -> None:
    hairify(
        *("report", "run", "--givs-per-degradation", "6", "--baseline", "run/results.json"), folder=run.parent
    )  # beside itself
    document, console = browse(run / "report.html", tmp_path / "profile")
    assert console == []
    assert "0.00 dB ahead of run/results.json on average, behind it on nothing." in document
    assert 'data-ready="true"' in document


def test_the_restorer_is_what_was_trained(run: Path) -> None:
    from hairify.sharing import from_pretrained

    saved = dict(from_pretrained(run).model.named_parameters())
    newest = safetensors.torch.load_file(max((run / "checkpoints").glob("*.safetensors")))
    averages = {name.removeprefix("average."): value for name, value in newest.items() if name.startswith("average.")}
    assert any(name.startswith("boxes.") for name in averages)
    for name, value in averages.items():
        assert torch.equal(saved[name], value), name
    # It is the average that was saved, not the newest weights. The two are equal only where training has no effect:
    # adding the same to all keys changes no attention.
    unmoved = [name for name, value in averages.items() if torch.equal(value, newest[f"model.{name}"])]
    assert all(name.startswith("dac.") and name.endswith(".k.bias") for name in unmoved), unmoved

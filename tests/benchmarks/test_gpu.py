"""`make bench-gpu`: tried on the CPU, it keeps to its time, goes on where something fails, and writes what it found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import launches
from benchmarks.cases import BARE, Case
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, kernels
from benchmarks.gpu.clock import Clock, OutOfTimeError, limited
from benchmarks.gpu.report import Found
from benchmarks.gpu.testing import RunningTests
from benchmarks.machine import describe
from benchmarks.measure import Result
from benchmarks.networks import NETWORKS


def run(folder: Path, *words: str) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert command.main(["--device", "cpu", "--quick", "--skip-tests", "--output", str(folder), *words]) == 0
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network, and an operation."""
    monkeypatch.setattr(command, "TINY", ("tiny-unet",))
    monkeypatch.setattr(cases, "TINY", ("tiny-unet",))
    monkeypatch.setattr(command, "compiled", lambda device, quick: [])
    monkeypatch.setattr(kernels, "TINY", kernels.TINY[1:2])


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_quick_run_writes_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path / "out")
    assert found["tests"] == "not run"
    assert [case["name"] for case in found["cases"]] == [
        f"tiny-unet/{what}/32{number}"
        for what, number in (
            *((f"forward/b{batch}", number) for number in ("/bfloat16", "") for batch in (1, 2)),
            *(("training/b2", number) for number in ("/bfloat16", "")),
        )
    ]
    assert not any(case["skipped"] for case in found["cases"])
    assert {row["setting"]["precision"] for row in found["kernels"]} == {"bfloat16", "TF32"}
    assert all(row["chosen"] in row["ratios"] and row["failed"] is None for row in found["kernels"])
    assert len(found["making_microseconds"][0]) == 1 + 2 * 2
    text = (tmp_path / "out" / "results.md").read_text()
    for heading in ("## Time", "## Kernels", "### forward, 2 images, bfloat16, channels last", "## Making weights"):
        assert heading in text
    assert "| tiny-unet/training/b2/32/bfloat16 |" in capsys.readouterr().out


@pytest.mark.usefixtures("few")
def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    found = run(tmp_path, "--minutes", "0")
    assert {case["skipped"] for case in found["cases"]} == {"no time left"}
    assert found["kernels"] == []


@pytest.mark.usefixtures("few")
def test_what_fails_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(case: Case, *_: object) -> Result:
        if case.mode == "forward":
            raise RuntimeError("CUDA error: an illegal memory access\nand more")
        return Result(case, skipped="out of memory")

    monkeypatch.setattr(command, "measure", fail)
    monkeypatch.setattr(kernels, "forward_calls", lambda problem: {"ordinary": lambda: 1 / 0})
    found = run(tmp_path)
    told = [case["skipped"] for case in found["cases"]]
    assert set(told) == {"RuntimeError: CUDA error: an illegal memory access", "out of memory"}
    failed = [row["failed"] for row in found["kernels"] if not row["setting"]["backward"]]
    assert set(failed) == {"ZeroDivisionError: division by zero"}
    assert "illegal memory access" in capsys.readouterr().err


def test_what_takes_too_long_is_broken_off() -> None:
    with pytest.raises(OutOfTimeError), limited(0.05):
        time.sleep(10)
    with limited(0.05):
        pass
    time.sleep(0.1)  # the alarm is off


def test_the_clock_runs_backward() -> None:
    clock = Clock(minutes=0.01)
    assert 0 < clock.left < 0.6
    assert Clock(minutes=0).left < 0 < clock.gone


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert command.main(["--output", str(tmp_path / "out")]) == 1
    assert "--device cpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cases_are_of_known_networks_the_quick_ones_first() -> None:
    chosen = [*cases.eager("cuda", quick=False), *cases.compiled("cuda", quick=False)]
    assert len({case.name for case in chosen}) == len(chosen)
    assert {case.network for case in chosen} == set(cases.NETWORKS) < set(NETWORKS)
    assert [case.compiled for case in chosen] == sorted(case.compiled for case in chosen)
    eager = chosen[: 4 * 3]
    assert {(case.mode, case.bfloat16) for case in eager} == {("forward", True)}
    assert {(case.network, case.batch) for case in eager} == {(n, b) for n in cases.NETWORKS for b in (1, 8, 32)}
    assert chosen[-1].network == "restormer-48"


def event(start: float, end: float, **changes: Any) -> Any:
    about = {"device_type": DeviceType.CUDA, "is_user_annotation": False}
    return SimpleNamespace(**about | {"time_range": SimpleNamespace(start=start, end=end)} | changes)


def test_kernels_are_counted_and_time_side_by_side_once() -> None:
    events = [
        event(100, 110),
        event(105, 120),
        event(106, 108),
        event(200, 201),
        event(0, 1000, device_type=DeviceType.CPU),
        event(90, 300, is_user_annotation=True),
    ]
    found = launches.counted(events)
    assert found.kernels == 4
    assert found.busy == pytest.approx(21e-6)
    assert launches.counted([]) == launches.Launches(0, 0.0)


def test_launches_are_reported() -> None:
    case = Case("unet", "forward", 1, 128, BARE, device="cuda")
    result = Result(case, {v: [0.001] * 3 for v in BARE}, generation=0.0005)
    result.launches = {"static": launches.Launches(40, 0.0002), "hairified": launches.Launches(160, 0.0009)}
    found = Found(describe(), [result, Result(case, skipped="no time left")])
    assert "| unet/forward/b1/128/cuda | 1.00 | 1.00 |  |  |  |  | 50% | 40 → 160 | 20% → 90% |" in found.summary()
    assert "| unet/forward/b1/128/cuda | 40; 20.0% | 160; 90.0% |" in found._markdown()


@pytest.fixture
def tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], RunningTests]:
    """A run of tests of one's own in place of those on a GPU."""

    def start(text: str, seconds: float) -> RunningTests:
        (tmp_path / "tests" / "cuda").mkdir(parents=True)
        (tmp_path / "tests" / "cuda" / "test_own.py").write_text(text)
        monkeypatch.setattr("benchmarks.gpu.testing._ROOT", tmp_path)
        monkeypatch.setattr("benchmarks.gpu.testing._WORKERS", 0)
        return RunningTests("cpu", tmp_path / "tests.log", seconds)

    return start


def test_tests_are_run_and_the_failed_ones_named(tested: Callable[[str, float], RunningTests]) -> None:
    text = "import os\ndef test_a(): assert os.environ['HAIRIFY_TEST_DEVICE'] == 'cpu'\ndef test_b(): assert 0\n"
    made = tested(text, 60)
    told = made.wait().splitlines()
    assert made.status == 1
    assert "1 failed, 1 passed" in told[0]
    assert [line.split(" - ")[0].rpartition("/")[2] for line in told[1:]] == ["test_own.py::test_b"]


def test_tests_that_take_too_long_are_ended(tested: Callable[[str, float], RunningTests]) -> None:
    made = tested("import time\ndef test_a(): assert 0\ndef test_b(): time.sleep(600)\n", 500)
    while "FAILED" not in made._log.read_text(encoding="utf-8"):
        assert made._process.poll() is None
        time.sleep(0.1)
    made._until = time.perf_counter()
    told = made.wait().splitlines()
    assert told[0].startswith("ended for lack of time")
    assert [line.split(" - ")[0].rpartition("/")[2] for line in told[1:]] == ["test_own.py::test_a"]
    assert made.status == 1


def test_it_needs_few_packages() -> None:
    """Those of a bare machine: none of the extras."""
    foreign = {
        "matplotlib",
        "accelerate",
        "PIL",
        "imagecodecs",
        "skimage",
        "sklearn",
        "rich",
        "typer",
        "huggingface_hub",
    }
    code = f"import sys, benchmarks.gpu.__main__; print(sorted({{n.split('.')[0] for n in sys.modules}} & {foreign}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

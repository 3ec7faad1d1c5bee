"""Runs in processes of their own: killed ones, and two that train together as one would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from training_runs import (
    GENTLE,
    JOBS,
    Experts,
    Plain,
    Same,
    Skipping,
    converted,
    converted_promptir,
    run,
    score,
    seeded,
)
from util import assert_close, assert_differs

from hairify.functional import Tuning
from hairify.training import TrainedRun
from hairify.training._tuning import TUNING

SCRIPT = Path(__file__).parents[1] / "helpers" / "training_runs.py"
ROOT = SCRIPT.parents[2]


def start(*arguments: object, start_new_session: bool = False, **environment: str) -> subprocess.Popen[str]:
    # Not those of a launcher that runs these tests.
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=inherited | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=start_new_session,
    )


def finish(process: subprocess.Popen[str], expected: int = 0) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == expected, output


# Killed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(seeded(Plain), tmp_path_factory.mktemp("unbroken"))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "checkpoints"),
    [
        (("--kill-after", 5), ["00000002.safetensors", "00000004.safetensors"]),
        (("--kill-while-saving", 4), [".unfinished", "00000002.safetensors"]),
    ],
)
def test_killed_and_resumed_is_unbroken(
    tmp_path: Path, unbroken: TrainedRun, kill: tuple[str, int], checkpoints: list[str]
) -> None:
    finish(start("alone", tmp_path, *kill), -signal.SIGKILL)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == checkpoints
    assert not (tmp_path / "result.safetensors").exists()
    finish(start("alone", tmp_path, "--resume"))
    assert not (tmp_path / "checkpoints/.unfinished").exists()
    result = safetensors.torch.load_file(tmp_path / "result.safetensors")
    assert result.pop("losses").tolist() == unbroken.losses
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(result[name], value), name
    assert_differs(result["first.weight"], seeded(Plain).first.weight)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in logged] == unbroken.losses


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run(tmp_path: Path, number: int) -> None:
    """As launchers, schedulers and terminals send it: to those that load images, too."""
    process = start("alone", tmp_path, "--signal-group", int(number), start_new_session=True)
    finish(process)
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert checkpoints == ["00000002.safetensors", "00000003.safetensors"]


def test_processes_wait_for_a_long_validation() -> None:
    code = (
        "import torch\n"
        "from hairify.training import TrainingSettings, processes\n"
        "from hairify.training import _sharding as sharding\n"
        "settings = TrainingSettings(cpu=True)\n"
        "processes(settings)\n"
        "with sharding.accelerated(settings):\n"
        "    group = torch.distributed.distributed_c10d._get_default_group()\n"
        "    print(group._get_backend(torch.device('cpu')).options._timeout)\n"
        "torch.distributed.destroy_process_group()\n"
    )
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | where, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "12:00:00"


# Together


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What came of all jobs, each done by two processes."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch is built without gloo")
    folder = tmp_path_factory.mktemp("together")
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    processes = [start("together", folder, **where, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    try:
        for process in processes:
            finish(process)
        yield folder
    finally:
        for process in processes:
            process.kill()


def results(folder: Path, job: str) -> dict[str, Tensor]:
    """Of a job, after it has been made sure that both processes have the same."""
    assert job in JOBS
    mine, other = (safetensors.torch.load_file(folder / f"{job}-{rank}.safetensors") for rank in (0, 1))
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.equal(value, other[name]), name
    return mine


def assert_like(got: dict[str, Tensor], expected: TrainedRun, *, weights: float) -> None:
    """The same losses but for rounding, and about the same weights: AdamW divides by gradients near zero."""
    assert got["losses"].tolist() == pytest.approx(expected.losses, rel=1e-5)
    for name, value in expected.model.state_dict().items():
        assert (got[name] - value).abs().max() <= weights, name


@pytest.mark.slow
def test_data_parallel(together: Path, tmp_path: Path) -> None:
    alone = run(seeded(Same), tmp_path)
    got = results(together, "data_parallel")
    assert_like(got, alone, weights=1e-5)
    assert_differs(got["last.weight"], seeded(Same).last.weight)


def test_data_parallel_promptir(together: Path, tmp_path: Path) -> None:
    """No process waits for the gradients of layers that no loss reaches."""
    model = converted_promptir()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got, alone = results(together, "data_parallel_promptir"), run(model, tmp_path, steps=3, **GENTLE)
    assert_like(got, alone, weights=1e-4)
    moved = {name for name, value in before.items() if not torch.equal(value, got[name])}
    assert {name.partition(".")[0] for name in moved} >= {"base", "hsn", "boxes"}
    assert any(name.startswith("base.") and name not in moved for name in before)


def test_both_processes_compute_by_what_the_main_one_measured(together: Path, tmp_path: Path) -> None:
    got, alone = (
        results(together, "data_parallel_tuned"),
        run(converted("low_rank"), tmp_path, steps=2, batch_size=8, **GENTLE),
    )
    assert_like(got, alone, weights=1e-4)
    kept = Tuning.load(together / "data_parallel_tuned" / TUNING)
    assert {case.batch for case in kept.measured} == {4}


@pytest.mark.parametrize("job", ["data_parallel_experts", "sharded_experts"])
def test_experts_that_one_process_uses_and_the_other_does_not(together: Path, tmp_path: Path, job: str) -> None:
    """Each step trains the experts that any image of any process goes to, and no others."""
    alone = run(seeded(Experts), tmp_path)
    got, before = results(together, job), seeded(Experts).state_dict()
    assert_like(got, alone, weights=1e-5)
    moved = {name for name, value in before.items() if not torch.equal(value, got[name])}
    assert {name for name in before if name not in moved} == {"experts.3.weight", "experts.3.bias"}
    mine, whole = (
        safetensors.torch.load_file(folder / "checkpoints/00000006.safetensors")
        for folder in (together / job, tmp_path)
    )
    assert mine.keys() == whole.keys()
    steps = [name for name in whole if name.endswith(".step")]
    assert {float(whole[name]) for name in steps} > {6.0}  # some experts were not used at every step
    assert all(mine[name] == whole[name] for name in steps)


def test_blocks_that_each_process_skips_for_itself(together: Path) -> None:
    got, unbroken = (results(together, f"data_parallel_skipping{end}") for end in ("", "_unbroken"))
    assert_close(got["losses"], unbroken["losses"], 1e-6)
    before = seeded(Skipping).state_dict()
    assert all(not torch.equal(value, got[name]) for name, value in before.items())
    for name, value in unbroken.items():
        assert_close(got[name], value, 1e-4)


def test_a_signal_to_one_process_ends_both(together: Path) -> None:
    got = results(together, "interrupted")
    assert len(got["losses"]) == 3
    assert (together / "interrupted/checkpoints/00000003.safetensors").exists()
    for rank in (0, 1):
        interrupted, unreadable = json.loads((together / f"interrupted-{rank}.json").read_text())
        assert interrupted
        assert unreadable == {"0.png": "damaged", "3.png": "damaged"}  # one read by either process


def test_sharded(together: Path, tmp_path: Path) -> None:
    alone = run(seeded(Same), tmp_path / "alone", validate=score, validate_every=3)
    assert_like(results(together, "sharded"), alone, weights=1e-5)
    validated, expected = (
        [
            json.loads(line)["validation"]["ones"]["psnr"]
            for line in (folder / "log.jsonl").open()
            if "validation" in line
        ]
        for folder in (together / "sharded", tmp_path / "alone")
    )
    assert validated == pytest.approx(expected, rel=1e-4)
    whole = safetensors.torch.load_file(together / "sharded/checkpoints/00000006.safetensors")
    parts = safetensors.torch.load_file(tmp_path / "alone/checkpoints/00000006.safetensors")
    assert whole.keys() == parts.keys()
    for name, value in parts.items():
        assert_close(whole[name].double(), value.double(), 1e-2)


def test_sharded_and_resumed(together: Path) -> None:
    """From a checkpoint gathered from both: what they learn is what they would have learned unbroken."""
    resumed, unbroken = results(together, "sharded_resumed"), results(together, "sharded")
    assert_close(resumed["losses"], unbroken["losses"], 1e-5)
    assert_close(resumed["last.weight"], unbroken["last.weight"], 1e-4)


def test_sharded_hair(together: Path, tmp_path: Path) -> None:
    alone = run(converted("low_rank"), tmp_path, steps=3, **GENTLE)
    assert_like(results(together, "sharded_hair"), alone, weights=1e-4)

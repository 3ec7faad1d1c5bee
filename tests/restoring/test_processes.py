"""Processes that share images come to what one alone does: two of PyTorch's own group, and two under a launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import layouts
import processes
import pytest
import torch
import torch.distributed as dist
from networks import UNet
from torch import Tensor
from util import perturb

from hairify import hairify
from hairify.data.datasets import DataSettings, Task
from hairify.data.datasets import test_tasks as tasks_to_test
from hairify.errors import DataError
from hairify.evaluation import PROTOCOLS, evaluate
from hairify.networks import NetworkSettings
from hairify.restoring import ALONE, Processes, RestoringSettings, TilingSettings, restore_files, together
from hairify.sharing import Restorer, save_pretrained

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("jobs", [0, 1, 5, 8])
def test_every_job_is_done_once_and_in_order(count: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [f"job {i}" for i in range(jobs)]
    shares = [Processes(rank, count).mine(everything) for rank in range(count)]

    def all_gather_object(values: list[Any], own: Any) -> None:
        values[:] = shares

    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    assert sorted(one for share in shares for one in share) == sorted(everything)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(Processes(rank, count).gathered(shares[rank]) == everything for rank in range(count))


def test_without_a_process_group_one_is_alone() -> None:
    assert together() == ALONE
    assert ALONE.is_main
    assert ALONE.everywhere(3) == [3]


# Two processes of PyTorch's group


def tasks_in(folder: Path) -> list[Task]:
    degradations = ("noise15", "noise50", "haze")
    return tasks_to_test(DataSettings(test_data=(folder,), degradations=degradations))


def sharing(rank: int, folder: Path) -> None:
    """What `evaluate` and `restore_files` come to, beside one process that does everything."""
    torch.manual_seed(0)
    hair, tasks = perturb(hairify(UNet().eval())), tasks_in(folder / "holiday")
    kept: list[tuple[str, int]] = []

    def keep(task: Task, index: int, *images: Tensor) -> None:
        kept.append((task.name, index))

    everyone = [(task.name, index) for task in tasks for index in range(len(task.clean))]
    for protocol in PROTOCOLS.values():
        shared, alone = (
            evaluate(hair, tasks, multiple=8, protocol=protocol, processes=those, keep=how)
            for those, how in ((together(), keep), (ALONE, None))
        )
        assert shared == alone
        assert shared.to_csv() == alone.to_csv()
        assert list(shared.unreadable) == [str(folder / "holiday" / "001.png")]
        assert kept == [one for number, one in enumerate(everyone) if number % 2 == rank and one[1] != 1]
        kept.clear()

    outcomes = {}
    for name, those in (("shared", together()), (f"alone{rank}", ALONE)):
        told: list[Path] = []
        done = restore_files(
            hair,
            [folder / "holiday"],
            folder / name,
            multiple=8,
            tiling=TilingSettings(tile=32, overlap=8),
            settings=RestoringSettings(),
            processes=those,
            on_outcome=lambda one, told=told: told.append(one.source),
        )
        outcomes[name] = [(one.source, one.status, one.message) for one in done]
        assert len(told) == (5 if name != "shared" or rank == 0 else 2)
    assert outcomes["shared"] == outcomes[f"alone{rank}"]
    assert [status for _, status, _ in outcomes["shared"]] == ["restored", "failed", *["restored"] * 3]
    for path in (folder / "shared").iterdir():
        assert path.read_bytes() == (folder / f"alone{rank}" / path.name).read_bytes()
    with pytest.raises(DataError, match="There is nothing to evaluate"):
        evaluate(Broken(), tasks, multiple=8, processes=together())


class Broken(UNet):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")
def test_two_processes_come_to_what_one_does(tmp_path: Path) -> None:
    (_, broken, *_) = layouts.photographs(tmp_path / "holiday", count=5, height=43, width=50)
    broken.write_bytes(b"no image")
    with processes.processes() as both:
        both.run(sharing, tmp_path / "meeting", tmp_path)


# Two processes of a launcher


def launch(home: Path, *words: str, count: int) -> str:
    """The command line in so many processes; what they print."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "hairify", *words],
        cwd=home,
        env=environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch is built without gloo")
def test_commands_under_a_launcher_share_files_and_speak_once(tmp_path: Path) -> None:
    settings = NetworkSettings(network="unet", options={"width": 8})
    save_pretrained(Restorer(settings.restorer(0), settings.named(), 8), tmp_path / "restorer")
    layouts.photographs(tmp_path / "photographs", count=5, height=43, width=50)
    data = ["--test-data", "photographs", "--degradations", "noise25,haze", "--device", "cpu"]
    printed = [
        launch(
            tmp_path,
            "evaluate",
            "restorer",
            *data,
            "--output",
            f"by {count}",
            "--save-images",
            f"kept {count}",
            count=count,
        )
        for count in (1, 2)
    ]
    assert [text.count("The numbers are in") for text in printed] == [1, 1]
    for name in ("results.json", "results.md", "results.csv"):
        assert (tmp_path / "by 1" / name).read_text() == (tmp_path / "by 2" / name).read_text()
    assert json.loads((tmp_path / "by 2" / "results.json").read_text())["tasks"]["photographs haze"]["images"] == 5
    kept = [sorted(path.name for path in (tmp_path / f"kept {count}").rglob("*.png")) for count in (1, 2)]
    assert len(kept[0]) == 10
    assert kept[0] == kept[1]
    words = ["restore", "photographs", "--model", "restorer", "--device", "cpu", "--output", "restored"]
    assert launch(tmp_path, *words, count=2).count("5 restored; see restored") == 1

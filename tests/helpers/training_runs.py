"""Small runs, and what processes of their own do: one that is killed, and two that train together.

python training_runs.py alone FOLDER [--resume] [--kill-after STEP | --kill-while-saving STEP | --signal-group SIGNAL]
python training_runs.py together FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hairify import HairModel, hairify
from hairify.functional import _measuring as measuring
from hairify.models import promptir, restormer
from hairify.training import TrainedRun, TrainingSettings, train

SIZE = 16
PROMPTIR = {
    "dim": 8,
    "num_blocks": (1, 1, 1, 2),
    "num_refinement_blocks": 1,
    "prompt_dims": (4, 8, 8),
    "prompt_sizes": (8, 4, 2),
}


# AdamW's first steps follow the signs of gradients, also of those that are nothing but rounding.
GENTLE: dict[str, Any] = {"learning_rate": 2e-5, "final_learning_rate": 2e-5, "clip_norm": 1.0}


@dataclass(frozen=True)
class Task:
    name: str
    degradation: str


class Samples(Dataset[Any]):
    """Random images, of which every other one is noisy, and every other one pale; sample i follows from i."""

    epoch = 12

    def __init__(self, size: int = SIZE, unreadable: Mapping[int, Sequence[tuple[str, str]]] | None = None) -> None:
        self.tasks = (Task("photographs noise25", "noise25"), Task("photographs haze", "haze"))
        self.size = size
        self.unreadable = unreadable or {}

    def about(self) -> dict[str, object]:
        return {"tasks": [task.name for task in self.tasks], "images": self.epoch}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sized(index, self.size)

    def sized(self, index: int, size: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        clean, noise = (torch.rand(3, size, size, generator=generator) for _ in range(2))
        degraded = (clean + 0.2 * noise, 0.4 * clean + 0.5)[index % 2].clamp(0, 1)
        return {
            "degraded": degraded,
            "clean": clean,
            "task": index % 2,
            "image": f"{index}.png",
            "unreadable": list(self.unreadable.get(index, ())),
        }


class Plain(nn.Module):
    """Batch statistics and dropout, whose state and draws a resumed run must have exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.drop(self.norm(self.first(x)).relu()))


class Same(nn.Module):
    """Nothing in it depends on the other images, or on chance. One layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)
        self.never = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.first(x).relu())


class Experts(nn.Module):
    """Each image goes to one of four experts, by its contrast. None goes to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.experts = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([image + self.last(self._expert(image)(self.first(image)).relu()) for image in x])

    def _expert(self, image: Tensor) -> nn.Module:
        return self.experts[int(image.std() * 1000) % 3]


class Skipping(nn.Module):
    """Blocks that are skipped at random: stochastic depth, by random numbers of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(6))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for i, block in enumerate(self.blocks):
            drawn = (random.random, np.random.rand, lambda: float(torch.rand(())))[i % 3]()
            y = y if self.training and drawn < 0.5 else y + block(y).relu()
        return x + self.last(y)


def seeded(make: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def converted(box: Any = "full") -> HairModel:
    network = seeded(lambda: restormer(dim=8, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1))
    example, generator = torch.zeros(1, 3, 16, 24), torch.Generator().manual_seed(0)
    return hairify(network, split_at="down3_4", box=box, example_inputs=example, generator=generator)


def converted_promptir() -> HairModel:
    network = seeded(lambda: promptir(**PROMPTIR))
    example, generator = torch.zeros(1, 3, 16, 24), torch.Generator().manual_seed(0)
    return hairify(network, exclude=("up4_3", "up3_2"), example_inputs=example, generator=generator)


def recipe(**changes: Any) -> TrainingSettings:
    """On the CPU, in small steps."""
    options: dict[str, Any] = {
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-4,
        "epochs": 1,
        "final_epochs": 1,
        "save_every": 2,
        "workers": 0,
        "log_with": (),
        "cpu": True,
    }
    return TrainingSettings(**options | changes)


def run(model: nn.Module, output: Path, samples: Any = None, **options: Any) -> TrainedRun:
    """`options` are settings, and those of `train`."""
    others = ("loss", "validate", "keep", "resume", "on_start", "on_step", "console")
    given = {name: options.pop(name) for name in others if name in options}
    return train(model, samples or Samples(), recipe(**options), output=output, **given)


def keep(result: TrainedRun, file: Path) -> None:
    losses = torch.tensor(result.losses, dtype=torch.float64)
    state = {name: value.cpu().contiguous() for name, value in result.model.state_dict().items()}
    safetensors.torch.save_file(state | {"losses": losses}, file)


# A process that is killed


def alone(
    folder: Path, resume: bool, kill_after: int | None, kill_while_saving: int | None, signal_group: int | None
) -> None:
    def on_step(report: Any) -> None:
        if report.step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if report.step == kill_while_saving:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        if report.step == 2 and signal_group is not None:
            os.killpg(os.getpgrp(), signal_group)

    keep(run(seeded(Plain), folder, workers=2, resume=resume, on_step=on_step), folder / "result.safetensors")


# Two processes that train together


def together(folder: Path) -> None:
    """Every kind of run, one after the other; each process keeps what came of it."""
    rank = int(os.environ["RANK"])
    for name, job in JOBS.items():
        result = job(folder / name)
        keep(result, folder / f"{name}-{rank}.safetensors")
        (folder / f"{name}-{rank}.json").write_text(json.dumps([result.interrupted, result.unreadable]))


def data_parallel(output: Path) -> TrainedRun:
    return run(seeded(Same), output, accumulation=2)


def data_parallel_promptir(output: Path) -> TrainedRun:
    return run(converted_promptir(), output, steps=3, **GENTLE)


def data_parallel_tuned(output: Path) -> TrainedRun:
    """The main process measures for both."""
    measured = measuring._measured
    if os.environ["RANK"] != "0":
        measuring._measured = not_here
    try:
        return run(converted("low_rank"), output, steps=2, batch_size=8, tune=True, **GENTLE)
    finally:
        measuring._measured = measured


def not_here(case: Any, device: Any) -> Any:
    raise AssertionError("the main process measures for both")


def data_parallel_experts(output: Path) -> TrainedRun:
    return run(seeded(Experts), output, accumulation=2)


def sharded_experts(output: Path) -> TrainedRun:
    with on_cpu():
        return run(seeded(Experts), output, fsdp=True, accumulation=2)


def data_parallel_skipping(output: Path) -> TrainedRun:
    """Each process skips other blocks. Broken off after the fifth step, resumed from the fourth."""
    broken_off(seeded(Skipping), output)
    return run(seeded(Skipping), output, resume=True)


def data_parallel_skipping_unbroken(output: Path) -> TrainedRun:
    return run(seeded(Skipping), output)


def sharded(output: Path) -> TrainedRun:
    with on_cpu():
        return run(seeded(Same), output, fsdp=True, accumulation=2, validate=score, validate_every=3)


def sharded_resumed(output: Path) -> TrainedRun:
    """Broken off after the fifth step, resumed from the fourth."""
    with on_cpu():
        broken_off(seeded(Same), output, fsdp=True)
        return run(seeded(Same), output, fsdp=True, resume=True)


def sharded_hair(output: Path) -> TrainedRun:
    with on_cpu():
        return run(converted("low_rank"), output, fsdp=True, steps=3, **GENTLE)


def interrupted(output: Path) -> TrainedRun:
    """A signal to one process ends both, after the same step."""
    return run(seeded(Same), output, Signalling())


class Signalling(Samples):
    """The second process gets a signal while it reads for the third step. Each finds a file that it cannot read."""

    def __init__(self) -> None:
        super().__init__(unreadable={0: [("0.png", "damaged")], 3: [("3.png", "damaged")]})

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 10 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


def score(network: nn.Module) -> dict[str, dict[str, float]]:
    with torch.no_grad():
        return {"ones": {"psnr": float(network(torch.ones(1, 3, 8, 8)).mean()), "ssim": 0.5}}


class BrokenOff(Exception):
    pass


def broken_off(model: nn.Module, output: Path, after: int = 5, **options: Any) -> None:
    """A run that ends with an exception in all processes."""

    def loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) > after + 1:  # one looks for layers that are never called
            raise BrokenOff
        return (network(degraded) - clean).abs().mean(dim=(1, 2, 3))

    calls: list[None] = []
    try:
        run(model, output, loss=loss, **options)
    except BrokenOff:
        return
    raise AssertionError("the run was to be broken off")


class on_cpu:
    """Within it, networks are sharded over processes on the CPU, which accelerate takes from GPUs only."""

    def __enter__(self) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedType

        from hairify.training import _sharding as sharding

        def accelerator_for(settings: TrainingSettings) -> Any:
            accelerator = Accelerator(cpu=True)
            accelerator.state.distributed_type = DistributedType.FSDP
            accelerator.state.fsdp_plugin = sharding.sharding_plugin()
            return accelerator

        self.original, sharding.accelerator_for = sharding.accelerator_for, accelerator_for

    def __exit__(self, *_: object) -> None:
        from hairify.training import _sharding as sharding

        sharding.accelerator_for = self.original


JOBS: dict[str, Callable[[Path], TrainedRun]] = {
    "data_parallel": data_parallel,
    "data_parallel_promptir": data_parallel_promptir,
    "data_parallel_tuned": data_parallel_tuned,
    "data_parallel_experts": data_parallel_experts,
    "sharded_experts": sharded_experts,
    "data_parallel_skipping": data_parallel_skipping,
    "data_parallel_skipping_unbroken": data_parallel_skipping_unbroken,
    "interrupted": interrupted,
    "sharded": sharded,
    "sharded_resumed": sharded_resumed,
    "sharded_hair": sharded_hair,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("alone", "together"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--kill-while-saving", type=int)
    parser.add_argument("--signal-group", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "together":
        together(options.folder)
    else:
        alone(options.folder, options.resume, options.kill_after, options.kill_while_saving, options.signal_group)


if __name__ == "__main__":
    main()

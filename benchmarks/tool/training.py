"""Steps a second of `hairify.training.train` beside a loop that is written by hand."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from benchmarks.tool.rounds import Row
from hairify.data.datasets import Task
from hairify.data.photographs import TRAINING, photographs
from hairify.data.samples import TrainingSamples, collate
from hairify.models import restormer, unet
from hairify.training import StepReport, TrainingSettings, train

BATCH, PATCH = 8, 64
AIM = 0.97
_WARM_UP = 3  # steps that do not count

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": unet,
    "restormer-16": lambda: restormer(dim=16, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1),
}


def rows(steps: int) -> Iterator[Row]:
    """Each network, with and without what a run keeps beside: averaged weights, a log, a progress bar."""
    for name in NETWORKS:
        for complete in (True, False):
            yield _measured(name, steps if name == "unet" else max(steps // 4, _WARM_UP + 3), complete)


def _measured(name: str, steps: int, complete: bool) -> Row:
    """After each step of ours, one of the bare loop on the same batch."""
    settings = TrainingSettings(
        steps=steps,
        batch_size=BATCH,
        workers=0,
        save_every=0,
        validate_every=0,
        cpu=True,
        ema_decay=0.999 if complete else 0.0,
        log_with=("tensorboard",) if complete else ("none",),
    )
    torch.manual_seed(0)
    bare = bare_steps(NETWORKS[name](), settings)
    ours: list[float] = []
    others: list[float] = []
    began = [time.perf_counter()]

    def on_step(report: StepReport) -> None:
        ended = time.perf_counter()
        ours.append(ended - began[0])
        next(bare)
        others.append(time.perf_counter() - ended)
        began[0] = time.perf_counter()

    console = Console(file=io.StringIO(), force_terminal=True) if complete else None
    with tempfile.TemporaryDirectory() as folder:
        train(NETWORKS[name](), samples(), settings, output=Path(folder, "run"), on_step=on_step, console=console)
    kept = "averaged weights, log and bar" if complete else "no more than the weights"
    title = f"{name}, {BATCH} patches of {PATCH}², {kept}"
    return Row(title, "steps", 1, ours[_WARM_UP:], others[_WARM_UP:], AIM if complete else None)


def samples() -> TrainingSamples:
    """Noisy patches of photographs that stay in memory: what is measured is the loop."""
    paths = photographs(TRAINING)
    tasks = [Task(name, name, paths, None) for name in ("noise25", "noise50")]
    return TrainingSamples(tasks, PATCH, 0, 2**28)


def bare_steps(network: nn.Module, settings: TrainingSettings) -> Iterator[None]:
    """The steps of a loop as anyone writes it: the same batches, loss, optimizer and average."""
    network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, betas=(0.9, 0.999), weight_decay=settings.weight_decay
    )
    average = (
        AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay)) if settings.ema_decay else None
    )
    losses: list[float] = []
    batches = [[*range(first, first + BATCH)] for first in range(0, settings.batch_size * (settings.steps or 0), BATCH)]
    for batch in DataLoader(samples(), batch_sampler=batches, collate_fn=collate):
        optimizer.zero_grad()
        loss = (network(batch["degraded"]) - batch["clean"]).abs().mean()
        loss.backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(network)
        losses.append(loss.item())
        yield

"""The demo's experiment: one network, trained as it is and converted, compared on held-out photographs."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Generator, Tensor, nn

from hairify import HairModel, hairify
from hairify.demo.degradations import DEGRADATIONS
from hairify.demo.evaluation import Sample, held_out_samples, restore, score
from hairify.demo.photographs import HELD_OUT, TRAINING, load, random_crops
from hairify.demo.pictures import Row, draw_before_after, draw_givs, draw_selecting_vectors
from hairify.demo.report import Contender, print_scores, write_results
from hairify.demo.settings import Settings
from hairify.demo.training import build_network, train, training_batches

GIV_CROPS = 40
"""Held-out crops whose GIVs and selecting vectors are drawn, each under every degradation."""


def compare(settings: Settings, console: Console) -> None:
    """Trains, measures, prints, and writes the files named in `hairify.demo.settings` to `settings.output`.

    The output folder is touched only when everything is ready to be put there.

    Raises:
        OSError: the output cannot be written, or scikit-image lacks a photograph.
    """
    with _written_at_once(settings.output) as folder:
        training, held_out = load(TRAINING), load(HELD_OUT)
        static = build_network(settings.seed)
        hair = hairify(static, generator=Generator().manual_seed(settings.seed))
        samples = held_out_samples(held_out, crop=settings.crop, draws=settings.draws, seed=settings.seed + 1)
        degraded = Contender("input", [score(sample.degraded, sample.clean) for sample in samples])
        _introduce(console, settings, static, hair)

        contenders, restored = [degraded], []
        for name, network in (("static", static), ("hairified", hair)):
            contender, images = _train_and_score(name, network, list(training.values()), samples, settings, console)
            contenders.append(contender)
            restored.append(images)

        print_scores(console, samples, contenders)
        draw_before_after(_first_of_each(samples, contenders, restored), folder / "before_after.png")
        _draw_conditioning(hair, list(held_out.values()), settings, folder)
        write_results(folder / "results.json", settings, samples, contenders)
    console.print(f"Pictures and results.json are in [bold]{settings.output}[/bold].")


def _introduce(console: Console, settings: Settings, static: nn.Module, hair: HairModel) -> None:
    before, after = (sum(p.numel() for p in network.parameters()) for network in (static, hair))
    console.print(
        f"[bold]static[/bold] is a Restormer of {before:,} parameters, [bold]hairified[/bold] the same network "
        f"converted, {after:,}. Both start from the same weights and train {settings.steps} steps on the same patches "
        f"of {', '.join(DEGRADATIONS)}.\n"
    )


def _train_and_score(
    name: str,
    network: nn.Module,
    photographs: Sequence[Tensor],
    samples: Sequence[Sample],
    settings: Settings,
    console: Console,
) -> tuple[Contender, list[Tensor]]:
    """Trains a network, then restores and scores the samples; returns the scores and the restored images."""
    batches = training_batches(photographs, patches=settings.patches, size=settings.patch, seed=settings.seed)
    started = time.perf_counter()
    with _progress(console, f"training {name}", settings.steps) as advance:
        losses = train(network, batches, steps=settings.steps, learning_rate=settings.learning_rate, on_step=advance)
    seconds = time.perf_counter() - started
    with _progress(console, f"evaluating {name}", len(samples)) as advance:
        images = restore(network, samples, lambda: advance(None))
    scores = [score(image, sample.clean) for image, sample in zip(images, samples, strict=True)]
    return Contender(name, scores, sum(p.numel() for p in network.parameters()), seconds, losses), images


@contextmanager
def _progress(console: Console, description: str, total: int) -> Iterator[Callable[[float | None], None]]:
    """A progress bar with the time left; yields a function to call after each step, with the loss if there is one."""
    columns = (
        TextColumn("{task.description:21}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, loss="")
        smooth: float | None = None

        def advance(loss: float | None) -> None:
            nonlocal smooth
            if loss is not None:
                # Single batches vary too much to show where the loss is going.
                smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
            progress.update(task, advance=1, loss="" if smooth is None else f"loss {smooth:.4f}")

        yield advance


def _first_of_each(
    samples: Sequence[Sample], contenders: Sequence[Contender], restored: Sequence[Sequence[Tensor]]
) -> list[Row]:
    """Rows of the before/after picture, by a fixed rule: each degradation on the next photograph, its first draw."""
    photographs = list(dict.fromkeys(sample.photograph for sample in samples))
    names = [contender.name for contender in contenders]
    rows = []
    for position, degradation in enumerate(DEGRADATIONS):
        photograph = photographs[position % len(photographs)]
        wanted = (photograph, degradation, 0)
        index = [(one.photograph, one.degradation, one.draw) for one in samples].index(wanted)
        versions = [samples[index].degraded, *(images[index] for images in restored)]
        images = {"clean": samples[index].clean} | dict(zip(names, versions, strict=True))
        rows.append(Row(degradation, images, {one.name: one.scores[index].psnr for one in contenders}))
    return rows


@torch.no_grad()
def _draw_conditioning(hair: HairModel, photographs: Sequence[Tensor], settings: Settings, folder: Path) -> None:
    """Draws GIVs and mean selecting vectors; every degradation gets the same crops, so that only it differs."""
    generator = Generator().manual_seed(settings.seed + 2)
    clean = random_crops(photographs, GIV_CROPS, settings.patch, generator)
    hair.eval()
    givs, vectors = {}, {}
    for degradation, degrade in DEGRADATIONS.items():
        degraded = degrade(clean, generator)
        givs[degradation] = hair.giv(degraded)
        vectors[degradation] = {block: each.mean(0) for block, each in hair.selecting_vectors(degraded).items()}
    draw_givs(givs, folder / "givs.png")
    draw_selecting_vectors(vectors, folder / "selecting_vectors.png")


@contextmanager
def _written_at_once(output: Path) -> Iterator[Path]:
    """A folder to write to, whose files move to `output` at the end, unless the block raises: then they vanish.

    It lies in `output`, or in the nearest folder above it that exists: there an unwritable place shows before minutes
    of training, and moving a file is one step.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} exists and is not a folder; name another with --output")
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".hairify-demo-", dir=nearest) as folder:
        yield Path(folder)
        output.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, output / file.name)

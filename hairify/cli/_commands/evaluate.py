"""`hairify evaluate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from hairify import HairModel
from hairify._support.files import write_text
from hairify.cli._common import (
    DacOption,
    DeviceOption,
    ModelArgument,
    TrustOption,
    console,
    open_restorer,
    progress,
    say,
    say_left_out,
)
from hairify.data._image import Image
from hairify.data.datasets import DataSettings, Task, test_tasks
from hairify.data.images import write
from hairify.errors import ImageError
from hairify.evaluation._conditioning import NOT_MEASURED
from hairify.evaluation._scores import Score, conditioning_on, evaluate
from hairify.sharing._hub import save_results


def run(
    data: DataSettings,
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option(help="folder for results.json and results.md; by default that of the run")
    ] = None,
    save_images: Annotated[
        Path | None, typer.Option(help="folder for the restored images, by task", metavar="PATH")
    ] = None,
    evaluation_seed: Annotated[int, typer.Option(help="of degradations that are synthesised")] = 0,
    network: TrustOption = None,
    dac: DacOption = None,
    device: DeviceOption = "auto",
) -> int:
    """Measure PSNR and SSIM on held-out images: whole RGB images, one at a time, blind.

    Of a run, the data are those that it held out; --test-data names others. What cannot be read, restored or saved is
    named and left out, and the exit status is 1.

    [dim]hairify evaluate run
    hairify evaluate run --test-data datasets/Rain100L --test-data datasets/SOTS --save-images restored[/dim]
    """
    restorer = open_restorer(model, device, network, dac)
    tasks = test_tasks(data)
    not_kept: dict[str, str] = {}
    with progress("evaluating", sum(len(task.clean) for task in tasks)) as advance:

        def on_image(task: Task, score: Score) -> None:
            advance(f"{task.name} {score.psnr:.2f} dB")

        def keep(task: Task, index: int, degraded: Tensor, clean: Tensor, restored: Tensor) -> None:
            if save_images is not None:
                source = task.files(index)[0] or task.clean[index]
                place = save_images / task.name.replace("/", "_") / f"{index:04}_{source.stem}.png"  # stems come twice
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    write(Image(restored), place)
                except (ImageError, OSError) as error:  # as on a full disk: its score is there all the same
                    not_kept[str(place)] = str(error)

        results = evaluate(
            restorer.model, tasks, multiple=restorer.multiple, seed=evaluation_seed, on_image=on_image, keep=keep
        )
    console.print(results.table())
    say_left_out(results.unreadable)
    for place, reason in [*not_kept.items()][:1]:
        say(("not saved", "yellow"), f" {len(not_kept)} restored image(s), such as {place}: {reason}")
    for task in tasks:
        if task.name not in results.scores:
            say(("note", "yellow"), f" {task.name} has no scores: none of its images could be restored.")
    if isinstance(restorer.model, HairModel):
        found = conditioning_on(
            restorer.model, tasks, multiple=restorer.multiple, seed=evaluation_seed, without=results.unreadable
        )
        if found is None:
            say(NOT_MEASURED)
        else:
            say(str(found))
            if advice := found.advice(restorer.model):
                say(("note", "yellow"), f" {advice}")
            results = dataclasses.replace(results, conditioning=found.plain())

    is_run = (Path(model) / "model").is_dir()
    folder = output or (Path(model) if is_run else None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "results.json", results.to_json())
        write_text(folder / "results.md", results.to_markdown())
        say(f"The numbers are in {folder / 'results.json'} and {folder / 'results.md'}.")
    if is_run:  # so that the model card has them
        save_results(dataclasses.replace(restorer, results=results), Path(model) / "model")
    return int(bool(results.unreadable or not_kept))

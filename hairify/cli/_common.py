"""What commands share: the console, devices, restorers by name, progress.

What brings PyTorch is imported where it is used: every command's help imports this module, and is quick.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from hairify._support.files import is_utf8
from hairify.cli.options import in_flags
from hairify.errors import OptionError
from hairify.training._folders import BEST, MODEL
from hairify.training._settings import TrainingSettings

if TYPE_CHECKING:
    import torch

    from hairify.restoring import Processes
    from hairify.sharing import Restorer

console = Console()

CONFIG = "config.toml"
"""The configuration that a run writes into its folder."""

UNFINISHED = "within its run"
"""The fact of a restorer that says after how many steps it was written, where these were not all of its run."""

_SHOWN = 20  # of those that were left out, one a line

BUNDLED = "bundled"
"""`hairify.sharing.BUNDLED`, which importing would bring PyTorch."""

_A_RESTORER = "folder of a run or of a restorer, owner/name on the Hugging Face Hub, or bundled: hairify's own"
ModelArgument: TypeAlias = Annotated[str, typer.Argument(help=_A_RESTORER, metavar="MODEL")]
ModelOption: TypeAlias = Annotated[str, typer.Option("--model", help=_A_RESTORER)]
DeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, ...; auto takes a GPU if there is one")
]
TrustOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--network", help="package.module:factory, where the restorer is of a network of your own"),
]
DacOption: TypeAlias = Annotated[
    str | None, typer.Option("--dac", help="package.module:factory, where it has a DAC of your own")
]


def say(*parts: str | tuple[str, str], to: Console = console) -> None:
    """Print text, some of it as (text, style). What stands in brackets is no markup: files may be named so."""
    to.print(Text.assemble(*parts), soft_wrap=True)


@contextlib.contextmanager
def apart(is_apart: bool) -> Iterator[None]:
    """Within it, what is said goes to standard error where `is_apart`: standard output is for programs."""
    before, console.stderr = console.stderr, console.stderr or is_apart
    try:
        yield
    finally:
        console.stderr = before


def say_left_out(images: Mapping[str, str]) -> None:
    """Say how many images were left out, and why the first of them were."""
    for path, reason in [*images.items()][:_SHOWN]:
        said = in_flags(reason, ("tile_above",))
        say(("left out", "yellow"), f" {said}" if path in said else f" {path}: {said}")
    if images:
        say(f"{len(images)} image(s) could not be read or restored, and were left out.")


def joined(device: str) -> Processes:
    """The processes that the launcher started, to share images among; all but the main one go mute.

    Args:
        device: as the command was given it.
    """
    from hairify.restoring import together
    from hairify.training import processes

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        processes(TrainingSettings(cpu=device == "cpu"))  # opens their group, and gives each its GPU
    those = together()
    console.quiet = not those.is_main
    return those


def open_restorer(source: str, device: str, network: str | None, dac: str | None) -> Restorer:
    """The restorer of a folder or of the Hub, in evaluation mode, on a device."""
    from hairify.sharing import from_pretrained

    restorer = from_pretrained(source, network=network, dac=dac)
    restorer.model.to(device_named(device))
    if UNFINISHED in restorer.about:
        say(("note", "yellow"), f" This is the restorer {restorer.about[UNFINISHED]} of its run.")
    return restorer


def folder_named(source: str) -> Path | None:
    """What a model's name stands for as a path; None for the restorer in hairify, which is nobody's to write to."""
    return None if source == BUNDLED else Path(source)


def device_named(name: str) -> torch.device:
    """The device; "auto" is the first GPU, or else the CPU.

    Raises:
        OptionError: there is no such device here.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"--device is {name!r}, which cannot be used here: {error}") from error
    return device


def check_output(folder: Path) -> None:
    """Refuse a folder of a run that TensorBoard and others could not write to, before anything is done.

    Raises:
        OptionError: its name is no UTF-8.
    """
    if not is_utf8(folder):
        raise OptionError(f"--output is {folder}, whose name is no UTF-8; give a folder with another name.")


def config_of_run(given: Mapping[str, Any]) -> Path | None:
    """The configuration of the run that a command takes as its model, or resumes."""
    folder = given["model"] if "model" in given else given.get("output")
    if folder in (None, BUNDLED) or not given.get("resume", True):
        return None
    run = Path(folder)
    if run.name in (MODEL, BEST) and not (run / CONFIG).is_file():
        run = run.parent
    return run / CONFIG if (run / CONFIG).is_file() else None


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left.

    Yields:
        A function to call after each step, with a few words to show; with 0 steps, to show other words only.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, words="")

        def advance(words: str, steps: int = 1) -> None:
            bar.update(task, advance=steps, words=words)

        yield advance

"""All commands in one application, and what a command's errors become."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import warnings
from collections.abc import Callable, Container, Iterator
from typing import Any

import typer
from rich.console import Console

from hairify.cli import INTERRUPTED
from hairify.cli._commands import (
    ablate,
    bake,
    data,
    demo,
    evaluate,
    export,
    look,
    plan,
    push,
    recipes,
    report,
    restore,
    serve,
    table,
    train,
)
from hairify.cli._common import config_of_run, say
from hairify.cli._usual_names import Command
from hairify.cli.options import in_flags, with_settings
from hairify.errors import HairError, HairWarning, OptionError

app = typer.Typer(
    name="hairify",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # a traceback of ours is for us: plain, and whole
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Turns any image-to-image network into an all-in-one restorer (HAIR), trains it and restores with it.

    From a folder of photographs to restored pictures:

    [bold]hairify train --data photographs --output run[/bold]

    [bold]hairify evaluate run[/bold]

    [bold]hairify report run[/bold]

    [bold]hairify restore picture.jpg --model run --output restored[/bold]

    Options may stand in a file, too: every run writes its own to config.toml, for [bold]--config[/bold].
    """,
)


def _reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, whose errors are a message and an exit status."""

    @functools.wraps(command)
    def reporting(**given: Any) -> None:
        parameters = inspect.signature(command).parameters
        try:
            with _noting(parameters):
                status = command(**given)
        except HairError as error:
            _complain(in_flags(str(error), parameters))
            raise typer.Exit(2 if isinstance(error, OptionError) else 1) from error
        except OSError as error:
            full = " The disk is full." if error.errno == errno.ENOSPC else ""
            _complain(f"{error}.{full}")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            from hairify._support.memory import is_lack_of_memory  # brings PyTorch

            if not is_lack_of_memory(error):
                raise
            _complain(
                f"There is not enough memory: {error}. Training takes less with a smaller --patch-size, more "
                "--accumulation or --checkpoint-blocks; restoring, with a smaller --tile."
            )
            raise typer.Exit(1) from error
        except KeyboardInterrupt as interrupt:
            _complain("Interrupted.")
            raise typer.Exit(INTERRUPTED) from interrupt
        raise typer.Exit(status or 0)

    return reporting


@contextlib.contextmanager
def _noting(options: Container[str]) -> Iterator[None]:
    """Say what the library warns of as a note, once."""
    said: set[str] = set()

    def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, HairWarning):
            usual(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            say(("note", "yellow"), f" {in_flags(str(message), options)}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", HairWarning)
        usual, warnings.showwarning = warnings.showwarning, note
        yield


def _complain(message: str) -> None:
    say(("error", "bold red"), f" {message}", to=Console(stderr=True))


for _module in (
    plan,
    data,
    recipes,
    train,
    evaluate,
    look,
    restore,
    serve,
    bake,
    export,
    ablate,
    table,
    report,
    push,
    demo,
):
    _command: Callable[..., Any] = _module.run
    _whole = _reporting(with_settings(_command, config_of_run))
    app.command(_module.__name__.rpartition(".")[2], help=_command.__doc__, cls=Command)(_whole)

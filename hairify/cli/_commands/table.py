"""`hairify table`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hairify._support.files import write_text
from hairify._support.telling_names import telling_names
from hairify.cli._common import console, say
from hairify.errors import DataError, OptionError

if TYPE_CHECKING:
    from hairify.evaluation import Results

_FILE = "results.json"


def run(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="folders of evaluated runs or restorers, or their results.json; NAME=FOLDER names a row",
            metavar="RUN...",
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="folder for table.md and table.tex")] = None,
    setting: Annotated[
        Literal["3-task", "5-task", "denoise", "derain", "dehaze"] | None,
        typer.Option(help="the columns; by default all test sets that any of the runs has"),
    ] = None,
    shown: Annotated[
        Literal["both", "psnr", "ssim"], typer.Option("--show", help="PSNR in dB and SSIM, or one of them")
    ] = "both",
) -> int:
    """Put the results of several runs into one table, in Markdown and in LaTeX: best numbers bold, a mean, and dashes.

    The numbers are those that hairify evaluate wrote. Rows that were measured by several protocols, or on other images,
    are named, and the exit status is 1.

    [dim]hairify table runs/*
    hairify table Restormer=static Res-HAIR=run --setting 3-task --output tables
    hairify table run/evaluations/promptir-3-task other/evaluations/promptir-3-task[/dim]
    """
    from hairify.evaluation import ResultsTable, read_results

    rows: dict[str, Results] = {}
    places = [_named(given) for given in runs]
    names = telling_names([folder.resolve() for _, folder, _ in places])
    for (said, folder, file), name in zip(places, names, strict=True):
        label = said or name
        if label in rows:
            raise OptionError(f"Two rows would be called {label!r}; name them, such as first={folder}.")
        rows[label] = read_results(file)
    table = ResultsTable(rows, setting, shown)
    console.print(table.table())
    for note in table.notes:
        say(("note", "yellow"), f" {note}")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "table.md", table.to_markdown())
        write_text(output / "table.tex", table.to_latex())
        say(f"The table is in {output / 'table.md'} and {output / 'table.tex'}.")
    return int(bool(table.notes))


def _named(given: str) -> tuple[str, Path, Path]:
    """What a row is to be called, if it is said; the folder that else names it; and the file with its numbers.

    Raises:
        DataError: there is none.
    """
    label, equals, rest = given.partition("=")
    if not equals or Path(given).exists():
        label, rest = "", given
    path = Path(rest)
    if not path.exists():
        raise DataError(f"There is no folder {path}; give folders of runs, or the results.json of others.")
    places = [path] if path.is_file() else [path / _FILE, path / "model" / _FILE]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        others = sorted(str(one.parent) for one in path.glob(f"evaluations/*/{_FILE}"))
        command = (
            f"hairify evaluate {path}" if (path / "model").is_dir() else f"hairify evaluate {path} --output {path}"
        )
        way_out = f"it has those of {', '.join(others)}" if others else f"`{command}` makes them"
        raise DataError(f"{path} has no {_FILE}; {way_out}.")
    return label, path.parent if path.is_file() else path, found

"""`hairify data`."""

from __future__ import annotations

import dataclasses
import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hairify.cli._common import say
from hairify.cli.options import in_flags
from hairify.data._settings import DataSettings
from hairify.errors import ImageError

if TYPE_CHECKING:
    from hairify.data._looking import Look

_ARGUMENTS = {field.name for field in dataclasses.fields(DataSettings)}
_HALVES = {"train": " (training half)", "test": " (test half)", None: ""}


def run(
    data: DataSettings,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="folders to look at, as of --data", metavar="PATH...", show_default=False),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="file for a contact sheet: patches degraded and clean, by degradation")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
) -> int:
    """List the data in folders: what was found, how it is read, and what was not understood.

    What is not understood is named, the rest is listed all the same, and the exit status is 1.

    [dim]hairify data datasets photographs --preview sheet.png
    hairify data --pairs rain=mine/rainy/,mine/clean/[/dim]
    """
    from hairify.data._looking import look
    from hairify.data._preview import contact_sheet

    data = dataclasses.replace(data, data=(*data.data, *(paths or ())))
    seen = look(data)
    if json:
        print(json_format.dumps(seen.plain(), indent=2))
    else:
        _list(seen)
    if preview is not None and (tasks := seen.training or seen.tests):
        try:
            contact_sheet(tasks, data.patch_size).save(preview)
        except ValueError as error:  # Pillow's, of an ending that it does not know
            raise ImageError(f"{preview} cannot be written: {error}. Give a name that ends in .png.") from error
        if not json:
            say(f"Patches of each degradation are in {preview}.")
    return int(bool(seen.problems))


def _list(seen: Look) -> None:
    for source in seen.sources:
        first = f"{source.degraded[0].name} ↔ {source.clean[0].name}" if source.degraded else source.clean[0].name
        say(
            (source.name, "bold"),
            f"{_HALVES[source.split]} in {source.folder}: {len(source.clean)} {source.read_as()}, such as {first}",
        )
    for name, shards in seen.shards:
        what = "clean photographs" if name is None else f"pairs of {name}"
        say((shards.pattern, "bold"), f": {len(shards.urls)} shards of {shards.samples} {what} each")
    for title, tasks in (("training", seen.training), ("tests", seen.tests)):
        if tasks:
            say((f"{title:8}", "bold"), " " + ", ".join(f"{task.name} ({task.count})" for task in tasks))
    for note in seen.notes:
        say(("note", "yellow"), f" {in_flags(note, _ARGUMENTS)}")
    for problem in seen.problems:
        say(("not understood", "bold red"), f" {in_flags(problem, _ARGUMENTS)}")
    if not (seen.sources or seen.shards or seen.problems):
        say("Nothing to look at; give folders, --pairs or --shards.")

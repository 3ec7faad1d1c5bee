"""`hairify recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from hairify import recipes
from hairify.cli._common import say


def run(
    name: Annotated[str | None, typer.Argument(help="of the recipe to print", metavar="[NAME]")] = None,
) -> None:
    """List the recipes that `train --recipe` takes; with a name, print that one: it is a file for --config.

    [dim]hairify recipes
    hairify recipes paper
    hairify train --recipe paper --data photographs --output run[/dim]
    """
    if name is not None:
        typer.echo(recipes.text(name), nl=False)
        return
    width = max(map(len, recipes.names()))
    for one in recipes.names():
        say((f"{one:{width}}", "bold"), f"  {recipes.summary(one)}")

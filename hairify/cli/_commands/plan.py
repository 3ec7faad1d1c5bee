"""`hairify plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from hairify.cli._common import say
from hairify.networks._named import NetworkSettings


def run(
    network: NetworkSettings,
    json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Show what a conversion would do: split, levels, layers left alone with the reason, parameters.

    [dim]hairify plan --network restormer
    hairify plan --network my_package.nets:UNet --option width=32 --split-at bottleneck[/dim]
    """
    from hairify.model import HairModel
    from hairify.planning import plan

    model = network.build(seed=0)
    found = model.plan if isinstance(model, HairModel) else plan(model, **network.plan_options(model))
    if json:
        print(found.to_json())
        return
    say(str(found))
    if found.warning:
        say(("\nnote", "yellow"), f" {found.warning}")

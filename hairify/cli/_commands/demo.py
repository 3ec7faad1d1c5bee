"""`hairify demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli._common import console
from hairify.data.photographs import HELD_OUT


def run(
    output: Annotated[
        Path, typer.Option(help="folder for the results; what is there of the same names is replaced")
    ] = (Path("demo-output")),
    before: Annotated[int, typer.Option(min=0, help="training steps before the conversion")] = 2000,
    steps: Annotated[int, typer.Option(min=0, help="training steps of each network after it")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of weights, patches and degradations; one seed is one sample")] = 0,
    patches: Annotated[int, typer.Option(min=1, help="training patches of each degradation in a step")] = 2,
    photographs: Annotated[int, typer.Option(min=1, max=len(HELD_OUT), help="held-out photographs")] = len(HELD_OUT),
) -> None:
    """Train a small network, go on with it as it is and converted, compare both on held-out photographs, and report.

    Some minutes on two CPU cores. The photographs come with scikit-image and scikit-learn. Ctrl-C leaves the output as
    it was.

    [dim]hairify demo
    hairify demo --before 20 --steps 20 --output glance[/dim]
    """
    from hairify.cli._demonstration import demonstrate

    demonstrate(
        output,
        before=before,
        steps=steps,
        seed=seed,
        patches=patches,
        held_out=HELD_OUT[:photographs],
        console=console,
    )

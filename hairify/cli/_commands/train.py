"""`hairify train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli.options import Said
from hairify.data._settings import DataSettings
from hairify.networks._named import NetworkSettings
from hairify.training._settings import StartSettings, TrainingSettings


def run(
    network: NetworkSettings,
    start: StartSettings,
    data: DataSettings,
    training: TrainingSettings,
    said: Said,
    output: Annotated[Path, typer.Option(help="folder of the run; must be new, or hold the run to --resume")],
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's last checkpoint")] = False,
) -> int:
    """Convert a network and train it on photographs, by the paper's recipe where nothing else is said, or by another.

    The restorer is in the run's folder from the first checkpoint on, the newest in model/, that with the best scores
    in best/. Images that cannot be learnt from, or be validated on, are named and left out, and the exit status is 1 at
    the end.

    [dim]hairify train --data photographs --output run
    hairify train --data photographs --output run --network my_nets:UNet --weights trained.pth --freeze-base
    hairify train --recipe modern --data photographs --output run
    hairify train --output run --resume
    hairify train --from run --data photographs --degradations noise25,haze --output second
    accelerate launch --num_processes 8 -m hairify train --data data --output run[/dim]
    """
    from hairify.cli._training import train_restorer

    return train_restorer(network, start, data, training, said, output, resume=resume)

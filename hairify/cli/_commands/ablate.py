"""`hairify ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.ablation._settings import AblationSettings
from hairify.data._settings import DataSettings
from hairify.networks._named import NetworkSettings
from hairify.training._settings import TrainingSettings


def run(
    network: NetworkSettings,
    data: DataSettings,
    training: TrainingSettings,
    ablation: AblationSettings,
    output: Annotated[Path, typer.Option(help="folder for the runs and the table; a broken-off ablation goes on")],
) -> int:
    """Compare what HAIR's parts contribute, as the paper's Tables 5 to 8 do: equal steps, several seeds.

    Variants: static, dac (the GIV as a conditional embedding), hsn (learned vectors in place of the GIV), both;
    with --splits the position of the split; with --combinations which degradations are learnt together. Test images
    that cannot be read or restored are named and left out, and the exit status is 1.

    [dim]hairify ablate --data photographs --output ablation --steps 20000 --seeds 3
    hairify ablate --data photographs --output splits --steps 20000 --splits 0.25,0.5,0.75
    hairify ablate --data datasets --output together --steps 20000 --variants '' --combinations all[/dim]
    """
    from hairify.cli._ablating import ablate_network

    return ablate_network(network, data, training, ablation, output)

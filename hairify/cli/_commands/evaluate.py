"""`hairify evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli._common import DacOption, DeviceOption, ModelArgument, TrustOption, folder_named, joined, open_restorer
from hairify.data._settings import DataSettings
from hairify.evaluation._settings import EvaluationSettings


def run(
    data: DataSettings,
    evaluation: EvaluationSettings,
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            help="folder for results.json, .md and .csv; by default the run, or of other data or protocols one in it"
        ),
    ] = None,
    save_images: Annotated[
        Path | None, typer.Option(help="folder for the restored images, by task", metavar="PATH")
    ] = None,
    card: Annotated[
        bool | None,
        typer.Option(
            "--card/--no-card",
            help="write the numbers on the model card, too; by default those on what a run held out, in hairify's way",
        ),
    ] = None,
    network: TrustOption = None,
    dac: DacOption = None,
    device: DeviceOption = "auto",
) -> int:
    """Measure PSNR and SSIM on held-out images: whole RGB images, one at a time, blind.

    Of a run, the data are those that it held out; --test-data names others. What cannot be read, restored or saved is
    named and left out, and test sets of --setting that are not there are named; the exit status is then 1. Under
    accelerate launch, processes share the images.

    [dim]hairify evaluate run
    hairify evaluate run --test-data datasets --setting 3-task --protocol promptir
    hairify evaluate run --test-data datasets/Rain100L --protocol derain --metrics lpips --save-images restored
    hairify evaluate run --test-data datasets/SOTS --on-top noise15,noise25,noise50
    accelerate launch --num_processes 8 -m hairify evaluate run[/dim]
    """
    from hairify.cli._evaluating import Place, evaluate_restorer

    processes = joined(device)
    restorer = open_restorer(model, device, network, dac)
    place = Place.of(folder_named(model), data, evaluation, output, card)
    return evaluate_restorer(restorer, data, evaluation, place, device, save_images, processes)

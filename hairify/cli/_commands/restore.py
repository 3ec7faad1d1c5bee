"""`hairify restore`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hairify.cli._common import (
    BUNDLED,
    DacOption,
    DeviceOption,
    ModelOption,
    TrustOption,
    joined,
    open_restorer,
    progress,
    say,
)
from hairify.cli.options import in_flags
from hairify.restoring._settings import GuidanceSettings, RestoringSettings, TilingSettings, VideoSettings

if TYPE_CHECKING:
    from hairify.restoring import Outcome

_SETTINGS = (TilingSettings, RestoringSettings, VideoSettings, GuidanceSettings)
_ARGUMENTS = {field.name for cls in _SETTINGS for field in dataclasses.fields(cls)}


def run(
    tiling: TilingSettings,
    restoring: RestoringSettings,
    video: VideoSettings,
    guidance: GuidanceSettings,
    inputs: Annotated[list[Path], typer.Argument(help="photographs, folders of them, and videos", metavar="INPUT...")],
    model: ModelOption = BUNDLED,
    output: Annotated[Path, typer.Option(help="folder for the restored photographs")] = Path("restored"),
    network: TrustOption = None,
    dac: DacOption = None,
    device: DeviceOption = "auto",
) -> int:
    """Restore photographs of any size, in overlapping tiles that share the weights which the whole image selects.

    Depth (8 or 16 bits), grey, transparency, orientation, resolution and colour profile stay as they are. What cannot
    be read, and pages or frames beyond the first, are named, the rest goes on, and the exit status is 1. Under
    accelerate launch, processes share the photographs.

    Of a video, frames share what is seen in them, and sound, times and colours stay.

    A photograph is restored from what the network sees in it; --strength, --as and --like say otherwise, and --passes
    looks again. hairify look tells what it sees.

    [dim]hairify restore photograph.jpg
    hairify restore holiday/ portrait.tif --model run --output better
    hairify restore holiday/ --model run --output gently --strength 0.5
    hairify restore holiday/ --model run --output without_rain --as rain[/dim]
    """
    from hairify.cli._looking import guidance_by
    from hairify.data.videos import SUFFIXES as VIDEOS
    from hairify.restoring import planned, restore_files

    processes = joined(device)
    restorer = open_restorer(model, device, network, dac)
    count = len(planned(inputs, output, restoring))
    with progress("restoring", count) as advance:

        def on_tile(source: Path, done: int, of: int) -> None:
            parts = "frames" if source.suffix.lower() in VIDEOS else "tiles"
            advance(f"{source.name}, {done}{f' of {of}' if of else ''} {parts}", steps=0)

        def on_outcome(outcome: Outcome) -> None:
            advance(outcome.source.name)
            if outcome.message:
                colour = "red" if outcome.status == "failed" else "yellow"
                say((outcome.status, colour), f" {outcome.source}: {in_flags(outcome.message, _ARGUMENTS)}")

        outcomes = restore_files(
            restorer.model,
            inputs,
            output,
            multiple=restorer.multiple,
            tiling=tiling,
            settings=restoring,
            video=video,
            guidance=guidance_by(guidance, restorer, tiling),
            processes=processes,
            on_outcome=on_outcome,
            on_tile=on_tile,
        )
    by_status = Counter(outcome.status for outcome in outcomes)
    say(", ".join(f"{count} {status}" for status, count in by_status.items()) + f"; see {output}")
    return int(by_status["failed"] + by_status["restored in part"] > 0)

"""`hairify look`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli._common import BUNDLED, DacOption, DeviceOption, ModelOption, TrustOption, open_restorer
from hairify.restoring._settings import TilingSettings


def run(
    tiling: TilingSettings,
    inputs: Annotated[list[Path], typer.Argument(help="photographs, and folders of them", metavar="INPUT...")],
    model: ModelOption = BUNDLED,
    json: Annotated[bool, typer.Option("--json", help="a line of JSON for each photograph")] = False,
    network: TrustOption = None,
    dac: DacOption = None,
    device: DeviceOption = "auto",
) -> int:
    """Tell what a restorer sees in photographs: which of the degradations that it knows, and how certainly.

    Of each photograph the GIV is found, as for restoring it, and its distance to where the GIVs of each degradation and
    of clean images lie. Nothing is restored. The exit status is 1 where a photograph cannot be read.

    [dim]hairify look holiday/
    hairify look holiday/ --model run --json > seen.jsonl[/dim]
    """
    from hairify.cli._common import apart
    from hairify.cli._looking import look_at

    with apart(json):
        return look_at(open_restorer(model, device, network, dac), inputs, tiling, as_json=json)

"""`hairify bake`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hairify.cli._common import DacOption, ModelArgument, TrustOption, open_restorer, say
from hairify.errors import OptionError
from hairify.restoring._settings import GuidanceSettings, TilingSettings


def run(
    model: ModelArgument,
    output: Annotated[Path, typer.Option(help="the file: .pth or .safetensors")],
    as_degradation: Annotated[
        str | None, typer.Option("--as", help="the degradation that the restorer knows; such as rain")
    ] = None,
    like: Annotated[Path | None, typer.Option(help="a photograph, for what is seen in it", metavar="IMAGE")] = None,
    strength: Annotated[float, typer.Option(help="how much of it is restored: 0 as for clean images, 1 all")] = 1.0,
    network: TrustOption = None,
    dac: DacOption = None,
) -> None:
    """Write the static network for one degradation, as a checkpoint of the original network.

    Programs that load this network, such as ComfyUI and chaiNNer, load the file as any other checkpoint of it: names
    are as its authors have them, and nothing in it is of hairify. It restores one degradation, whatever an image has.

    [dim]hairify bake run --as noise25 --output denoiser.pth
    hairify bake run --like photograph.jpg --output for_such.pth[/dim]
    """
    from hairify.cli._looking import guidance_by
    from hairify.model import HairModel
    from hairify.sharing import save_baked
    from hairify.sharing._baked import ENDINGS
    from hairify.sharing._single_files import check_path

    if (as_degradation is None) == (like is None):
        raise OptionError("Which degradation is baked? Give one of --as and --like.")
    check_path(output, ENDINGS)
    restorer = open_restorer(model, "cpu", network, dac)
    if not isinstance(restorer.model, HairModel):
        raise OptionError(f"{model} holds a static network already; there is nothing to bake.")
    settings = GuidanceSettings(strength=strength, as_degradation=as_degradation, like=like)
    guidance = guidance_by(settings, restorer, TilingSettings())
    guidance.check(restorer.model)
    seen = guidance.giv
    assert seen is not None
    static = restorer.model.bake(giv=guidance.applied(lambda: seen))
    save_baked(static, restorer.network.unconverted(), output)
    say((str(output), "bold"), f", {output.stat().st_size / 2**20:.1f} MiB: restores {as_degradation or f'as {like}'}.")

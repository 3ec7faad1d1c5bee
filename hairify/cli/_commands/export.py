"""`hairify export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hairify.cli._common import DacOption, ModelArgument, TrustOption, console, open_restorer, say
from hairify.errors import OptionError
from hairify.restoring._settings import TilingSettings

if TYPE_CHECKING:
    from torch import nn

    from hairify.sharing import Restorer


def run(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            help="the file: .onnx; .pt2 for a program of torch.export; .safetensors for programs with spandrel"
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="fixed size of the images; by default any", metavar="HEIGHTxWIDTH")
    ] = None,
    giv_input: Annotated[
        bool, typer.Option("--giv-input", help="let the GIV be a second input, as tiles of one image need it")
    ] = False,
    bake: Annotated[
        Path | None, typer.Option(help="a photograph: export the static network for its degradation", metavar="IMAGE")
    ] = None,
    network: TrustOption = None,
    dac: DacOption = None,
) -> None:
    """Write a restorer as one file: a program that runs without hairify, which is checked; or for spandrel.

    A .safetensors file is opened by programs that load networks by spandrel, once hairify is registered with it; one
    for programs without hairify is made by hairify bake.

    [dim]hairify export run --output restorer.onnx
    hairify export run --output static.onnx --bake photograph.jpg[/dim]
    """
    from hairify.data.images import read_rgb
    from hairify.model import HairModel
    from hairify.restoring import giv_of
    from hairify.sharing import export

    if bake is not None and giv_input:
        raise OptionError("--bake and --giv-input exclude each other: a baked network has no GIV.")
    restorer = open_restorer(model, "cpu", network, dac)
    if output.suffix.lower() == ".safetensors":
        _for_spandrel(restorer, output, size, giv_input, bake)
        return
    exported: nn.Module = restorer.model
    if bake is not None:
        if not isinstance(exported, HairModel):
            raise OptionError(f"--bake is given, but {model} holds a static network already; leave it out.")
        giv = giv_of(exported, read_rgb(bake)[None], TilingSettings(), restorer.multiple)
        exported = exported.bake(giv=giv)
    with console.status("exporting"):
        difference = export(exported, output, multiple=restorer.multiple, size=_size(size), giv_input=giv_input)
    checked = "not checked: onnxruntime is not installed" if difference is None else f"differs by {difference:.1e}"
    megabytes = output.stat().st_size / 2**20
    say((str(output), "bold"), f", {megabytes:.1f} MiB; from the model's own output it {checked}.")


def _for_spandrel(restorer: Restorer, output: Path, size: str | None, giv_input: bool, bake: Path | None) -> None:
    from hairify.sharing import save_file
    from hairify.sharing._baked import check_path

    for given, flag in ((size, "--size"), (giv_input, "--giv-input"), (bake, "--bake")):
        if given:
            raise OptionError(
                f"{flag} is given, but a .safetensors file holds the whole restorer; `hairify bake` bakes."
            )
    check_path(output)
    save_file(restorer, output)
    say((str(output), "bold"), f", {output.stat().st_size / 2**20:.1f} MiB; spandrel opens it beside hairify.")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)[x×](\d+)", text)):
        raise OptionError(f"--size is {text!r}; accepted is HEIGHTxWIDTH, such as 256x384.")
    return int(match[1]), int(match[2])

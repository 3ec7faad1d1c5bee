"""`hairify export`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hairify.cli._common import DacOption, ModelArgument, TrustOption, console, open_restorer, say
from hairify.errors import OptionError
from hairify.restoring._settings import TilingSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hairify.sharing import Restorer


Precision = Literal["float32", "float16", "int8"]  # `hairify.sharing.Precision`, which importing would bring PyTorch
_CHECKED = 256  # pixels, the longest side of what is compared of a photograph


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
    precision: Annotated[
        Precision, typer.Option("--dtype", help="numbers in an .onnx file; fewer bits take --check")
    ] = "float32",
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="photographs on which the file is compared with the model (may be given several times)", metavar="PATH"
        ),
    ] = None,
    network: TrustOption = None,
    dac: DacOption = None,
) -> None:
    """Write a restorer as one file: a program that runs without hairify, which is checked; or for spandrel.

    A .safetensors file is opened by programs that load networks by spandrel, once hairify is registered with it; one
    for programs without hairify is made by hairify bake.

    [dim]hairify export run --output restorer.onnx
    hairify export run --output static.onnx --bake photograph.jpg
    hairify export run --output small.onnx --bake photograph.jpg --dtype int8 --check holiday[/dim]
    """
    from hairify._support.files import replacing
    from hairify.data.images import read_rgb
    from hairify.model import HairModel
    from hairify.restoring import giv_of
    from hairify.sharing import check_export, check_precision, compare, compress, export

    if bake is not None and giv_input:
        raise OptionError("--bake and --giv-input exclude each other: a baked network has no GIV.")
    restorer = open_restorer(model, "cpu", network, dac)
    if output.suffix.lower() == ".safetensors":
        unused = {"--size": size, "--giv-input": giv_input, "--bake": bake, "--check": check}
        _for_spandrel(restorer, output, unused | {"--dtype": precision != "float32"})
        return
    exported: nn.Module = restorer.model
    if bake is not None:
        if not isinstance(exported, HairModel):
            raise OptionError(f"--bake is given, but {model} holds a static network already; leave it out.")
        giv = giv_of(exported, read_rgb(bake)[None], TilingSettings(), restorer.multiple)
        exported = exported.bake(giv=giv)
    images = _crops(check or [], restorer.multiple, _size(size))
    check_export(exported, output, restorer.multiple, _size(size), giv_input)
    check_precision(output, precision, images)
    with console.status("exporting") as status, replacing(output) as file:
        difference = export(exported, file, multiple=restorer.multiple, size=_size(size), giv_input=giv_input)
        if precision != "float32":
            status.update(f"converting to {precision}")
        compress(exported, file, precision, images, giv_input=giv_input)

        def on_image(done: int, of: int) -> None:
            status.update(f"comparing: {done} of {of} photographs")

        found = None
        if images:
            on_image(0, len(images))
            found = compare(exported, file, images, giv_input=giv_input, on_image=on_image)
    checked = "not checked: onnxruntime is not installed" if difference is None else f"differs by {difference:.1e}"
    megabytes = output.stat().st_size / 2**20
    say((str(output), "bold"), f", {megabytes:.1f} MiB; in float32, from the model's own output it {checked}.")
    if found is not None:
        say(
            f"On {len(images)} photographs, of which the middle was taken: {found.psnr:.1f} dB from the model's own "
            f"output ({found.lowest:.1f} at the least); {1000 * found.seconds:.0f} ms each, the model "
            f"{1000 * found.model_seconds:.0f} ms."
        )


def _for_spandrel(restorer: Restorer, output: Path, unused: Mapping[str, object]) -> None:
    from hairify.sharing import save_for_spandrel

    for flag, given in unused.items():
        if given:
            raise OptionError(f"{flag} is given, but a .safetensors file holds the whole restorer: see `hairify bake`.")
    save_for_spandrel(restorer, output)
    say((str(output), "bold"), f", {output.stat().st_size / 2**20:.1f} MiB; spandrel opens it beside hairify.")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)[x×](\d+)", text)):
        raise OptionError(f"--size is {text!r}; accepted is HEIGHTxWIDTH, such as 256x384.")
    return int(match[1]), int(match[2])


def _crops(inputs: Sequence[Path], multiple: int, size: tuple[int, int] | None) -> list[Tensor]:
    """The middles of photographs, of sizes that the file takes."""
    from hairify.data.images import find_images, read_rgb

    crops = []
    for path in (found for given in inputs for found in (find_images(given) if given.is_dir() else [given])):
        pixels = read_rgb(path)[None]
        sides = size or tuple(min(side, _CHECKED) // multiple * multiple for side in pixels.shape[2:])
        if any(have < need or not need for have, need in zip(pixels.shape[2:], sides, strict=True)):
            least = " × ".join(str(max(side, multiple)) for side in sides)
            raise OptionError(f"{path} is smaller than {least} pixels; leave it out of --check.")
        top, left = ((have - need) // 2 for have, need in zip(pixels.shape[2:], sides, strict=True))
        crops.append(pixels[:, :, top : top + sides[0], left : left + sides[1]].contiguous())
    if inputs and not crops:
        raise OptionError(f"--check is {', '.join(map(str, inputs))}, where there are no photographs.")
    return crops

"""Restorers as files that run without hairify: ONNX models and programs of `torch.export`."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.export
from torch import Tensor, nn
from torch.export import Dim

from hairify._support.files import replacing
from hairify._support.modes import evaluation_mode
from hairify.errors import ExportError, OptionError
from hairify.model import HairModel
from hairify.networks._running import apply, for_network, number_of_inputs, settle_output
from hairify.sharing._single_files import check_path

Format = Literal["onnx", "torch"]
ENDINGS: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch"}
"""Formats by the ending of the file."""

_LEAST_SIDE = 64  # of the example, in pixels
_LARGEST_DIFFERENCE = 1e-3  # relative; what rounding makes is a thousand times smaller


class _Images(nn.Module):
    """One input, one output, whatever the network takes and returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return apply(self.network, image)


class _Conditioned(nn.Module):
    """With the GIV as a second input, which tiles of one image need."""

    def __init__(self, hair: HairModel) -> None:
        super().__init__()
        self.hair = hair

    def forward(self, image: Tensor, giv: Tensor) -> Tensor:
        with self.hair.conditioned_on(giv):
            return apply(self.hair, image)


def export(
    model: nn.Module,
    path: Path,
    *,
    multiple: int,
    size: tuple[int, int] | None = None,
    giv_input: bool = False,
) -> float | None:
    """Export a restorer; the file's ending says as what.

    Args:
        model: images (B, 3, H, W) → images; a HairModel or a static network, such as a baked one.
        path: ".onnx", or ".pt2" for a program of `torch.export`.
        multiple: H and W are multiples of it.
        size: (H, W), fixed; None for any number of images and any multiples from the fourth on, from 16 pixels. (Maps
            of one pixel and the like, which smaller images may have, are special to exporters.)
        giv_input: of a HairModel, let the GIV (B, D) be a second input in place of the DAC.

    Returns:
        The largest difference from `model` on other images than the example, relative to the largest value; None where
        onnxruntime is not installed. Unless `size` is given, they are of many sizes, smaller and larger, wide, tall
        and square; a size that the network itself does not take is left out.

    Raises:
        OptionError: the ending is another, there is no such folder, the path is a folder or its name no UTF-8, `size`
            is no multiple, or `giv_input` is set without a HairModel.
        ExportError: the network cannot be run or the exporter cannot follow it; or what it makes does not run or
            computes something else, on a size that is named.
        ModuleNotFoundError: ONNX's packages are not installed.
        OSError: the file cannot be written, as on a full disk.
    """
    check_export(model, path, multiple, size, giv_input)
    with evaluation_mode(model), replacing(path) as file:
        whole = wrapped(model, giv_input)
        image = _example(model, multiple, size)
        with _named_failures(model, size):
            settle_output(model, image)
            _write(whole, inputs_of(model, image, giv_input), file, fixed=size is not None)
            run = runner(file)
        if run is None:
            return None
        others = [image.flip(1)] if size is not None else [image.flip(1), *_other_sizes(image, multiple)]
        with _named_failures(model, size):
            return max(_difference(model, whole, run, other, size, giv_input) for other in others)


def wrapped(model: nn.Module, giv_input: bool) -> nn.Module:
    """What is exported of a model: one image, or with its GIV, to one image."""
    return _Conditioned(model) if giv_input and isinstance(model, HairModel) else _Images(model)


@contextmanager
def _named_failures(model: nn.Module, size: tuple[int, int] | None) -> Iterator[None]:
    """Turn whatever exporters and runtimes stumble over into an `ExportError`."""
    try:
        yield
    except (ExportError, OSError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be exported for {_named(size)}: {_first_words(error)}. "
            f"{_way_out(model, size)}"
        ) from error


def _first_words(error: Exception) -> str:
    plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # exporters write for terminals, in colours
    return f"{type(error).__name__}: {' '.join(plain.split())[:500].removesuffix('.')}"


def _named(size: tuple[int, int] | None) -> str:
    return "images of any size" if size is None else f"images of {size[0]} × {size[1]} pixels"


def _way_out(model: nn.Module, size: tuple[int, int] | None) -> str:
    if any(parameter.dtype in (torch.float64, torch.bfloat16) for parameter in model.parameters()):
        return "Runtimes lack many operations in float64 and bfloat16: make the network float32 first (`.float()`)."
    baked = "baked network (`bake`) is an ordinary one."
    return f"A fixed `size` asks less of it, and a {baked}" if size is None else f"A {baked}"


def check_export(model: nn.Module, path: Path, multiple: int, size: tuple[int, int] | None, giv_input: bool) -> None:
    """Refuse what `export` cannot do, before anything is done.

    Raises:
        OptionError: see `export`.
    """
    check_path(path, ENDINGS)
    if size is not None and any(side < 1 or side % multiple for side in size):
        raise OptionError(
            f"`size` is {size}; accepted are multiples of {multiple}, such as {(multiple * 8, multiple * 12)}."
        )
    if giv_input and not isinstance(model, HairModel):
        raise OptionError(f"`giv_input` is set, but a {type(model).__name__} has no GIV.")


def _format(path: Path) -> Format:
    return ENDINGS[path.suffix.lower()]


def _example(model: nn.Module, multiple: int, size: tuple[int, int] | None) -> Tensor:
    """Images to export with: one of the fixed size, or two of a size that no exporter takes for a special one."""
    count = max(_LEAST_SIDE // multiple, 2) + 1  # odd, and two or more: to exporters, 1 is special
    shape = (2 if size is None else 1, 3, *(size or (count * multiple, (count + 2) * multiple)))
    return for_network(model, torch.rand(shape, generator=torch.Generator().manual_seed(0)))


def _other_sizes(example: Tensor, multiple: int) -> list[Tensor]:
    """Images of sizes on either side of the example's, on which a branch of the network on sizes would show.

    Tall and wide, square, even and odd multiples, small ones, and long sides at little cost: a window of a training
    size, as in test-time local converters, is seldom larger.
    """
    height, width = example.shape[2:]
    sizes = [(height - multiple, width - multiple)]
    smallest = max(16, 4 * multiple), max(24, 6 * multiple)
    for side, other in ((height, width), smallest, (64, 64), (32, 48), (128, 160), (256, 288), (40, 1024)):
        sizes += [(side, other), (other, side)]
    rounded = dict.fromkeys(tuple(max(side // multiple, 2) * multiple for side in one) for one in sizes)
    rounded.pop((height, width), None)
    generator = torch.Generator().manual_seed(1)
    # Of one image, of two and of three where they are small: the number is free, too.
    shapes = [(1 + i % 3 if h * w < 2**14 else 1, 3, h, w) for i, (h, w) in enumerate(rounded)]
    return [torch.rand(shape, generator=generator).to(example) for shape in shapes]


def _write(module: nn.Module, inputs: tuple[Tensor, ...], file: Path, *, fixed: bool) -> None:
    if _format(file) == "onnx":
        importlib.import_module("onnxscript")  # now, not after minutes of tracing
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporters' own, about their insides
        program = _program(module, inputs, fixed=fixed)
        if _format(file) == "onnx":
            torch.onnx.export(program, (), str(file), dynamo=True, external_data=False, verbose=False)
        else:
            torch.export.save(program, file)


def inputs_of(model: nn.Module, image: Tensor, giv_input: bool) -> tuple[Tensor, ...]:
    """What an exported file takes for an image: it, and its GIV where that is an input."""
    if not giv_input or not isinstance(model, HairModel):
        return (image,)
    with torch.no_grad():
        return image, model.giv(*[image] * number_of_inputs(model))


def _program(module: nn.Module, inputs: tuple[Tensor, ...], *, fixed: bool) -> torch.export.ExportedProgram:
    if fixed:
        return torch.export.export(module, inputs, strict=False)
    batch = Dim("batch", min=1)
    shapes = ({0: batch, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {0: batch})[: len(inputs)]
    return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


_Run: TypeAlias = Callable[[tuple[Tensor, ...]], Tensor]


def runner(path: Path) -> _Run | None:
    """What runs a file; None where onnxruntime is not installed."""
    if _format(path) == "torch":
        program = torch.export.load(path).module()
        return lambda inputs: program(*inputs)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        fed: dict[str, Any] = dict(zip(names, (tensor.cpu().numpy() for tensor in inputs), strict=True))
        return torch.from_numpy(session.run(None, fed)[0])

    return run


@torch.no_grad()
def _difference(
    model: nn.Module, wrapped: nn.Module, run: _Run, image: Tensor, size: tuple[int, int] | None, giv_input: bool
) -> float:
    """How far what the file computes is from what the module computes; 0 where the network takes no such size.

    Raises:
        ExportError: too far, or the file does not run.
    """
    count, _, height, width = image.shape
    try:
        inputs = inputs_of(model, image, giv_input)
        expected = wrapped(*inputs)
    except Exception:
        if size is None:  # such as one that is too small for it; the example's own is among those that are tried
            return 0.0
        raise
    shown = f"{count} image(s) of {height} × {width} pixels"
    try:
        got = run(inputs).to(expected)
        difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    except Exception as error:  # runtimes raise whatever they stumble over
        raise ExportError(
            f"What {type(model).__name__} was exported as does not run on {shown}, which the network takes: "
            f"{_first_words(error)}. {_way_out(model, size)} Nothing was written."
        ) from error
    if not difference <= _LARGEST_DIFFERENCE:  # also where it is no number
        branch = "a branch that depends on the image" + (" or its size" if size is None else "")
        raise ExportError(
            f"What {type(model).__name__} was exported as computes something else: on {shown} it differs by "
            f"{difference:.1e} of the largest value, {_LARGEST_DIFFERENCE:g} being the most that is accepted. Is "
            f"there chance in the network, or {branch}? {_way_out(model, size)} Nothing was written."
        )
    return difference

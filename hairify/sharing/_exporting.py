"""Restorers as files that run without hairify: ONNX models and programs of `torch.export`."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torch.export
from torch import Tensor, nn
from torch.export import Dim

from hairify._support.files import replacing
from hairify._support.modes import evaluation_mode
from hairify.errors import ExportError, HairError, OptionError
from hairify.model import HairModel
from hairify.networks._running import apply, number_of_inputs, settle_output

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
        size: (H, W), fixed; None for any number of images and any multiples.
        giv_input: of a HairModel, let the GIV (B, D) be a second input in place of the DAC.

    Returns:
        The largest difference from `model` on another image than the example, of another size unless `size` is given,
        relative to the largest value; None where onnxruntime is not installed.

    Raises:
        OptionError: the ending is another, there is no such folder, `size` is no multiple, or `giv_input` is set
            without a HairModel.
        ExportError: the exporter cannot follow the network, or what it makes computes something else.
        ModuleNotFoundError: ONNX's packages are not installed.
        OSError: the file cannot be written, as on a full disk.
    """
    _check(model, path, multiple, size, giv_input)
    image = _example(model, multiple, size)
    with evaluation_mode(model), replacing(path) as file:
        settle_output(model, image)
        wrapped = _Conditioned(model) if giv_input and isinstance(model, HairModel) else _Images(model)
        try:
            _write(wrapped, _inputs(model, image, giv_input), file, fixed=size is not None)
        except (HairError, OSError, ModuleNotFoundError):
            raise
        except Exception as error:  # exporters raise whatever they stumble over
            raise ExportError(
                f"PyTorch cannot export {type(model).__name__} with "
                f"{'any size' if size is None else f'size {size}'}: {type(error).__name__}: {str(error)[:500]}. "
                "A fixed `size` asks less of it, and a baked network is an ordinary one (`bake`)."
            ) from error
        height, width = image.shape[2:]
        other = image.flip(1) if size is not None else image[:1, :, : height - multiple, : width - multiple]
        difference = _difference(file, wrapped, _inputs(model, other, giv_input))
        if difference is not None and not difference <= _LARGEST_DIFFERENCE:  # also where it is no number
            raise ExportError(
                f"What {type(model).__name__} was exported as computes something else: it differs by {difference:.1e} "
                f"of the largest value, {_LARGEST_DIFFERENCE:g} being the most that is accepted. Is there chance in "
                "the network, or a branch that depends on the image? Nothing was written."
            )
    return difference


def _check(model: nn.Module, path: Path, multiple: int, size: tuple[int, int] | None, giv_input: bool) -> None:
    if path.suffix not in ENDINGS:
        raise OptionError(f"The file is {path}; accepted are the endings {', '.join(ENDINGS)}.")
    if not path.parent.is_dir():
        raise OptionError(f"The file is {path}, but there is no folder {path.parent}; make it first.")
    if size is not None and any(side < 1 or side % multiple for side in size):
        raise OptionError(
            f"`size` is {size}; accepted are multiples of {multiple}, such as {(multiple * 8, multiple * 12)}."
        )
    if giv_input and not isinstance(model, HairModel):
        raise OptionError(f"`giv_input` is set, but a {type(model).__name__} has no GIV.")


def _example(model: nn.Module, multiple: int, size: tuple[int, int] | None) -> Tensor:
    """Images to export with: one of the fixed size, or two of a size that no exporter takes for a special one."""
    count = max(_LEAST_SIDE // multiple, 2) + 1  # one multiple less is two or more: to exporters, 1 is special
    shape = (2 if size is None else 1, 3, *(size or (count * multiple, (count + 2) * multiple)))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(next(model.parameters(), torch.empty(0)))


def _write(module: nn.Module, inputs: tuple[Tensor, ...], file: Path, *, fixed: bool) -> None:
    if ENDINGS[file.suffix] == "onnx":
        importlib.import_module("onnxscript")  # now, not after minutes of tracing
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporters' own, about their insides
        program = _program(module, inputs, fixed=fixed)
        if ENDINGS[file.suffix] == "onnx":
            torch.onnx.export(program, (), str(file), dynamo=True, external_data=False, verbose=False)
        else:
            torch.export.save(program, file)


def _inputs(model: nn.Module, image: Tensor, giv_input: bool) -> tuple[Tensor, ...]:
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


@torch.no_grad()
def _difference(path: Path, module: nn.Module, inputs: tuple[Tensor, ...]) -> float | None:
    """How far what the file computes is from what the module computes."""
    expected = module(*inputs)
    if ENDINGS[path.suffix] == "torch":
        got = torch.export.load(path).module()(*inputs)
    else:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            return None
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        fed: dict[str, Any] = dict(zip(names, (tensor.cpu().numpy() for tensor in inputs), strict=True))
        got = torch.from_numpy(session.run(None, fed)[0]).to(expected)
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12))

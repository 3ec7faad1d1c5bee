"""ONNX files in fewer bits, by onnxruntime's own tools, and what that costs on the user's pictures."""

from __future__ import annotations

import contextlib
import importlib
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hairify._support.files import replacing
from hairify._support.modes import evaluation_mode
from hairify.errors import ExportError, OptionError
from hairify.networks._running import for_network
from hairify.sharing._exporting import inputs_of, runner, wrapped

Precision = Literal["float32", "float16", "int8"]

_WITH_WEIGHTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_RUNS = 5  # of each image, of which the median counts


def check_precision(path: Path, precision: Precision, images: Sequence[Tensor]) -> None:
    """Refuse what `compress` cannot do, before minutes of exporting.

    Raises:
        OptionError: the file is no .onnx, or there are no images by which to find the loss, and the ranges of int8.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    if precision != "float32" and path.suffix.lower() != ".onnx":
        raise OptionError(f"`dtype` is {precision}, and the file {path}; only .onnx files can be in fewer bits.")
    if precision != "float32" and not images:
        raise OptionError(f"`dtype` is {precision}; give photographs by which its loss is found, `check`.")
    if images:
        importlib.import_module("onnxruntime")  # now, not after minutes of exporting


def compress(model: nn.Module, path: Path, precision: Precision, images: Sequence[Tensor], *, giv_input: bool) -> None:
    """Change an exported ONNX file to fewer bits, in place.

    float16 halves weights and computations, and takes and gives float32 images. int8 quantises convolutions: weights
    for each channel, activations by their ranges on some images; those whose weights are made for each image, and so
    are no constants of the file, stay in float32 there.

    Args:
        model: of which the file is.
        path: the .onnx file.
        precision: float32 leaves it as it is.
        images: (1, 3, H, W) in [0, 1] each, of sizes that the network takes, such as it will be given: int8's ranges
            are found by them.
        giv_input: whether the file takes the GIV as a second input.

    Raises:
        OptionError: see `check_precision`.
        ExportError: onnxruntime's tools cannot follow the network.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    check_precision(path, precision, images)
    if precision == "float32":
        return
    try:
        with replacing(path) as file, _quiet():
            if precision == "float16":
                _to_float16(path, file)
            else:
                _to_int8(path, file, _fed(model, images, giv_input))
    except (ModuleNotFoundError, OSError):
        raise
    except Exception as error:  # whatever these tools stumble over
        raise ExportError(
            f"The network cannot be had in {precision}: {type(error).__name__}: {str(error)[:300]}. A baked network "
            "(`bake`) is an ordinary one."
        ) from error


@dataclass(frozen=True)
class Comparison:
    """A file beside the model of which it was exported, on some images.

    Attributes:
        psnr: of the file's outputs against the model's, in dB, the mean over images; infinite where they are equal.
        lowest: of a single image.
        seconds: that the file takes for an image, by onnxruntime on the CPU; the mean over images of medians.
        model_seconds: that the model takes.
    """

    psnr: float
    lowest: float
    seconds: float
    model_seconds: float


@torch.no_grad()
def compare(
    model: nn.Module,
    path: Path,
    images: Sequence[Tensor],
    *,
    giv_input: bool,
    on_image: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare a file with its model, on images as they will be restored.

    Args:
        model: as it was exported.
        path: the file.
        images: (1, 3, H, W) in [0, 1] each, of sizes that the network takes.
        giv_input: whether the file takes the GIV as a second input.
        on_image: is told how many images are done, and of how many.

    Raises:
        OptionError: there are no images.
        ExportError: the file makes numbers that are not finite.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    run = runner(path)
    if run is None:
        raise ModuleNotFoundError("Comparing needs onnxruntime: pip install 'hairify[export]'", name="onnxruntime")
    if not images:
        raise OptionError("There are no images to compare on; give some, `images`.")
    psnrs, of_file, of_model = [], [], []
    with evaluation_mode(model):
        whole = wrapped(model, giv_input)
        for done, image in enumerate(images, 1):
            inputs = inputs_of(model, for_network(model, image), giv_input)
            expected, seconds = _timed(lambda inputs=inputs: whole(*inputs))  # type: ignore[misc]
            got, of_it = _timed(lambda inputs=inputs: run(inputs))  # type: ignore[misc]
            error = (got.double() - expected.cpu().double()).square().mean()
            if not got.isfinite().all():
                raise ExportError("The file makes numbers that are not finite, as the network's own in so few bits.")
            psnrs.append(float(-10 * torch.log10(error)))
            of_file.append(of_it)
            of_model.append(seconds)
            if on_image is not None:
                on_image(done, len(images))
    return Comparison(statistics.fmean(psnrs), min(psnrs), statistics.fmean(of_file), statistics.fmean(of_model))


def _timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    result, taken = run(), []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return result, statistics.median(taken)


def _to_float16(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    model.topological_sort()  # casts were put at the end
    onnx.save(model.model, target)


def _to_int8(source: Path, target: Path, images: Sequence[tuple[Tensor, ...]]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    graph = onnx.load(source).graph
    names = [one.name for one in graph.input]
    constants = {one.name for one in graph.initializer}

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            tensors = next(self._left, None)
            return None if tensors is None else dict(zip(names, (t.cpu().numpy() for t in tensors), strict=True))

    quantize_static(
        str(source),
        str(target),
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[n.name for n in graph.node if n.op_type in _WITH_WEIGHTS and n.input[1] not in constants],
    )


@torch.no_grad()
def _fed(model: nn.Module, images: Sequence[Tensor], giv_input: bool) -> list[tuple[Tensor, ...]]:
    with evaluation_mode(model):
        return [inputs_of(model, for_network(model, image), giv_input) for image in images]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the tools do not advise to run others of theirs first."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

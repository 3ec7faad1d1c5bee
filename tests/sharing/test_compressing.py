"""ONNX files in fewer bits, and their comparison with the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from util import perturb

from hairify import HairModel, hairify
from hairify.cli import main
from hairify.data._image import Image
from hairify.data.images import write
from hairify.errors import ExportError, OptionError
from hairify.models import unet
from hairify.networks import Network
from hairify.sharing import Precision, Restorer, compare, compress, export, save_pretrained

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own


def images() -> list[Tensor]:
    """Smooth ones: of noise, which no photograph is, int8 keeps less."""
    small = torch.rand(3, 3, 6, 8)
    return [*nn.functional.interpolate(small, (48, 64), mode="bicubic").clamp(0, 1).split(1)]


def hair() -> HairModel:
    return perturb(hairify(unet(width=8)).calibrate(torch.rand(8, 3, 32, 32)), 0.05).eval()


def run(path: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    fed: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, fed)[0])


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).double().square().mean()))


def exported(kind: str, path: Path) -> tuple[nn.Module, bool]:
    made, giv_input = hair(), kind == "with its GIV"
    model = made.bake(images()[0]) if kind == "baked" else made
    export(model, path, multiple=4, giv_input=giv_input)
    return model, giv_input


@pytest.mark.slow  # exporting itself
@pytest.mark.parametrize("kind", ["baked", "whole", "with its GIV"])
@torch.no_grad()
def test_fewer_bits_are_fewer_and_close(kind: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    model, giv_input = exported(kind, plain)
    photographs, sizes, losses = images(), dict[str, int](), dict[str, float]()
    precisions: tuple[Precision, ...] = ("float32", "float16", "int8")
    for precision in precisions:
        path = tmp_path / f"{precision}.onnx"
        path.write_bytes(plain.read_bytes())
        compress(model, path, precision, photographs, giv_input=giv_input)
        onnx.checker.check_model(str(path))
        sizes[precision] = path.stat().st_size
        told = Mock()
        found = compare(model, path, photographs, giv_input=giv_input, on_image=told)
        assert told.mock_calls == [call(number, len(photographs)) for number in range(1, len(photographs) + 1)]
        own = []
        for image in photographs:  # by another way than `compare` goes
            inputs = (image, model.giv(image)) if giv_input and isinstance(model, HairModel) else (image,)
            own.append(psnr(run(path, *inputs), model(image)))
        assert found.psnr == pytest.approx(np.mean(own), abs=1.0)
        assert found.lowest == pytest.approx(min(own), abs=1.0)
        assert found.seconds > 0
        assert found.model_seconds > 0
        losses[precision] = min(own)
    assert sizes["float16"] < (0.7 if kind == "baked" else 0.9) * sizes["float32"]  # the graph itself takes its room
    assert sizes["int8"] < sizes["float32"]
    assert losses["float32"] > 100
    assert 50 < losses["float16"] < 100
    assert losses["int8"] > 30
    graph = onnx.load(tmp_path / "int8.onnx").graph
    assert any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_what_cannot_be_made_smaller_is_said_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plain.onnx"
    model, _ = exported("baked", path)
    before = path.read_bytes()
    for precision in ("float16", "int8"):
        with pytest.raises(OptionError, match=precision):
            compress(model, path, precision, [], giv_input=False)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"\.pt2"):
        compress(model, tmp_path / "x.pt2", "float16", images(), giv_input=False)
    with pytest.raises(OptionError, match="no images"):
        compare(model, path, [], giv_input=False)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("hairify.sharing._compressing._to_float16", fails)
    with pytest.raises(ExportError, match="no such operation"):
        compress(model, path, "float16", images(), giv_input=False)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    for number, image in enumerate(images()):
        write(Image(pixels=(image[0] * 255).round() / 255), tmp_path / "photographs" / f"{number}.png")
    save_pretrained(Restorer(hair(), Network("unet", {"width": 8}), 4), tmp_path / "run")
    words = ["export", "run", "--output", "small.onnx", "--bake", "photographs/0.png", "--dtype", "int8"]
    (tmp_path / "small.onnx").write_text("before")
    assert main(words) == 2
    assert (tmp_path / "small.onnx").read_text() == "before"
    assert "--check" in capsys.readouterr().err
    assert main([*words, "--check", "photographs"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "On 3 photographs" in printed
    told = float(printed.partition("middle was taken: ")[2].split()[0])
    assert 30 < told < math.inf
    assert main([*words, "--check", "photographs", "--size", "64x64"]) == 2
    assert "smaller than 64 × 64" in " ".join(capsys.readouterr().err.split())

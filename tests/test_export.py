"""Exported and compiled, a converted network computes what it computes eagerly, at any batch and size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn
from torch.export import Dim
from util import assert_close, perturb

from hairify import HairModel, hairify

ANY = {0: Dim("batch", min=1), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
SIZES = [(1, 64, 64), (3, 96, 64), (2, 64, 96), (1, 128, 96)]


class Pooled(nn.Module):
    """A DAC that compiles quickly."""

    def __init__(self, channels: int, giv_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, giv_dim)

    def forward(self, feature: Tensor) -> Tensor:
        return self.linear(feature.mean((2, 3)))


class Conditioned(nn.Module):
    """With the GIV as an input: what tiles of one image need."""

    def __init__(self, hair: HairModel) -> None:
        super().__init__()
        self.hair = hair

    def forward(self, image: Tensor, giv: Tensor) -> Tensor:
        with self.hair.conditioned_on(giv):
            return self.hair(image)


def converted(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> HairModel:
    return perturb(hairify(NETWORKS[name]().to(dtype).eval(), **options))


def images(batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(batch, 3, height, width, dtype=dtype)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["unet", "transposed", "nafnet", "dncnn"])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_torch_export(name: str, strict: bool) -> None:
    hair = converted(name)
    program = torch.export.export(hair, (images(2, 64, 96),), dynamic_shapes=((ANY,),), strict=strict)
    for size in SIZES:
        x = images(*size)
        with torch.no_grad():
            assert_close(program.module()(x), hair(x), 1e-12)


def run(file: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))[0])


@pytest.mark.parametrize("name", ["unet", "transposed"])
def test_onnx(name: str, tmp_path: Path) -> None:
    hair, file = converted(name, torch.float32), tmp_path / "hair.onnx"
    torch.onnx.export(
        hair, (images(2, 64, 96, torch.float32),), file, dynamo=True, dynamic_shapes=((ANY,),), verbose=False
    )
    for size in SIZES:
        x = images(*size, torch.float32)
        with torch.no_grad():
            assert_close(run(file, x), hair(x), 1e-5)


def test_onnx_with_the_giv_as_an_input(tmp_path: Path) -> None:
    hair, file = converted("unet", torch.float32), tmp_path / "hair.onnx"
    batch = Dim("batch", min=1)
    x, giv = images(2, 64, 96, torch.float32), torch.randn(2, 64)
    shapes = {"image": {**ANY, 0: batch}, "giv": {0: batch}}
    torch.onnx.export(Conditioned(hair), (x, giv), file, dynamo=True, dynamic_shapes=shapes, verbose=False)
    for size in SIZES:
        x, giv = images(*size, torch.float32), torch.randn(size[0], 64)
        with torch.no_grad(), hair.conditioned_on(giv):
            assert_close(run(file, x, giv), hair(x), 1e-5)


def test_onnx_of_a_baked_network(tmp_path: Path) -> None:
    hair, file = converted("unet", torch.float32), tmp_path / "static.onnx"
    x = images(1, 64, 96, torch.float32)
    static = hair.bake(x)
    torch.onnx.export(static, (x.expand(2, -1, -1, -1),), file, dynamo=True, dynamic_shapes=(ANY,), verbose=False)
    with torch.no_grad():
        assert_close(run(file, x), hair(x), 1e-5)


def check_compiled(compiled: Callable[..., Tensor], hair: HairModel, x: Tensor) -> None:
    """Outputs and all gradients."""
    found = []
    for call in (compiled, hair):
        hair.zero_grad()
        output = call(x)
        output.square().mean().backward()
        found.append((output.detach(), {n: p.grad for n, p in hair.named_parameters() if p.grad is not None}))
    (got, gradients), (expected, wanted) = found
    assert_close(got, expected, 1e-12)
    assert gradients.keys() == wanted.keys()
    largest = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-12 * largest, name


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["unet", "transposed"])
def test_compiled_without_code_generation(name: str, dynamic: bool) -> None:
    hair = converted(name, dac=Pooled)
    torch._dynamo.reset()
    compiled = torch.compile(hair, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in SIZES[1:3] if dynamic else SIZES[2:3]:
        check_compiled(compiled, hair, images(*size))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["unet", "transposed"])
def test_compiled(name: str, dynamic: bool) -> None:
    hair = converted(name, dac=Pooled)
    torch._dynamo.reset()
    compiled = torch.compile(hair, fullgraph=True, dynamic=dynamic)
    for batch in (2, 3, 4) if dynamic else (2,):
        check_compiled(compiled, hair, images(batch, 32, 48))


@pytest.mark.slow
def test_the_built_in_dac_compiles() -> None:
    hair = converted("dncnn")
    torch._dynamo.reset()
    check_compiled(torch.compile(hair, fullgraph=True, dynamic=True), hair, images(2, 32, 48))

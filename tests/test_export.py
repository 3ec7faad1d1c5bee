"""Exported and compiled, a converted network computes what it computes eagerly, at any batch and size."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from networks import NETWORKS, Pooled, UNet
from token_networks import ANY_SIZE, Where
from torch import Tensor, nn
from torch.export import Dim
from util import Conditioned, assert_close, perturb

from hairify import HairModel, hairify
from hairify.errors import ExportError

slow = pytest.mark.slow
ANY = {0: Dim("batch", min=1), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
SIZES = [(1, 64, 64), (3, 96, 64), (2, 64, 96), (1, 128, 96)]


def converted(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> HairModel:
    return perturb(hairify(NETWORKS[name]().to(dtype).eval(), **options))


def images(batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(batch, 3, height, width, dtype=dtype)


@slow
@pytest.mark.parametrize(
    ("name", "box", "strict"),
    [
        *(("transposed", "full", strict) for strict in (False, True)),
        *(("unet", "low_rank", strict) for strict in (False, True)),
        ("window", "full", True),
        ("nafnet", "full", False),
        ("restormer", "full", False),
    ],
)
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_torch_export(name: str, box: str, strict: bool) -> None:
    hair = converted(name, box=box)
    program = torch.export.export(hair, (images(2, 64, 96),), dynamic_shapes=(ANY,), strict=strict)
    exported = program.module()
    for size in SIZES:
        x = images(*size)
        with torch.no_grad():
            assert_close(exported(x), hair(x), 1e-12)


class Scaled(nn.Module):
    """Names, a default, and any number of masks."""

    def __init__(self) -> None:
        super().__init__()
        self.network = NETWORKS["dncnn"]()

    def forward(self, degraded: Tensor, *masks: Tensor, scale: float = 1.0) -> Tensor:
        result: Tensor = self.network(degraded) * scale
        for mask in masks:
            result = result * mask
        return result


def inputs_of(module: nn.Module, *args: Any, **options: Any) -> list[str]:
    signature = torch.export.export(module, *args, **options).graph_signature
    return list(signature.user_inputs)


@slow
@pytest.mark.parametrize(
    ("args", "kwargs", "shapes"),
    [
        (1, {}, ({},)),
        (1, {}, {"degraded": {}}),
        (0, {"degraded": True}, {"degraded": {}}),
        (2, {}, ({}, ({},))),
        (3, {"scale": 2.0}, {"degraded": {}, "masks": ({}, {}), "scale": None}),
    ],
)
def test_the_exporter_takes_what_it_takes_for_the_original(args: int, kwargs: dict[str, Any], shapes: Any) -> None:
    network = Scaled().double().eval()
    hair, x = perturb(hairify(network, dac=Pooled)), images(2, 64, 96)
    given = (x, *(x.mean(1, keepdim=True) for _ in range(args - 1)))[:args]
    kwargs = {name: x if value is True else value for name, value in kwargs.items()}
    shapes = torch.utils._pytree.tree_map_only(dict, lambda _: ANY, shapes, is_leaf=lambda s: s == {})
    assert inspect.signature(hair) == inspect.signature(hair.forward) == inspect.signature(network.forward)
    wanted = inputs_of(network, given, kwargs, dynamic_shapes=shapes)
    program = torch.export.export(hair, given, kwargs, dynamic_shapes=shapes)
    assert [*program.graph_signature.user_inputs] == wanted
    with torch.no_grad():
        assert_close(program.module()(*given, **kwargs), hair(*given, **kwargs), 1e-12)


def test_signatures_follow_copies_and_what_stands_in_place_of_a_forward() -> None:
    hair = converted("dncnn", dac=Pooled)
    for other in (copy.deepcopy(hair), pickle.loads(pickle.dumps(hair))):
        assert str(inspect.signature(other)) == str(inspect.signature(hair.base.forward))
    hair.base.forward = functools.partial(hair.base.forward)
    assert str(inspect.signature(hair.forward)) == str(inspect.signature(hair.base.forward))


@slow
@pytest.mark.parametrize(
    ("box", "gradients", "dynamic"),
    [("full", False, True), ("full", True, False), ("low_rank", False, False), ("low_rank", True, True)],
)
def test_dtypes_under_autocast_are_those_of_the_original(box: str, gradients: bool, dynamic: bool) -> None:
    """The bias, which is of full precision, lifts no output; the last layer shows it."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(3)),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.Conv2d(8, 3, 1),
        nn.Conv2d(3, 3, 3, padding=1),
    ).eval()
    torch._dynamo.reset()
    hair = perturb(hairify(network, dac=Pooled, box=box))
    compiled = torch.compile(hair, backend="aot_eager", dynamic=dynamic)
    x = images(2, 32, 48, torch.float32)
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
        seen = {call(x).dtype for call in (network, hair, compiled)}
    assert seen == {torch.bfloat16}


def run(file: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))[0])


@slow  # test_exporting exports a small one with every run, and docs/how-to/export.md a Restormer
@pytest.mark.parametrize(("name", "box"), [("unet", "low_rank"), ("window", "full"), ("transposed", "full")])
def test_onnx(name: str, box: str, tmp_path: Path) -> None:
    hair, file = converted(name, torch.float32, box=box), tmp_path / "hair.onnx"
    torch.onnx.export(
        hair, (images(2, 64, 96, torch.float32),), file, dynamo=True, dynamic_shapes=(ANY,), verbose=False
    )
    exact = copy.deepcopy(hair).double()
    for size in SIZES:
        x = images(*size, torch.float32)
        with torch.no_grad():
            expected, truth = hair(x), exact(x.double())
        # Some networks magnify rounding, whoever computes them; the two may differ by some times what that makes.
        rounding = float((expected - truth).abs().max() / truth.abs().max())
        assert rounding < 1e-4
        assert_close(run(file, x), expected, max(1e-5, 4 * rounding))


@slow
@pytest.mark.parametrize("name", ["patches by functions, padded", "windows", "padded later", "merged"])
def test_onnx_of_networks_that_pad_to_whole_tokens(name: str, tmp_path: Path) -> None:
    network = ANY_SIZE[name]().eval()
    hair, file = perturb(hairify(network, split_at="blocks.1", dac=Where)), tmp_path / "hair.onnx"
    example = (images(2, 27, 44, torch.float32),)
    torch.onnx.export(hair, example, file, dynamo=True, dynamic_shapes=(ANY,), verbose=False)
    for size in itertools.product(range(17, 35, 3), range(18, 46, 4)):
        x = images(1, *size, torch.float32)
        with torch.no_grad():
            assert_close(run(file, x), hair(x), 1e-5)


@slow
def test_onnx_with_the_giv_as_an_input(tmp_path: Path) -> None:
    hair, file = converted("unet", torch.float32), tmp_path / "hair.onnx"
    batch = Dim("batch", min=1)
    x, giv = images(2, 64, 96, torch.float32), torch.randn(2, hair.plan.giv_dim)
    shapes = {"image": {**ANY, 0: batch}, "giv": {0: batch}}
    torch.onnx.export(Conditioned(hair), (x, giv), file, dynamo=True, dynamic_shapes=shapes, verbose=False)
    for size in SIZES:
        x, giv = images(*size, torch.float32), torch.randn(size[0], hair.plan.giv_dim)
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


# Sides and batches that differ from each other and from the channels, or a compiler takes them for the same number.
COMPILED = [(2, 32, 48), (4, 64, 80), (5, 48, 96)]


def check_compiles(hair: HairModel, backend: str, dynamic: bool, once: bool = False) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(hair, backend=backend, fullgraph=True, dynamic=dynamic)
    with torch._dynamo.config.patch(error_on_recompile=once):
        for size in (COMPILED if once else COMPILED[:2]) if dynamic else COMPILED[:1] * 2:
            check_compiled(compiled, hair, images(*size))


@slow
@pytest.mark.parametrize(
    ("name", "box", "dynamic"),
    [
        ("transposed", "full", True),
        ("window", "low_rank", False),
        ("unet", "full", True),
    ],
)
def test_compiled_without_code_generation(name: str, box: str, dynamic: bool) -> None:
    check_compiles(converted(name, dac=Pooled, box=box), "aot_eager", dynamic, once=True)


@pytest.mark.parametrize("count", [1, 2])
def test_conditioned_within_what_is_compiled(count: int) -> None:
    """In evaluation, where the weights of a single GIV would be kept, and in training."""
    hair = converted("transposed", dac=Pooled)
    x, giv = images(*COMPILED[0]), torch.randn(count, hair.plan.giv_dim, dtype=torch.float64)
    compiled = torch.compile(Conditioned(hair), backend="aot_eager", fullgraph=True, dynamic=False)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            got = compiled(x, giv)
            with hair.conditioned_on(giv):
                assert_close(got, hair(x), 1e-12)


@slow
@pytest.mark.parametrize(
    ("name", "box", "dynamic"),
    [
        ("unet", "full", False),
        ("transposed", "full", True),
        ("window", "low_rank", False),  # with dynamic sizes Inductor fails on the original, too (PyTorch 2.13)
    ],
)
def test_compiled(name: str, box: str, dynamic: bool) -> None:
    # Not `once`: Inductor compares the layouts of maps, of the original network too, and compiles anew for some sizes.
    check_compiles(converted(name, dac=Pooled, box=box), "inductor", dynamic)


@slow
def test_the_built_in_dac_compiles() -> None:
    check_compiles(converted("dncnn"), "inductor", dynamic=True)


TORCHSCRIPT: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "traced": lambda model, x: torch.jit.trace(model, x),
    "traced by its forward": lambda model, x: torch.jit.trace(model.forward, x),
    "scripted": lambda model, x: torch.jit.script(model),
    "onnx of old": lambda model, x: torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("way", TORCHSCRIPT)
def test_torchscript_is_refused_by_name(way: str, held: bool) -> None:
    hair, x = hairify(UNet().eval()), torch.rand(1, 3, 32, 48)
    with pytest.raises(ExportError, match=r"HairModel \(of UNet\) cannot become TorchScript"):
        TORCHSCRIPT[way](nn.Sequential(hair) if held else hair, x)
    baked = hair.bake(x)
    assert torch.allclose(torch.jit.trace(baked, x)(x), baked(x), atol=1e-6)

"""The modulated deformable convolution against its definition."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from util import assert_close, assert_differs

from hairify.models import _deformable as deformable
from hairify.models._deformable import modulated_deform_conv2d

SIZES = [(5, 7), (1, 6), (6, 1), (1, 1)]  # not square, and one pixel high or wide


def example(
    size: tuple[int, int] = (5, 7), k: int = 3, batch: int = 2, dtype: torch.dtype = torch.float64, spread: float = 2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, offset, mask and weight; offsets about `spread` pixels long."""
    x, weight = torch.randn(batch, 3, *size), torch.randn(4, 3, k, k)
    offset, mask = spread * torch.randn(batch, 2 * k * k, *size), torch.rand(batch, k * k, *size)
    return x.to(dtype), offset.to(dtype), mask.to(dtype), weight.to(dtype)


def pixel(image: Tensor, row: int, column: int) -> Tensor:
    """All channels of (C, H, W) at a place; zero outside."""
    inside = 0 <= row < image.shape[1] and 0 <= column < image.shape[2]
    return image[:, row, column] if inside else torch.zeros_like(image[:, 0, 0])


def interpolated(image: Tensor, row: float, column: float) -> Tensor:
    """Between the four pixels around a place, bilinearly."""
    top, left = math.floor(row), math.floor(column)
    down, right = row - top, column - left
    return (
        (1 - down) * (1 - right) * pixel(image, top, left)
        + (1 - down) * right * pixel(image, top, left + 1)
        + down * (1 - right) * pixel(image, top + 1, left)
        + down * right * pixel(image, top + 1, left + 1)
    )


def by_definition(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    out, _, k, _ = weight.shape
    result = torch.zeros(batch, out, height, width, dtype=x.dtype)
    for b, row, column, tap in np.ndindex(batch, height, width, k * k):
        down, right = offset[b, 2 * tap : 2 * tap + 2, row, column].tolist()
        value = interpolated(x[b], row + tap // k - k // 2 + down, column + tap % k - k // 2 + right)
        result[b, :, row, column] += weight[:, :, tap // k, tap % k] @ (mask[b, tap, row, column] * value)
    return result


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_its_definition(size: tuple[int, int], k: int) -> None:
    values = example(size, k)
    assert_close(modulated_deform_conv2d(*values), by_definition(*values), 1e-12)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("spread", [0.3, 4, 1e3, 1e12])
def test_offsets_near_far_and_exactly_on_pixels(spread: float, whole: bool) -> None:
    x, offset, mask, weight = example(spread=spread)
    offset[:, :, 2] = 0  # one row reads where it stands, so that the result is not zero
    offset = offset.round() if whole else offset
    assert_close(modulated_deform_conv2d(x, offset, mask, weight), by_definition(x, offset, mask, weight), 1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_without_offsets_and_mask_it_is_a_convolution(k: int) -> None:
    x, offset, mask, weight = example(k=k)
    got = modulated_deform_conv2d(x, 0 * offset, torch.ones_like(mask), weight)
    assert_close(got, F.conv2d(x, weight, padding=k // 2), 1e-12)


@pytest.mark.parametrize(("size", "k"), [((3, 4), 3), ((1, 3), 3), ((3, 2), 1)])
def test_gradients_of_all_arguments(size: tuple[int, int], k: int) -> None:
    # Exactly on pixels the interpolation has a kink; random offsets are off them.
    values = [value.requires_grad_() for value in example(size, k, spread=0.7)]
    assert torch.autograd.gradcheck(modulated_deform_conv2d, values)


def test_batches_are_their_images() -> None:
    x, offset, mask, weight = example(batch=3)
    alone = [modulated_deform_conv2d(x[i : i + 1], offset[i : i + 1], mask[i : i + 1], weight) for i in range(3)]
    assert_close(modulated_deform_conv2d(x, offset, mask, weight), torch.cat(alone), 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_positions_keep_their_precision_in_narrow_types(dtype: torch.dtype, tolerance: float) -> None:
    # bfloat16 has no number between 256 and 258, so positions in it would miss the pixels by one.
    values = [value.to(dtype) for value in example((2, 300))]
    got = modulated_deform_conv2d(*values)
    assert got.dtype == dtype
    assert_close(got.double(), modulated_deform_conv2d(*(value.double() for value in values)), tolerance)


def test_a_meta_tensor_gives_its_shape() -> None:
    got = modulated_deform_conv2d(*(value.to("meta") for value in example()))
    assert got.is_meta
    assert got.shape == (2, 4, 5, 7)


class Deformed(nn.Module):
    """The operation as a module, for what follows modules."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return modulated_deform_conv2d(x, offset, mask, self.weight)


def inputs(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor, Tensor]:
    return example(size, batch=batch, dtype=torch.float32)[:3]


def dynamic_shapes() -> list[dict[int, object]]:
    shape = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    return [shape, shape, shape]


@pytest.mark.parametrize("strict", [False, True])
def test_it_exports_with_dynamic_sizes(strict: bool) -> None:
    model = Deformed().eval()
    shapes = tuple(dynamic_shapes())
    program = torch.export.export(model, inputs((5, 7), 2), dynamic_shapes=shapes, strict=strict).module()
    for size, batch in [((5, 7), 2), ((8, 6), 3), ((9, 4), 1)]:
        values = inputs(size, batch)
        assert_close(program(*values), model(*values), 1e-5)


def test_it_compiles_whole() -> None:
    model = Deformed()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for size, batch in [((5, 7), 2), ((8, 6), 3)]:
        values = inputs(size, batch)
        assert_close(compiled(*values), model(*values), 1e-5)


def test_it_is_one_node_of_a_graph() -> None:
    model = Deformed()
    graph = torch.fx.symbolic_trace(model)
    assert [node.name for node in graph.graph.nodes if node.op == "call_function"] == ["_deform_conv2d"]
    values = inputs((5, 7), 2)
    assert torch.equal(graph(*values), model(*values))


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    model = Deformed().eval()
    path = str(tmp_path / "deformed.onnx")
    names = ["x", "offset", "mask"]
    torch.onnx.export(
        model, inputs((5, 7), 2), path, dynamo=True, dynamic_shapes=dynamic_shapes(), input_names=names, verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size, batch in [((5, 7), 2), ((8, 6), 3)]:
        values = inputs(size, batch)
        (got,) = session.run(None, {name: value.numpy() for name, value in zip(names, values, strict=True)})
        assert_close(torch.from_numpy(got), model(*values), 1e-4)


class Torchvision:
    """Stands in for `torchvision.ops.deform_conv2d`: counts its calls, and computes what it is told to."""

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self.compute, self.calls = compute, 0

    def __call__(self, x: Tensor, offset: Tensor, weight: Tensor, *, padding: int, mask: Tensor) -> Tensor:
        assert padding == weight.shape[-1] // 2
        self.calls += 1
        return self.compute(x, offset, mask, weight)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Tensor] | None], Torchvision]]:
    """Puts an operator, or none, where torchvision's is looked for."""

    def put(compute: Callable[..., Tensor] | None) -> Torchvision:
        operator = Torchvision(compute or deformable._by_sampling)
        ops = ModuleType("torchvision.ops")
        if compute is not None:
            ops.deform_conv2d = operator  # type: ignore[attr-defined]
        package = ModuleType("torchvision")
        package.ops = ops  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
        deformable._torchvision_operator.cache_clear()
        return operator

    yield put
    deformable._torchvision_operator.cache_clear()


Install = Callable[[Callable[..., Tensor] | None], Torchvision]


def marked(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Agrees, to within the comparison's tolerance, but not bit for bit."""
    return deformable._by_sampling(x, offset, mask, weight) + 1e-6


def test_torchvision_computes_where_it_agrees(install: Install) -> None:
    operator, values = install(marked), example()
    for _ in range(2):
        assert torch.equal(modulated_deform_conv2d(*values), marked(*values))
    assert operator.calls == 3, "it is compared once, then used"


def disagrees(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    swapped = offset.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)  # reads offsets as (right, down)
    return deformable._by_sampling(x, swapped, mask, weight)


def fails(*arguments: Tensor) -> Tensor:
    raise RuntimeError("operator torchvision::deform_conv2d does not exist")


@pytest.mark.parametrize("compute", [disagrees, fails, None])
def test_torchvision_is_left_aside_where_it_does_not(install: Install, compute: Callable[..., Tensor] | None) -> None:
    operator, values = install(compute), example()
    for _ in range(2):
        assert torch.equal(modulated_deform_conv2d(*values), deformable._by_sampling(*values))
    assert operator.calls == (0 if compute is None else 1), "it is compared once at most"


def test_a_torchvision_that_cannot_be_imported_is_as_good_as_none(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(marked)

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("operator torchvision::nms does not exist")  # so do builds for another PyTorch

    monkeypatch.setitem(sys.modules, "torchvision.ops", Broken("torchvision.ops"))
    values = example()
    assert torch.equal(modulated_deform_conv2d(*values), deformable._by_sampling(*values))


def test_torchvision_is_never_part_of_what_is_exported(install: Install) -> None:
    operator, model, values = install(marked), Deformed().eval(), inputs((5, 7), 2)
    model(*values)
    assert operator.calls == 2
    torch.export.export(model, values)
    torch.compile(model, backend="aot_eager", fullgraph=True)(*values)
    modulated_deform_conv2d(*(value.to("meta") for value in example()))
    assert operator.calls == 2


def test_torchvision_gets_only_the_types_that_it_knows(install: Install) -> None:
    operator = install(marked)
    modulated_deform_conv2d(*example(dtype=torch.bfloat16))
    x, offset, mask, weight = example(dtype=torch.float32)
    modulated_deform_conv2d(x, offset.bfloat16(), mask, weight)  # as under autocast
    assert operator.calls == 0
    modulated_deform_conv2d(x, offset, mask, weight)
    assert operator.calls == 2


def test_the_comparison_does_not_depend_on_where_it_is_made(install: Install) -> None:
    install(marked)
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        modulated_deform_conv2d(*example(dtype=torch.float32))
    torch.set_rng_state(state)
    values = example()
    assert torch.equal(modulated_deform_conv2d(*values), marked(*values))


def test_the_real_torchvision() -> None:
    operator = deformable._torchvision_operator("cpu")
    if operator is None:
        pytest.skip("torchvision is not installed, or its compiled operator does not run here")
    for size in SIZES:
        values = [value.requires_grad_() for value in example(size, spread=1.3)]
        got, expected = modulated_deform_conv2d(*values), deformable._by_sampling(*values)
        assert_close(got.detach(), expected.detach(), 1e-10)
        for one, other in zip(*(torch.autograd.grad(y.square().sum(), values) for y in (got, expected)), strict=True):
            assert_close(one, other, 1e-8)


def test_the_test_tells_rows_from_columns() -> None:
    values = example()
    assert_differs(disagrees(*values), by_definition(*values))

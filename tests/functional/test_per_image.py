"""Laws of the per-image operations: the distributive law, and agreement with one ordinary call per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hairify.errors import BatchMismatchError, OptionError
from hairify.functional import hyper_conv1d, hyper_conv2d, hyper_conv_transpose2d, hyper_linear, mix, mixture

Op = Callable[..., Tensor]
OPS: dict[str, tuple[Op, Op]] = {
    "conv1d": (hyper_conv1d, F.conv1d),
    "conv2d": (hyper_conv2d, F.conv2d),
    "conv_transpose2d": (hyper_conv_transpose2d, F.conv_transpose2d),
    "linear": (hyper_linear, F.linear),
}
every_op = pytest.mark.parametrize("name", OPS)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@dataclass
class Case:
    """One call: k·B rows of input, B selecting vectors over N rows of weights."""

    name: str
    input: Tensor
    selecting: Tensor
    weight: Tensor
    bias: Tensor | None
    settings: dict[str, Any]

    def mixture(self, strategy: Any) -> Tensor:
        op = OPS[self.name][0]
        return mixture(op, self.input, self.selecting, self.weight, self.bias, strategy=strategy, **self.settings)

    def to(self, dtype: torch.dtype) -> Case:
        bias = None if self.bias is None else self.bias.to(dtype)
        cast = (self.input.to(dtype), self.selecting.to(dtype), self.weight.to(dtype), bias)
        return Case(self.name, *cast, self.settings)


def mixed(selecting: Tensor, rows: Tensor) -> list[Tensor]:
    """w_b = Σ_i V[b, i] W[i], spelled out."""
    return [sum((v[i] * rows[i] for i in range(len(rows))), torch.zeros_like(rows[0])) for v in selecting]


def one_by_one(plain: Op, input: Tensor, weights: list[Tensor], biases: list[Tensor] | None, **settings: Any) -> Tensor:
    """The oracle: an ordinary operation on the k rows of each image, with that image's weights."""
    parts = input.tensor_split(len(weights))
    offsets = [None] * len(weights) if biases is None else biases
    return torch.cat([plain(x, w, b, **settings) for x, w, b in zip(parts, weights, offsets, strict=True)])


def oracle(case: Case) -> Tensor:
    biases = None if case.bias is None else mixed(case.selecting, case.bias)
    return one_by_one(OPS[case.name][1], case.input, mixed(case.selecting, case.weight), biases, **case.settings)


def assert_close(result: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert result.shape == expected.shape
    error = float((result.double() - expected.double()).abs().max())
    assert error <= tolerance * max(1.0, float(expected.abs().max())), f"off by {error}"


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    batch, per_image, size = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    if name == "linear":
        inside = draw(st.lists(st.integers(1, 3), max_size=2))
        features_in, features_out = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        shape, weight_shape, out, settings = (*inside, features_in), (features_out, features_in), features_out, {}
    else:
        shape, weight_shape, out, settings = draw(convolutions(name))
    input = randn(batch * per_image, *shape, generator=generator)
    selecting = randn(batch, size, generator=generator).softmax(1)
    weight = randn(size, *weight_shape, generator=generator)
    bias = randn(size, out, generator=generator) if draw(st.booleans()) else None
    return Case(name, draw(arrangements(input)), selecting, weight, bias, settings)


@st.composite
def convolutions(draw: st.DrawFn, name: str) -> tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]:
    """Input shape of one row, weight shape, output channels, settings."""
    dims, transposed = (1 if name == "conv1d" else 2), name == "conv_transpose2d"
    groups, c_in, c_out = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, stride, dilation = per_axis(1, 3), per_axis(1, 3), per_axis(1, 2)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    settings: dict[str, Any] = {"groups": groups, "dilation": dilation}
    if transposed:
        settings["padding"] = tuple(draw(st.integers(0, r // 2)) for r in reach)
        settings["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        spatial = per_axis(1, 4)
    else:
        settings["padding"] = draw(st.sampled_from(["same", "valid", per_axis(0, 2), draw(st.integers(0, 2))]))
        if settings["padding"] == "same":
            stride = (1,) * dims  # the only stride that torch accepts with it
        spatial = tuple(r + 1 + draw(st.integers(0, 3)) for r in reach)
    settings["stride"] = stride
    settings = {n: v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for n, v in settings.items()}
    c_in, c_out = c_in * groups, c_out * groups
    channels = (c_in, c_out // groups) if transposed else (c_out, c_in // groups)
    return (c_in, *spatial), (*channels, *kernel), c_out, settings


@st.composite
def arrangements(draw: st.DrawFn, x: Tensor) -> Tensor:
    """The same values in another memory layout."""
    kinds = ["contiguous", "reversed", "sliced", *(["channels_last"] if x.ndim == 4 else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "reversed":  # the batch is the fastest dimension
        order = tuple(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)
    if kind == "sliced":
        return torch.stack([x, x + 1], dim=-1)[..., 0]
    return x.contiguous(memory_format=torch.channels_last) if kind == "channels_last" else x


def randn(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@every_op
@given(data=st.data())
def test_distributive_law_and_oracle(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(name))
    expected = oracle(case)
    assert_close(case.mixture("mix_weights"), expected)
    assert_close(case.mixture("mix_outputs"), expected)


@every_op
@given(data=st.data())
def test_float32(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(name))
    single, expected = case.to(torch.float32), oracle(case)
    for strategy in ("mix_weights", "mix_outputs"):
        result = single.mixture(strategy)
        assert result.dtype == torch.float32
        assert_close(result, expected, 1e-5)


@pytest.mark.parametrize("per_image", [1, 3])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("padding", "stride"),
    [
        *product([0, (0, 0), "same", "valid", 1, (1, 0)], [1, (1, 1), [1, 1]]),
        *product([0, "valid", (0, 1)], [2, (1, 2)]),
    ],
)
def test_pointwise(per_image: int, has_bias: bool, padding: Any, stride: Any) -> None:
    x, weight, bias = randn(2 * per_image, 3, 4, 5), randn(2, 6, 3, 1, 1), randn(2, 6) if has_bias else None
    settings = {"stride": stride, "padding": padding}
    expected = one_by_one(F.conv2d, x, list(weight), None if bias is None else list(bias), **settings)
    assert_close(hyper_conv2d(x, weight, bias, **settings), expected)


GRADIENTS: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [  # shapes of input, weight and bias
    ("linear", [(4, 2, 3), (2, 2, 3), (2, 2)], {}),
    ("conv1d", [(4, 2, 4), (2, 3, 2, 1), (2, 3)], {}),
    ("conv1d", [(2, 4, 5), (2, 2, 2, 3), (2, 2)], {"groups": 2, "stride": 2, "padding": 1}),
    ("conv2d", [(4, 2, 2, 3), (2, 3, 2, 1, 1), (2, 3)], {}),
    ("conv2d", [(4, 2, 3, 3), (2, 2, 2, 2, 2), (2, 2)], {"padding": (1, 0), "dilation": (1, 2)}),
    ("conv2d", [(2, 2, 3, 3), (2, 2, 1, 3, 3), (2, 2)], {"groups": 2, "padding": "same"}),
    ("conv2d", [(3, 2, 3, 3), (1, 2, 2, 2, 2), (1, 2)], {}),
    ("conv_transpose2d", [(4, 2, 2, 2), (2, 2, 1, 3, 2), (2, 2)], {"groups": 2, "stride": 2, "output_padding": 1}),
    ("conv_transpose2d", [(2, 2, 2, 2), (2, 2, 3, 2, 2), (2, 3)], {"padding": 1, "dilation": 2}),
]


@pytest.mark.parametrize(("name", "shapes", "settings"), GRADIENTS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients(name: str, shapes: list[tuple[int, ...]], settings: dict[str, Any], has_bias: bool) -> None:
    leaves = tuple(randn(*shape).requires_grad_() for shape in shapes[: 2 + has_bias])

    def call(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return OPS[name][0](x, weight, bias, **settings)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@every_op
def test_gradients_reach_only_the_image_they_belong_to(name: str) -> None:
    shapes = {"linear": (3,), "conv1d": (3, 4), "conv2d": (3, 4, 4), "conv_transpose2d": (3, 4, 4)}
    weight = randn(2, 3, 3, *[2] * (len(shapes[name]) - 1)).requires_grad_()
    x = randn(4, *shapes[name]).requires_grad_()
    OPS[name][0](x, weight)[:2].square().sum().backward()
    for leaf, image in ((x, x.grad[:2]), (weight, weight.grad[:1])):
        assert image.abs().min() > 0
        assert leaf.grad[len(image) :].abs().max() == 0


@every_op
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_one_set_of_weights_serves_any_batch(name: str, rows: int) -> None:
    hyper, plain = OPS[name]
    spatial = {"linear": (), "conv1d": (5,), "conv2d": (5, 4), "conv_transpose2d": (5, 4)}[name]
    x, weight, bias = randn(rows, 3, *spatial), randn(2, 3, 3, *[2] * len(spatial)), randn(2, 3)
    assert torch.equal(hyper(x, weight[:1], bias[:1]), plain(x, weight[0], bias[0]))
    assert torch.equal(hyper(x, weight[:1]), plain(x, weight[0]))
    selecting = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    expected = plain(x, *mixed(selecting, weight), *mixed(selecting, bias))
    assert_close(mixture(hyper, x, selecting, weight, bias), expected)
    assert_close(mixture(hyper, x, selecting, weight, bias, strategy="mix_outputs"), expected)


@pytest.mark.parametrize("strategy", ["mix", "", None, "MIX_WEIGHTS"])
def test_unknown_strategy(strategy: Any) -> None:
    with pytest.raises(OptionError, match="'mix_weights' and 'mix_outputs'") as error:
        mixture(hyper_linear, randn(2, 3), randn(2, 2), randn(2, 4, 3), strategy=strategy)
    assert repr(strategy) in str(error.value)


@every_op
def test_batch_that_cannot_be_divided(name: str) -> None:
    op = OPS[name][0]
    spatial = {"linear": (), "conv1d": (5,), "conv2d": (5, 4), "conv_transpose2d": (5, 4)}[name]
    x = randn(5, 3, *spatial)
    for kernel in (1, 2):  # matrix products and convolutions
        weight = randn(2, 3, 3, *[kernel] * len(spatial))
        calls: list[Callable[[], Tensor]] = [
            lambda w=weight: op(x, w),
            lambda w=weight: mixture(op, x, randn(2, 2), w),
            lambda w=weight: mixture(op, x, randn(2, 2), w, strategy="mix_outputs"),
        ]
        for call in calls:
            with pytest.raises(BatchMismatchError, match="among 2 images") as error:
                call()
            assert str(tuple(x.shape)) in str(error.value)


def test_mixing_keeps_its_precision_under_autocast() -> None:
    selecting, rows = torch.rand(3, 5).softmax(1), torch.randn(5, 4, 3, 2)
    expected = mix(selecting, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = mix(selecting, rows)
        assert (selecting @ rows.flatten(1)).dtype == torch.bfloat16  # autocast is at work, or this test shows nothing
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
    assert_close(result, torch.stack(mixed(selecting.double(), rows.double())), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mixing_happens_in_the_dtype_of_the_rows(dtype: torch.dtype) -> None:
    selecting = torch.rand(3, 5, dtype=torch.float64).softmax(1)
    rows = torch.randn(5, 2, 3).to(dtype)
    result = mix(selecting, rows)
    assert result.dtype == dtype
    assert_close(result, torch.stack(mixed(selecting, rows.double())), 4 * torch.finfo(dtype).eps)
    assert torch.equal(mix(selecting.to(torch.bfloat16), rows), mix(selecting.to(torch.bfloat16).to(dtype), rows))


@every_op
def test_operations_follow_autocast_as_plain_ones_do(name: str) -> None:
    hyper, plain = OPS[name]
    spatial = {"linear": (), "conv1d": (5,), "conv2d": (5, 4), "conv_transpose2d": (5, 4)}[name]
    for kernel in (1, 2):
        x, weight, bias = torch.randn(4, 3, *spatial), torch.randn(2, 3, 3, *[kernel] * len(spatial)), torch.randn(2, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result, expected = hyper(x, weight, bias), one_by_one(plain, x, list(weight), list(bias))
        assert result.dtype == expected.dtype
        assert_close(result, expected, 2**-6)

"""Per-image operations for tests: shapes and settings of every kind, and the oracle of one ordinary call per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hairify.functional import _kernels as kernels
from hairify.functional._operations import Convolution, Operation, convolution, linear, transposed_convolution

BATCH = 3
PREPARE = {
    F.linear: linear,
    F.conv1d: convolution,
    F.conv2d: convolution,
    F.conv_transpose2d: transposed_convolution,
}


@dataclass(frozen=True)
class Case:
    """An operation of torch.nn.functional: shapes of one row of input and of one image's weight, and settings."""

    plain: Callable[..., Tensor]
    row: tuple[int, ...]
    weight: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def operation(self) -> Operation:
        return PREPARE[self.plain](torch.empty(0), self.weight[2:], **self.settings)[1]

    def tensors(self, per_image: int = 1, layout: str = "contiguous", dtype: Any = torch.float64) -> list[Tensor]:
        """Input, weight and bias for a batch; the same numbers in each layout."""
        torch.manual_seed(0)
        out = self.operation.channels(self.weight)[1]
        shapes = (BATCH * per_image, *self.row), (BATCH, *self.weight), (BATCH, out)
        input, weight, bias = (torch.randn(shape, dtype=dtype) for shape in shapes)
        return [arranged(input, layout), weight, bias]

    def one_by_one(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The oracle: an ordinary operation on the rows of each image."""
        biases = [None] * len(weight) if bias is None else list(bias)
        parts = zip(input.tensor_split(len(weight)), weight, biases, strict=True)
        return torch.cat([self.plain(x, w, b, **self.settings) for x, w, b in parts])


CASES = {
    "linear": Case(F.linear, (5, 4), (6, 4)),
    "linear, a vector": Case(F.linear, (4,), (6, 4)),
    "linear over a map": Case(F.linear, (3, 2, 4), (6, 4)),
    "conv1d, point": Case(F.conv1d, (4, 19), (6, 4, 1)),
    "conv1d, point, few": Case(F.conv1d, (4, 3), (6, 4, 1)),
    "conv1d": Case(F.conv1d, (4, 9), (6, 2, 3), {"groups": 2, "stride": 2, "padding": 1, "dilation": 2}),
    "conv2d, point": Case(F.conv2d, (4, 5, 7), (6, 4, 1, 1)),
    "conv2d, point, few": Case(F.conv2d, (4, 2, 1), (6, 4, 1, 1)),
    "conv2d, point, strided": Case(F.conv2d, (4, 5, 6), (6, 4, 1, 1), {"stride": (2, 3)}),
    "conv2d, point, grouped": Case(F.conv2d, (4, 5, 6), (6, 2, 1, 1), {"groups": 2}),
    "conv2d, dense": Case(F.conv2d, (3, 6, 5), (4, 3, 3, 2), {"padding": (1, 0)}),
    "conv2d, one position": Case(F.conv2d, (3, 1, 1), (4, 3, 3, 3), {"padding": 1}),
    "conv2d, depthwise": Case(F.conv2d, (4, 5, 6), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "conv2d, everything": Case(
        F.conv2d, (4, 9, 8), (6, 2, 2, 3), {"groups": 2, "stride": (2, 1), "padding": (0, 2), "dilation": (3, 2)}
    ),
    "transposed": Case(F.conv_transpose2d, (4, 3, 4), (4, 3, 2, 2), {"stride": 2}),
    "transposed, point": Case(F.conv_transpose2d, (4, 3, 4), (4, 3, 1, 1)),
    "transposed, everything": Case(
        F.conv_transpose2d,
        (4, 3, 4),
        (4, 3, 3, 2),
        {"groups": 2, "stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "dilation": (2, 1)},
    ),
}


def able(case: Case) -> list[str]:
    """The kernels that can compute it for several images on any device; Triton's have tests of their own."""
    if not isinstance(case.operation, Convolution):
        return ["matmul"]
    names = [kernel for kernel in kernels._KERNELS if kernel != "triton"]
    return [kernel for kernel in names if kernel != "matmul" or case.operation.is_matrix_product]


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "sliced":
        return torch.stack([x, x + 1], dim=-1)[..., 0]
    if layout == "reversed":  # the batch is the fastest dimension
        order = tuple(reversed(range(x.ndim)))
        return x.permute(order).contiguous().permute(order)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


def layouts(case: Case) -> list[str]:
    return ["contiguous", "sliced", "reversed", *(["channels_last"] if len(case.row) == 3 else [])]


PAIRS = [pytest.param(case, k, id=f"{name}-{k}") for name, case in CASES.items() for k in able(case)]
every_kernel = pytest.mark.parametrize(("case", "kernel"), PAIRS)
every_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


def force_kernel(patch: pytest.MonkeyPatch, kernel: str) -> list[str]:
    """Have one kernel chosen whatever the shapes; the list of times that it ran comes back."""
    ran: list[str] = []
    original = kernels._KERNELS[kernel]
    patch.setattr(kernels, "choose_kernel", lambda *args: kernel)
    patch.setitem(kernels._KERNELS, kernel, lambda *args: ran.append(kernel) or original(*args))
    return ran


def backward_oracle(case: Case, input: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A gradient of the output, and what autograd makes of it through one call per image."""
    leaves = [t.detach().clone().requires_grad_() for t in (input, weight, bias)]
    output = case.one_by_one(*leaves)
    grad = torch.randn_like(output)
    return grad, torch.autograd.grad(output, leaves, grad)

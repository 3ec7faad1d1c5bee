"""Laws of the kernels: each equals one ordinary operation per image, and which one runs is read off a table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from operations import BATCH, Case, arranged, backward_oracle, every_case, every_kernel, force_kernel, layouts
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from util import assert_close

from hairify.functional import _kernels as kernels
from hairify.functional import mix
from hairify.functional._kernels import choose_kernel, per_image, per_image_backward
from hairify.functional._mixing import mix_outputs
from hairify.functional._operations import Convolution, Linear, Operation
from hairify.functional._recomputation import recomputed
from hairify.nn import WeightBox

Needed = tuple[bool, bool, bool]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Have one kernel chosen whatever the shapes; the list of times that it ran comes back."""
    return functools.partial(force_kernel, monkeypatch)


@every_kernel
@pytest.mark.parametrize("per", [1, 2])
def test_each_kernel_equals_one_call_per_image(
    case: Case, kernel: str, per: int, force: Callable[[str], list[str]]
) -> None:
    ran = force(kernel)
    for layout, has_bias in product(layouts(case), (True, False)):
        input, weight, bias = case.tensors(per, layout)
        bias = bias if has_bias else None
        assert_close(per_image(case.operation, input, weight, bias), case.one_by_one(input, weight, bias), 1e-13)
    assert len(ran) == 2 * len(layouts(case))


@every_case
def test_the_chosen_kernel_equals_one_call_per_image(case: Case) -> None:
    for batch in (1, BATCH):
        input, weight, bias = case.tensors(2)
        weight, bias = weight[:batch], bias[:batch]
        assert_close(per_image(case.operation, input, weight, bias), case.one_by_one(input, weight, bias), 1e-13)


@every_kernel
@pytest.mark.parametrize("per", [1, 2])
def test_the_backward_of_each_kernel_is_that_of_one_call_per_image(
    case: Case, kernel: str, per: int, force: Callable[[str], list[str]]
) -> None:
    force(kernel)
    for layout in layouts(case):
        input, weight, bias = case.tensors(per, layout)
        grad, expected = backward_oracle(case, input, weight, bias)
        for of_grad in layouts(case):
            arranged_grad = arranged(grad, of_grad)
            got = per_image_backward(case.operation, arranged_grad, input, weight, (True, True, True))
            for g, e in zip(got, expected, strict=True):
                assert_close(g, e, 1e-13)


@every_kernel
@pytest.mark.parametrize("needed", [n for n in product((True, False), repeat=3) if any(n)])
def test_the_backward_gives_what_is_needed(
    case: Case, kernel: str, needed: Needed, force: Callable[[str], list[str]]
) -> None:
    force(kernel)
    input, weight, bias = case.tensors(2)
    grad, expected = backward_oracle(case, input, weight, bias)
    got = per_image_backward(case.operation, grad, input, weight, needed)
    for g, e, is_needed in zip(got, expected, needed, strict=True):
        if is_needed:
            assert_close(g, e, 1e-13)
        else:
            assert g is None


@every_case
def test_the_backward_for_one_image_that_serves_all_rows(case: Case) -> None:
    input, weight, bias = (t[:n] for t, n in zip(case.tensors(), (BATCH, 1, 1), strict=True))
    grad, expected = backward_oracle(case, input, weight, bias)
    got = per_image_backward(case.operation, grad, input, weight, (True, True, True))
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e, 1e-13)


@every_kernel
@pytest.mark.parametrize("has_bias", [True, False])
def test_recomputed_weights_are_differentiable_twice(
    case: Case, kernel: str, has_bias: bool, force: Callable[[str], list[str]]
) -> None:
    force(kernel)
    input, weight, bias = case.tensors()
    selecting = torch.randn(2, BATCH, dtype=torch.float64).softmax(1)
    input = input[:2]
    rows = (weight, bias) if has_bias else (weight,)
    leaves = [t.detach().contiguous().requires_grad_() for t in (input, selecting, *rows)]

    def call(x: Tensor, *sources: Tensor) -> Tensor:
        return recomputed(case.operation, x, WeightBox._generate, *sources)

    def plainly(x: Tensor, v: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        mixed = torch.einsum("bn,n...->b...", v, w)
        return case.one_by_one(x, mixed, None if b is None else torch.einsum("bn,nc->bc", v, b))

    assert_close(call(*leaves), plainly(*leaves), 1e-13)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def strides(t: Tensor) -> list[tuple[int, int]]:
    """By dimension, but for those of size 1, whose stride says nothing."""
    return [(size, stride) for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


@every_kernel
@pytest.mark.parametrize("per", [1, 2])
def test_outputs_lie_in_memory_as_plain_ones_do(
    case: Case, kernel: str, per: int, force: Callable[[str], list[str]]
) -> None:
    force(kernel)
    for layout in layouts(case):
        input, weight, bias = case.tensors(per, layout)
        expected = case.plain(input, weight[0], bias[0], **case.settings)
        assert strides(per_image(case.operation, input, weight, bias)) == strides(expected), layout


@every_case
@pytest.mark.parametrize("per", [1, 2])
def test_mixed_outputs_lie_in_memory_as_plain_ones_do(case: Case, per: int) -> None:
    for layout in layouts(case):
        input, weight, bias = case.tensors(per, layout)
        selecting = torch.randn(BATCH, BATCH, dtype=torch.float64).softmax(1)
        expected = case.plain(input, weight[0], bias[0], **case.settings)
        got = mix_outputs(case.operation, input, selecting, weight, bias)
        assert_close(got, case.one_by_one(input, mix(selecting, weight), mix(selecting, bias)), 1e-13)
        assert strides(got) == strides(expected), layout


class NoTensors(TorchDispatchMode):
    """Fails whatever computes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called")


def dense(kernel: int = 3, stride: int = 1, groups: int = 1) -> Convolution:
    return Convolution((stride,) * 2, (kernel // 2,) * 2, (1, 1), groups, (kernel, kernel))


TRANSPOSED = Convolution((2, 2), (0, 0), (1, 1), 1, (2, 2), transposed=True)
LINE = Convolution((1,), (1,), (1,), 1, (3,))
CHOICES = [  # operation, B, input, weight, on the CPU, elsewhere; float32
    # one set of weights: nothing is per image
    (Linear(), 1, (4, 64, 32), (96, 32), "plain", "plain"),
    (dense(), 1, (4, 64, 32, 32), (64, 64, 3, 3), "plain", "plain"),
    (TRANSPOSED, 1, (4, 64, 8, 8), (64, 32, 2, 2), "plain", "plain"),
    # products of matrices, whatever their size
    (Linear(), 8, (8, 32), (96, 32), "matmul", "matmul"),
    (Linear(), 8, (512, 4096, 60), (180, 60), "matmul", "matmul"),
    # 1×1: arithmetic limits many positions with channels that oneDNN likes, there it is faster; memory all others
    (dense(1), 8, (8, 128, 32, 32), (256, 128, 1, 1), "grouped", "matmul"),
    (dense(1), 8, (8, 128, 16, 16), (256, 128, 1, 1), "grouped", "matmul"),  # 256 positions
    (dense(1), 8, (8, 128, 15, 17), (256, 128, 1, 1), "matmul", "matmul"),  # 255
    (dense(1), 8, (8, 384, 8, 8), (1152, 384, 1, 1), "matmul", "matmul"),
    (dense(1), 8, (8, 60, 64, 64), (180, 60, 1, 1), "matmul", "matmul"),  # multiples of 4, not of 16
    (dense(1), 8, (8, 64, 64, 64), (180, 64, 1, 1), "matmul", "matmul"),
    (dense(1), 8, (8, 255, 64, 64), (96, 255, 1, 1), "grouped", "matmul"),  # no multiple of 4
    (dense(1), 8, (8, 64, 1, 1), (64, 64, 1, 1), "matmul", "matmul"),
    # 3×3 on small maps with channels in whole blocks of 16, in and out
    (dense(), 8, (8, 64, 32, 32), (64, 64, 3, 3), "grouped", "grouped"),  # 1024 positions
    (dense(), 8, (8, 64, 33, 32), (64, 64, 3, 3), "loop", "grouped"),
    (dense(), 8, (8, 48, 32, 32), (96, 48, 3, 3), "grouped", "grouped"),
    (dense(3, 2), 8, (8, 64, 32, 32), (64, 64, 3, 3), "grouped", "grouped"),
    (dense(3, 1, 2), 8, (8, 64, 32, 32), (64, 32, 3, 3), "grouped", "grouped"),  # 32 in a group
    # for others oneDNN falls back, once for each image it does not
    (dense(), 8, (8, 64, 32, 32), (60, 64, 3, 3), "loop", "grouped"),
    (dense(), 8, (8, 60, 32, 32), (64, 60, 3, 3), "loop", "grouped"),
    (dense(3, 1, 4), 8, (8, 32, 32, 32), (32, 8, 3, 3), "loop", "grouped"),  # 8 in a group
    # weights of all images above 16 MiB are too large to be copied once more
    (dense(), 7, (7, 256, 16, 16), (256, 256, 3, 3), "grouped", "grouped"),
    (dense(), 8, (8, 256, 16, 16), (256, 256, 3, 3), "loop", "grouped"),
    # depthwise, of any size
    (dense(3, 1, 288), 8, (8, 288, 32, 32), (288, 1, 3, 3), "grouped", "grouped"),
    (dense(3, 1, 288), 8, (8, 288, 128, 128), (288, 1, 3, 3), "grouped", "grouped"),
    # transposed ones
    (TRANSPOSED, 8, (8, 64, 16, 16), (64, 32, 2, 2), "loop", "grouped"),
    (LINE, 8, (8, 64, 128), (64, 64, 3), "grouped", "grouped"),
    (LINE, 8, (8, 60, 128), (60, 60, 3), "loop", "grouped"),
]


@pytest.mark.parametrize(("operation", "batch", "input", "weight", "on_cpu", "elsewhere"), CHOICES)
def test_the_choice_is_a_table_by_shapes(
    operation: Operation,
    batch: int,
    input: tuple[int, ...],
    weight: tuple[int, ...],
    on_cpu: str,
    elsewhere: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On processors of MKL's maker points are products throughout, but in half precision, whose are not MKL's."""
    monkeypatch.setattr(kernels, "_MKL_IS_AT_HOME", False)
    with NoTensors():
        assert choose_kernel(operation, batch, input, weight, 4, "cpu") == on_cpu
        for device in ("cuda", "meta"):
            assert choose_kernel(operation, batch, torch.Size(input), weight, 4, device) == elsewhere
        lower = choose_kernel(operation, batch, input, weight, 2, "cpu")
    monkeypatch.setattr(kernels, "_MKL_IS_AT_HOME", True)
    expected = "matmul" if batch > 1 and operation.is_matrix_product else on_cpu
    for channels_last in (False, True) if expected == "matmul" else (False,):
        assert choose_kernel(operation, batch, input, weight, 4, "cpu", channels_last) == expected
    assert choose_kernel(operation, batch, input, weight, 2, "cpu") == lower


def test_the_choice_goes_by_bytes() -> None:
    chosen = [choose_kernel(dense(), 7, (7, 256, 16, 16), (256, 256, 3, 3), itemsize, "cpu") for itemsize in (2, 4, 8)]
    assert chosen == ["grouped", "grouped", "loop"]


def test_the_choice_goes_by_layout_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_MKL_IS_AT_HOME", False)
    cases = [
        (dense(), (8, 64, 32, 32), (64, 64, 3, 3), "loop"),
        (dense(3, 1, 64), (8, 64, 32, 32), (64, 1, 3, 3), "loop"),
        (dense(1), (8, 64, 32, 32), (64, 64, 1, 1), "loop"),
        (dense(1), (8, 64, 8, 8), (64, 64, 1, 1), "matmul"),
    ]
    for operation, input, weight, expected in cases:
        assert choose_kernel(operation, 8, input, weight, 4, "cpu", channels_last=True) == expected
        assert choose_kernel(operation, 8, input, weight, 4, "cuda", channels_last=True) != "loop"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("operation", "row", "weight", "kernel"),
    [
        (Linear(), (64, 32), (96, 32), "matmul"),
        (dense(1), (128, 32, 32), (256, 128, 1, 1), "matmul"),
        (dense(), (64, 32, 32), (64, 64, 3, 3), "unfolded"),
        (dense(1, 2), (64, 32, 32), (64, 64, 1, 1), "unfolded"),
        (dense(3, 1, 64), (64, 32, 32), (64, 1, 3, 3), "unfolded"),
        (TRANSPOSED, (64, 16, 16), (64, 32, 2, 2), "unfolded"),
        (LINE, (64, 128), (64, 64, 3), "unfolded"),
    ],
)
def test_an_open_number_of_images_takes_kernels_without_groups_and_loops(
    operation: Operation, row: tuple[int, ...], weight: tuple[int, ...], kernel: str, device: str
) -> None:
    batch = ShapeEnv().create_unbacked_symint()  # raises where Python decides by it
    assert choose_kernel(operation, batch, (2 * batch, *row), weight, 4, device) == kernel


@pytest.mark.parametrize(("operation", "kernel"), [(dense(1), "matmul"), (dense(), "grouped"), (TRANSPOSED, "grouped")])
def test_open_sizes_of_a_map_are_not_asked_for(operation: Convolution, kernel: str) -> None:
    size = ShapeEnv().create_unbacked_symint()
    weight = (64, 64, *operation.kernel)
    assert choose_kernel(operation, 2, (2, 64, size, 32), weight, 4, "cpu") == kernel


def test_each_name_has_its_kernel() -> None:
    assert {"plain", *kernels._KERNELS} == {*kernels.Kernel.__args__}


def test_the_loop_under_vmap_without_gradients(force: Callable[[str], list[str]]) -> None:
    force("loop")
    operation = dense()
    input, weights = torch.rand(2, 3, 6, 5, dtype=torch.float64), torch.rand(4, 2, 3, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        got = torch.vmap(lambda weight: per_image(operation, input, weight, None))(weights)
        expected = torch.stack([per_image(operation, input, weight, None) for weight in weights])
    assert_close(got, expected, 1e-13)

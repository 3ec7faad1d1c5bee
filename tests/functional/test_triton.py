"""Triton's kernels, interpreted on the CPU, compute what one ordinary call per image does, in float64."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from operations import CASES, Case, arranged, backward_oracle
from util import assert_close

from hairify import functional
from hairify.functional import _kernels as kernels
from hairify.functional._recomputation import applied

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton comes with PyTorch for GPUs", allow_module_level=True)

MODULE = "hairify.functional._triton"
TOLERANCE = 64 * torch.finfo(torch.float32).eps

SMALL_TILES = {"POSITIONS": 16, "CHANNELS": 16, "OUT": 16}

# Of more channels and positions than such a tile has, in numbers that fill none.
LARGER = {
    "dense, several tiles": Case(F.conv2d, (18, 5, 4), (17, 18, 3, 3), {"padding": 1}),
    "transposed, several tiles": Case(F.conv_transpose2d, (17, 3, 3), (17, 18, 2, 2), {"stride": 2}),
    "depthwise, strided": Case(F.conv2d, (17, 6, 5), (17, 1, 3, 3), {"groups": 17, "padding": 1, "stride": 2}),
    "depthwise, transposed": Case(F.conv_transpose2d, (6, 5, 4), (6, 1, 3, 3), {"groups": 6, "stride": 2}),
}
SUPPORTED = {
    "conv2d, point",
    "conv2d, point, few",
    "conv2d, point, strided",
    "conv2d, dense",
    "conv2d, one position",
    "conv2d, depthwise",
    "transposed",
    "transposed, point",
    *LARGER,
}
every_supported = pytest.mark.parametrize("case", [pytest.param((CASES | LARGER)[n], id=n) for n in sorted(SUPPORTED)])


class Always:
    """Chooses Triton's kernels for all cases."""

    def choice(self, case: kernels.Case) -> kernels.Choice:
        return kernels.Choice("triton", "triton")


@pytest.fixture(scope="module")
def triton() -> Iterator[ModuleType]:
    """The module and Triton as they are imported for the interpreter; what others may have imported comes back."""

    def imported() -> list[str]:
        names = [n for n in sys.modules if n == MODULE or n == "triton" or n.startswith("triton.")]
        return [n for n in names if not n.startswith("triton._C")]  # compiled, and the same for both

    with pytest.MonkeyPatch.context() as patch:
        for name in imported():
            patch.delitem(sys.modules, name)
        patch.setenv("TRITON_INTERPRET", "1")
        yield importlib.import_module(MODULE)
        for name in imported():
            del sys.modules[name]
        del functional._triton


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch, triton: ModuleType) -> None:
    monkeypatch.setattr(triton, "convolutions_round", lambda: False)


def case_on(device: str, case: Case, dtype: torch.dtype = torch.float32) -> kernels.Case:
    shape = torch.Size((3, *case.row))
    return kernels.Case(case.operation, 3, shape, torch.Size(case.weight), dtype, device, False)


def test_tuning_tries_them_on_gpus_alone() -> None:
    for name, case in (CASES | LARGER).items():
        assert ("triton" in kernels.able(case_on("cuda", case, torch.bfloat16))) == (name in SUPPORTED)
        assert "triton" not in kernels.able(case_on("cpu", case))
        assert "triton" not in kernels.able(case_on("cuda", case, torch.float64))


@every_supported
@pytest.mark.parametrize(("layout", "per"), [("contiguous", 1), ("channels_last", 2)])
def test_outputs_and_gradients(
    case: Case, layout: str, per: int, triton: ModuleType, exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "_blocks", lambda *_: SMALL_TILES)
    monkeypatch.setattr(triton, "_depthwise_blocks", lambda *_: {"POSITIONS": 16, "CHANNELS": 8})
    numbers = case.tensors(per)
    grad, gradients = backward_oracle(case, *numbers)
    input, weight, bias, back = (t.float() for t in (*numbers, grad))
    input, back = arranged(input, layout), arranged(back, layout)
    output = triton.convolve(case.operation, input, weight, bias)
    assert_close(output.double(), case.one_by_one(*numbers), TOLERANCE)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert output.is_contiguous(memory_format=form)
    with torch.no_grad():
        got = kernels.per_image_backward(case.operation, back, input, weight, (True, True, True), "triton")
    for ours, theirs in zip(got, gradients, strict=True):
        assert ours is not None
        assert_close(ours.double(), theirs, TOLERANCE)


def test_without_a_bias_and_with_tiles_as_they_are(triton: ModuleType, exact: None) -> None:
    for name in ("conv2d, dense", "conv2d, depthwise"):
        case = CASES[name]
        input, weight, _ = case.tensors()
        output = triton.convolve(case.operation, input.float(), weight.float(), None)
        assert_close(output.double(), case.one_by_one(input, weight, None), TOLERANCE)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_sum_over_positions_may_be_cut(
    parts: int, triton: ModuleType, exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "_PROGRAMS", parts * 3 * 9)
    monkeypatch.setattr(triton, "_LEAST_POSITIONS", 1)
    for case in (CASES["conv2d, dense"], CASES["conv2d, depthwise"]):
        numbers = case.tensors(2)
        grad, (_, by_weight, _) = backward_oracle(case, *numbers)
        input, weight, back = (t.float() for t in (*numbers[:2], grad))
        assert_close(triton.weight_gradient(case.operation, back, input, weight).double(), by_weight, TOLERANCE)


def test_layers_have_gradients_of_both_orders(triton: ModuleType, exact: None) -> None:
    case = CASES["conv2d, dense"]
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in case.tensors()]
        is_ours = dtype == torch.float32
        output = applied(case.operation, *leaves, Always()) if is_ours else case.one_by_one(*leaves)
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([t.double().detach() for t in (output, *first, *second)])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, TOLERANCE)


def test_function_transforms_and_forward_mode_go_by_the_rules(triton: ModuleType) -> None:
    case = CASES["conv2d, dense"]
    input, weight, bias = case.tensors()

    def compute(x: torch.Tensor) -> torch.Tensor:
        return applied(case.operation, x, weight, bias, Always())

    _, got = torch.func.jvp(compute, (input,), (torch.ones_like(input),))
    expected = case.one_by_one(torch.ones_like(input), weight, None)
    assert_close(got, expected, 1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(input, torch.ones_like(input))
        assert_close(torch.autograd.forward_ad.unpack_dual(compute(dual)).tangent, expected, 1e-12)


def test_under_autocast_it_is_computed_in_its_precision(triton: ModuleType) -> None:
    case = CASES["conv2d, dense"]
    input, weight, bias = case.tensors(dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        got, usual = (applied(case.operation, input, weight, bias, chooser) for chooser in (Always(), None))
    assert got.dtype == usual.dtype == torch.float16
    assert_close(got.float(), usual.float(), 0.002)

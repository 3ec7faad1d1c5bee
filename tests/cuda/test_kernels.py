"""Each kernel on a GPU, forward and backward, beside one ordinary call per image in float64 on the CPU."""

from __future__ import annotations

import gpu
import pytest
import torch
from gpu import DEVICE
from operations import BATCH, Case, arranged, backward_oracle, every_case, every_kernel, force_kernel
from util import assert_close

from hairify.functional import _kernels as kernels
from hairify.functional import mix
from hairify.functional._kernels import able, per_image, per_image_backward
from hairify.functional._mixing import mix_outputs
from hairify.functional._recomputation import recomputed
from hairify.nn import WeightBox

pytestmark = gpu.needed

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def tolerance(dtype: torch.dtype) -> float:
    """Of sums of some tens of products; cuDNN may transform them (Winograd), which loses two digits."""
    return 512 * torch.finfo(dtype).eps


def layouts(case: Case) -> list[str]:
    return ["contiguous", *(["channels_last"] if len(case.row) == 3 else [])]


@every_kernel
@dtypes
def test_each_kernel_equals_one_call_per_image(
    case: Case, kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = force_kernel(monkeypatch, kernel)
    for per in (1, 2):
        exact = [t.to(dtype).double() for t in case.tensors(per)]
        expected, (grad, gradients) = case.one_by_one(*exact), backward_oracle(case, *exact)
        for layout in layouts(case):
            input, weight, bias = (t.to(DEVICE, dtype) for t in exact)
            input, back = arranged(input, layout), arranged(grad.to(DEVICE, dtype), layout)
            assert_close(per_image(case.operation, input, weight, bias).cpu().double(), expected, tolerance(dtype))
            got = per_image_backward(case.operation, back, input, weight, (True, True, True))
            for ours, theirs in zip(got, gradients, strict=True):
                assert ours is not None
                assert_close(ours.cpu().double(), theirs, tolerance(dtype))
    assert ran


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tritons_equal_one_call_per_image(case: Case, dtype: torch.dtype) -> None:
    """Where a tuning may choose them; in half precision up to the rounding of inputs that are rounded already."""
    shape, weight_shape = torch.Size((BATCH, *case.row)), torch.Size(case.weight)
    if "triton" not in able(kernels.Case(case.operation, BATCH, shape, weight_shape, dtype, DEVICE, False)):
        pytest.skip("is not computed by Triton's")
    allowed = tolerance(dtype) if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for per in (1, 2):
        exact = [t.to(dtype).double() for t in case.tensors(per)]
        grad, _ = backward_oracle(case, *exact)
        grad = grad.to(dtype).double()
        leaves = [t.requires_grad_() for t in exact]
        expected = case.one_by_one(*leaves)
        gradients = torch.autograd.grad(expected, leaves, grad)
        for layout in layouts(case):
            input, weight, bias, back = (t.detach().to(DEVICE, dtype) for t in (*leaves, grad))
            input, back = arranged(input, layout), arranged(back, layout)
            with torch.no_grad():
                output = per_image(case.operation, input, weight, bias, "triton")
                got = per_image_backward(case.operation, back, input, weight, (True, True, True), "triton")
            for ours, theirs in zip((output, *got), (expected, *gradients), strict=True):
                assert ours is not None
                assert_close(ours.cpu().double(), theirs.detach(), allowed)


@every_case
@dtypes
def test_mixed_and_recomputed(case: Case, dtype: torch.dtype) -> None:
    """Both sides of the distributive law, and weights that are made again, with all gradients."""
    input, weight, bias = (t.to(dtype).double() for t in case.tensors())
    selecting = torch.randn(BATCH, BATCH, dtype=dtype).softmax(1).double()
    leaves = [t.requires_grad_() for t in (input, selecting, weight, bias)]
    mixed = [torch.einsum("bn,n...->b...", leaves[1], t) for t in leaves[2:]]
    expected = case.one_by_one(leaves[0], *mixed)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, grad)
    ours = [t.detach().to(DEVICE, dtype).requires_grad_() for t in leaves]
    outputs = {
        "mixed weights": per_image(case.operation, ours[0], mix(ours[1], ours[2]), mix(ours[1], ours[3])),
        "mixed outputs": mix_outputs(case.operation, *ours),
        "recomputed": recomputed(case.operation, ours[0], WeightBox._generate, *ours[1:]),
    }
    for output in outputs.values():
        assert_close(output.detach().cpu().double(), expected.detach(), tolerance(dtype))
        gradients = torch.autograd.grad(output, ours, grad.to(DEVICE, dtype))
        for got, of_cpu in zip(gradients, wanted, strict=True):
            assert_close(got.cpu().double(), of_cpu, tolerance(dtype))

"""Whether tensors still hold the same numbers: every change is seen, however it is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hairify._support.comparing import Numbers

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
STARTS: dict[str, Callable[[], Tensor]] = {
    "matrix": lambda: torch.arange(1.0, 13).view(3, 4),
    "transposed": lambda: torch.arange(1.0, 13).view(4, 3).T,
    "part of another": lambda: torch.arange(1.0, 25).view(4, 6)[1:, 2:],
    "scalar": lambda: torch.ones(()),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_each_number_counts(start: str, dtype: torch.dtype) -> None:
    tensor = STARTS[start]().to(dtype)
    numbers = Numbers([tensor])
    assert numbers.are_still_held([tensor])
    for place in range(tensor.numel()):
        index = torch.unravel_index(torch.tensor(place), tensor.shape) if tensor.ndim else ()
        before = tensor[index].clone()
        tensor.data[index] = 0
        assert not numbers.are_still_held([tensor])
        tensor.data[index] = before
        assert numbers.are_still_held([tensor])


def test_other_tensors_shapes_and_numbers_of_them() -> None:
    a, b, empty = nn.Parameter(torch.ones(2, 3)), torch.zeros(4), torch.empty(0)
    numbers = Numbers([a, b, empty])
    assert numbers.are_still_held([a, b, empty])
    assert not numbers.are_still_held([a, b])
    assert not numbers.are_still_held([a, b, empty, empty])
    assert not numbers.are_still_held([b, a, empty])
    assert not numbers.are_still_held([a.detach(), b, empty])  # another one, which may have come in its place
    a.data = a.data.view(3, 2)
    assert not numbers.are_still_held([a, b, empty])
    a.data = a.data.view(2, 3)
    assert numbers.are_still_held([a, b, empty])
    b.data = b.data.view(torch.int32)  # the same bits
    assert not numbers.are_still_held([a, b, empty])


def test_the_copy_is_its_own() -> None:
    tensor = torch.ones(3)
    numbers = Numbers([tensor])
    tensor.zero_()
    assert not numbers.are_still_held([tensor])
    assert not numbers.are_still_held([tensor])


def test_what_cannot_be_compared() -> None:
    plain = [torch.ones(2), nn.Parameter(torch.ones(2))]
    assert Numbers.can_be_compared(plain)
    for other in (
        torch.ones(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.ones(2).as_subclass(type("T", (Tensor,), {})),
    ):
        assert not Numbers.can_be_compared([*plain, other])

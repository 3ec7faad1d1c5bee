"""Fingerprints stand for values: equal where these are, different where a bit or a place is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hairify.planning._fingerprints import fingerprints

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def drawn(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 200, shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(rows=st.sampled_from([1, 2, 4]), length=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_equal_values_alone_have_equal_fingerprints(dtype: torch.dtype, rows: int, length: int, seed: int) -> None:
    x = drawn(dtype, rows, length, seed=seed)
    prints = fingerprints(x, rows)
    assert len(prints) == rows
    assert prints == fingerprints(x.clone(), rows)
    assert prints == tuple(fingerprints(row, 1)[0] for row in x.clone())  # whatever the others hold, wherever it lies
    assert prints == fingerprints(torch.stack([x, x], dim=-1)[..., 0], rows)  # however it lies in memory
    for place in {0, length // 2, length - 1}:
        other = x.clone()
        other[-1, place] = 1 if x[-1, place] == 0 else 0
        changed = fingerprints(other, rows)
        assert changed[:-1] == prints[:-1]
        assert changed[-1] != prints[-1]


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.bool], ids=str)
def test_the_order_counts(dtype: torch.dtype) -> None:
    x = torch.arange(1, 65).reshape(1, 64).to(dtype)
    x[0, 0] = 0
    swapped = [x[:, [*range(1, i + 1), 0, *range(i + 1, 64)]] for i in range(64)]
    assert len({fingerprints(one, 1) for one in swapped}) == 64


def test_views_that_are_not_carried_out_yet() -> None:
    x = torch.randn(2, 6, dtype=torch.complex64)
    assert x.conj().is_conj()
    assert fingerprints(x.conj(), 2) == fingerprints(x.conj().resolve_conj(), 2)
    assert fingerprints(x.conj().imag, 2) == fingerprints(-x.imag, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.to_sparse(),
        lambda x: x.to("meta"),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]),
    ],
    ids=["sparse", "meta", "quantised", "nested"],
)
def test_what_has_no_bits_to_look_at_has_no_fingerprint(make: Callable[[Tensor], Tensor]) -> None:
    assert fingerprints(make(torch.rand(2, 3)), 2) == ()


def test_what_a_transform_wraps_has_no_fingerprint() -> None:
    seen: list[tuple[int, ...]] = []

    def look(x: Tensor) -> Tensor:
        seen.append(fingerprints(x, 1))
        return x

    torch.func.vmap(look)(torch.rand(2, 3))
    assert seen == [()]


def test_what_cannot_be_compared_by_value() -> None:
    nan = torch.tensor([[1.0, torch.nan, torch.inf]])
    assert fingerprints(nan, 1) == fingerprints(nan.clone(), 1)
    assert len(set(fingerprints(torch.zeros(2, 0), 2))) == 1
    assert len(fingerprints(torch.tensor(3.0), 1)) == 1


def test_parts_of_several_rows() -> None:
    x = drawn(torch.float32, 6, 5)
    first, second = fingerprints(x, 2)
    assert (first,) == fingerprints(x[:3], 1)
    assert (second,) == fingerprints(x[3:], 1)

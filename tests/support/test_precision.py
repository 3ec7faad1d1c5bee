"""CUDA is exact within, and as it was after, whichever of PyTorch's settings were used for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from hairify._support import precision
from hairify._support.precision import exact_on_cuda


def state() -> list[object]:
    return [getattr(owner, name) for owner, name, _ in precision._cuda_settings()]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    settings = [(owner, name, getattr(owner, name)) for owner, name, _ in precision._cuda_settings()]
    yield
    for owner, name, value in settings:
        setattr(owner, name, value)


def high() -> None:
    torch.set_float32_matmul_precision("high")


def older() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def fast() -> None:
    torch.backends.cudnn.benchmark = True


def newer() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # now the older settings cannot be read


@pytest.mark.parametrize(
    "choose",
    [
        lambda: None,
        high,
        older,
        fast,
        pytest.param(
            newer, marks=pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch before 2.9")
        ),
    ],
)
def test_cuda_is_exact_within_and_as_it_was_after(choose: Callable[[], None]) -> None:
    choose()
    before = state()
    with contextlib.suppress(ZeroDivisionError), exact_on_cuda():
        assert state() == [exact for *_, exact in precision._cuda_settings()]
        raise ZeroDivisionError
    assert state() == before

"""TF32 is off within, and as it was after, whichever of PyTorch's settings were used for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from hairify._support import precision
from hairify._support.precision import without_tf32


def state() -> list[object]:
    return [getattr(owner, name) for owner, name, _ in precision._float32_settings()]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    settings = [(owner, name, getattr(owner, name)) for owner, name, _ in precision._float32_settings()]
    yield
    for owner, name, value in settings:
        setattr(owner, name, value)


def high() -> None:
    torch.set_float32_matmul_precision("high")


def older() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def newer() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # now the older settings cannot be read


@pytest.mark.parametrize(
    "choose",
    [
        lambda: None,
        high,
        older,
        pytest.param(
            newer, marks=pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch before 2.9")
        ),
    ],
)
def test_tf32_is_off_within_and_as_it_was_after(choose: Callable[[], None]) -> None:
    choose()
    before = state()
    with contextlib.suppress(ZeroDivisionError), without_tf32():
        assert state() == [full for *_, full in precision._float32_settings()]
        raise ZeroDivisionError
    assert state() == before

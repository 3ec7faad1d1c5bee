"""Set-up for the tests on a GPU: full precision, unless a test is of another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hairify._support.precision import without_tf32


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """By default convolutions on CUDA round float32 to TF32, which no tolerance for rounding covers."""
    with without_tf32():
        yield

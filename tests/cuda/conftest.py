"""Set-up for the tests on a GPU: exact results, unless a test is of another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hairify._support.precision import exact_on_cuda


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """By default convolutions on CUDA round float32 to TF32, which no tolerance for rounding covers."""
    with exact_on_cuda():
        yield

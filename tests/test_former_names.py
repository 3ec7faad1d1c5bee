"""Modules of version 0.1 that were moved."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("hairify.exporting", "hairify.sharing"),
        ("hairify.tiling", "hairify.restoring"),
        ("hairify.conditioning", "hairify.evaluation"),
    ],
)
def test_it_is_the_same_under_its_former_name(before: str, now: str) -> None:
    sys.modules.pop(before, None)
    with pytest.warns(DeprecationWarning, match=now):
        former = importlib.import_module(before)
    for name in former.__all__:
        assert getattr(former, name) is getattr(importlib.import_module(now), name)

"""Set-up for all tests: the same seeds for each, hypothesis profiles, one thread per xdist worker."""

from __future__ import annotations

import os
import random
import zlib

import numpy as np
import pytest
import torch
from hypothesis import settings

from hairify.nn import _boxes

settings.register_profile("default", derandomize=True, deadline=None)
settings.register_profile("ci", settings.get_profile("default"), print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already share the cores


def pytest_report_header() -> str:
    return f"HAIRIFY_FUZZ_SEED={os.environ.get('HAIRIFY_FUZZ_SEED', '0')}"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def made_when_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of several images are made when layers run, as those of large levels are, also in small networks."""
    monkeypatch.setattr(_boxes, "_SMALL_LEVEL", 0)


@pytest.fixture(autouse=True)
def in_every_second_test(request: pytest.FixtureRequest) -> None:
    """Made so in every second test, told by its name: all networks here are small, and the laws are of both ways."""
    if zlib.crc32(request.node.nodeid.encode()) % 2:
        request.getfixturevalue("made_when_layers_run")

"""The random numbers of a run: PyTorch's, numpy's and Python's own, for networks draw from any of them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from hairify._support.randomness import random_state, seed_device, set_random_state


def seed_all(seed: int, device: torch.device) -> None:
    """Seed PyTorch on the CPU and a run's device, numpy and Python.

    Other devices have other work, whose random numbers are none of the run's.

    Args:
        seed: from 0 to below 2⁶⁴.
        device: that of the run.
    """
    for one in {torch.device("cpu"), device}:
        seed_device(one, seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Within it, random numbers may be drawn, and seeds set; after it, the random state is as before."""
    states = {one: random_state(one) for one in {torch.device("cpu"), device}}
    others = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        for one, state in states.items():
            set_random_state(one, state)
        np.random.set_state(others[0])
        random.setstate(others[1])
